"""A part of a file that is a video of its own."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """The frames that begin to be shown within [start_s, end_s) of a file.

    Both are seconds from the file's first frame shown; times within the span count from its own
    first frame. `end_s` may be infinite: to the file's end.
    """

    start_s: float
    end_s: float


class FrameSpan(NamedTuple):
    """Frames [start, stop) of a file, counted from 0 in the order in which they are shown.

    `stop` may be infinite: to the file's end.
    """

    start: float
    stop: float
