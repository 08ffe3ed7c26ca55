"""Boxes through frames; knows nothing of video files, Ray or training."""

from marey.trackers.tracker import (
    Direction,
    Gate,
    Request,
    State,
    Track,
    Tracker,
    build,
    find_tracker,
    iou,
    missing,
    names,
    register,
    register_tracker,
)

__all__ = [
    "Direction",
    "Gate",
    "Request",
    "State",
    "Track",
    "Tracker",
    "build",
    "find_tracker",
    "iou",
    "missing",
    "names",
    "register",
    "register_tracker",
]

for _variant in (
    "mosse",
    "dcf-grey",
    "kcf-grey",
    "dcf-hog",
    "kcf-hog",
    "kcf-hog-scale",
    "dsst-hog",
    "dcf-colour",
    "dcf-colour-scale",
    "staple",
    "strcf",
):
    register(_variant, "marey.trackers.correlation", "build_correlation", variant=_variant)
register("median-flow", "marey.trackers.flow", "MedianFlow")
register("affinity", "marey.trackers.affinity", "AffinityTracker")
for _name in ("KCF", "CSRT", "MOSSE", "MedianFlow", "MIL"):
    register(f"opencv-{_name.lower()}", "marey.trackers.opencv", "OpenCVTracker", name=_name)
