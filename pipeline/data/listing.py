"""What may a corpus name beside files: which layouts list videos, or parts of videos, as rows?

A layout that is recognised at a location says which videos lie there, before one is opened.
Somebody adds a layout from outside this repository with `register_listing`; `marey index` then
makes an index of it as of a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from marey.pipeline.data.recognised import Register
from marey.pipeline.video.span import FrameSpan, Span


@dataclass(frozen=True, slots=True)
class Listed:
    """One row that a layout lists: a video, or a span of one, before it is opened.

    video_id: unique, and the same on every machine.
    uri: what is opened. Rows of one uri are parts of one file, which is scanned once for all.
    start_s, end_s: the part of the file, see `Span`; both None is the whole file, an `end_s` of
        None beside a start the file's end. in_frames: both are frame numbers.
    event: empty where the layout says nothing of it: `--views` does, or it is its own event.
    clock_offset_s, clock_rate: of the video's own time, which begins at the span's first frame.
    extra: what else the layout says of the row; anything that JSON can hold.
    error: why the row is not to be opened, if so: it is unreadable for that reason.
    """

    video_id: str
    uri: str
    bytes: int = 0
    start_s: float | None = None
    end_s: float | None = None
    in_frames: bool = False
    event: str = ""
    view: str = "0"
    label: str = ""
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    split: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def span(self) -> Span | FrameSpan | None:
        """The part of the file that was asked for; None for all of it."""
        if self.start_s is None and self.end_s is None:
            return None
        stop = float("inf") if self.end_s is None else self.end_s
        return (FrameSpan if self.in_frames else Span)(self.start_s or 0.0, stop)


def span_id(name: str, start: float | None, end: float | None, *, in_frames: bool = False) -> str:
    """The id of a part of a file: `path#12.400-18.900`, in frames `path#f310-472`, without an end
    `path#12.400-`; of the whole, its name."""
    if start is None and end is None:
        return name
    start, digits = start or 0.0, 0 if in_frames else 3
    stop = "" if end is None else f"{end:.{digits}f}"
    return f"{name}#{'f' if in_frames else ''}{start:.{digits}f}-{stop}"


@dataclass(frozen=True, slots=True)
class Listing:
    """A layout that lists videos."""

    name: str
    recognises: Callable[[str], bool]
    rows: Callable[[str], Iterable[Listed]]
    """The videos of such a location. Raises InputError saying what is wrong with it."""


LISTINGS: Register[Listing] = Register("listing")
"""The layouts that `marey index` knows; none of them is a folder of videos, a file or a pattern."""


def register_listing(
    name: str, recognises: Callable[[str], bool], rows: Callable[[str], Iterable[Listed]]
) -> None:
    """Make a layout known to `marey index`; the layouts registered last are asked first.

    Raises TypeError if another layout has this name.
    """
    LISTINGS.add(Listing(name, recognises, rows), rows.__module__)
