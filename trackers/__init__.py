"""Boxes through frames; knows nothing of video files, Ray or training."""

from trackers.tracker import (
    Direction,
    Gate,
    Request,
    State,
    Track,
    Tracker,
    build,
    iou,
    missing,
    names,
    register,
)

__all__ = [
    "Direction",
    "Gate",
    "Request",
    "State",
    "Track",
    "Tracker",
    "build",
    "iou",
    "missing",
    "names",
    "register",
]

for _variant in (
    "mosse",
    "dcf-grey",
    "kcf-grey",
    "dcf-hog",
    "kcf-hog",
    "kcf-hog-scale",
    "dsst-hog",
    "strcf",
):
    register(_variant, "trackers.correlation", "build_correlation", variant=_variant)
register("median-flow", "trackers.flow", "MedianFlow")
register("affinity", "trackers.affinity", "AffinityTracker")
for _name in ("KCF", "CSRT", "MOSSE", "MedianFlow", "MIL"):
    register(f"opencv-{_name.lower()}", "trackers.opencv", "OpenCVTracker", name=_name)
