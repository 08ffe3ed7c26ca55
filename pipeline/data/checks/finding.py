"""What can be wrong with the videos of an index, by name."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "unreadable": "nothing of it can be read",
    "damaged": "a part of it cannot be read (truncated, broken packets)",
    "too_short": "far shorter than the others",
    "frame_count": "another number of frames than its table says",
    "variable_rate": "frames are not evenly spaced in time",
    "frozen": "the picture stands still for a while: frames are repeated",
    "black": "shows black",
    "constant": "shows one even colour",
    "duplicate": "the same bytes as another video",
    "near_duplicate": "shows the same as another video",
    "split_leak": "the same video is in two splits",
    "view_lengths": "the views of an event differ in length",
    "view_offset": "the views of an event are offset in time against their clocks",
    "swapped_cameras": "cameras are swapped in this event",
}
"""Name of a fault -> what it means, in the order in which they are listed."""
KEPT = frozenset({"variable_rate"})
"""Faults that leave a video usable: marey reads each frame at its own time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one video.

    detail: what was measured. other: the video that it was compared with, if any. times_s: where in
    the video it shows.
    """

    kind: str
    video_id: str
    event: str
    detail: str
    other: str = ""
    times_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: one of {', '.join(KINDS)}")
