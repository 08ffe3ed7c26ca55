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
