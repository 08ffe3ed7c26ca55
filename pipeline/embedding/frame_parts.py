"""Which frames of a corpus are embedded, and in which part file does each end up?"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.source import Reopened, Source, events_at, in_order
from marey.pipeline.runtime.storage import as_utf8, join

PART_FRAMES = 1024
"""Frames that one part file holds at most."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames [start, stop), at the chosen rate, of one view of an event."""

    event: Event
    view: int
    start: int
    stop: int
    location: str
    """Where the video or image lies, as results name it."""
    label: Any = None
    """Of the event, as its source has it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the result: some frames of each of a few videos (or images), with their rows."""

    number: int
    pieces: tuple[Piece, ...]
    labelled: bool = False
    """Whether its source has labels."""

    @property
    def frames(self) -> int:
        """How many frames it is of, those that cannot be read among them."""
        return sum(piece.stop - piece.start for piece in self.pieces)


def part_name(number: int) -> str:
    """File of a finished part, relative to the folder of embeddings."""
    return f"parts/part-{number:06d}.parquet"


def frame_numbers(video: Video, rate: float) -> np.ndarray:
    """The frames at which a video is embedded: int64, ascending, each once.

    rate: frames per second, 0 for every frame. At a constant rate, evenly spaced frames, at most
    all; else the frames that are shown at 0, 1 / rate, 2 / rate, ...
    """
    if rate <= 0:
        return np.arange(video.frames)
    if video.frame_times is not None:
        steps = np.arange(max(1, math.ceil(video.duration_s * rate - 1e-6))) / rate
        return np.unique(video.frame_times.numbers_at(steps))
    wanted = min(rate, video.fps)
    count = max(1, math.floor(video.frames / video.fps * wanted + 1e-6))
    numbers = np.floor(np.arange(count) * video.fps / wanted + 1e-6)
    return np.minimum(numbers, video.frames - 1).astype(np.int64)


def frame_count(video: Video, rate: float) -> int:
    """How many frames `frame_numbers` gives; 0 for a video without any."""
    if not video.has_frames:
        return 0
    if rate <= 0:
        return video.frames
    if video.frame_times is not None:
        return len(frame_numbers(video, rate))
    return max(1, math.floor(video.frames / video.fps * min(rate, video.fps) + 1e-6))


class FrameParts(Sequence[Part]):
    """A corpus cut into parts of `size` frames, in the source's order; the last may be smaller.

    A part has the rows of its videos; it is made when it is asked for, since a corpus has millions.
    Held are 16 bytes a video.
    """

    def __init__(self, source: Source, rate: float, size: int = PART_FRAMES) -> None:
        self._source, self._size = source, size
        events, views, counts = array("i"), array("i"), array("q")
        for number, event in enumerate(in_order(source)):
            for view, video in enumerate(event.videos):
                if count := frame_count(video, rate):
                    events.append(number)
                    views.append(view)
                    counts.append(count)
        self._events, self._views = np.array(events), np.array(views)
        self._ends = np.cumsum(np.array(counts, dtype=np.int64))

    @property
    def frames(self) -> int:
        """Frames of all parts."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def frames_of(self, number: int) -> int:
        """Frames of one part."""
        return min(self._size, self.frames - number * self._size)

    def __len__(self) -> int:
        return -(-self.frames // self._size)

    def __getitem__(self, number):  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(f"part {number} of {len(self)}")
        start = number * self._size
        stop = start + self.frames_of(number)
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        numbers, which = np.unique(self._events[first : last + 1], return_inverse=True)
        events = events_at(self._source, numbers)
        pieces = []
        for place in range(first, last + 1):
            begin = int(self._ends[place - 1]) if place else 0
            event, view = events[int(which[place - first])], int(self._views[place])
            pieces.append(
                Piece(
                    event,
                    view,
                    max(start, begin) - begin,
                    min(stop, int(self._ends[place])) - begin,
                    _location(self._source, event.videos[view]),
                    self._source.label_of(int(self._events[place]))
                    if self._source.labelled
                    else None,
                )
            )
        return Part(number, tuple(pieces), self._source.labelled)


def _location(source: Source, video: Video) -> str:
    """Where a video or image lies; `#` and its row for one in a table."""
    if not source.stills:
        return as_utf8(video.uri)
    if source.location.endswith(".parquet"):
        return f"{source.location}#{video.uri}"
    return as_utf8(join(source.location, video.uri))


class PartSupply:
    """Numbers of parts in, parts out: for the one process that knows the corpus."""

    def __init__(self, corpus: Reopened, rate: float, size: int) -> None:
        self._parts = FrameParts(corpus.source, rate, size)

    def __call__(self, number: int) -> Part:
        """One part with the rows of its videos."""
        return self._parts[number]
