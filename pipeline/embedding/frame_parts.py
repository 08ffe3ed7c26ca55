"""Which frames of a corpus are embedded, and in which part file does each end up?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from marey.pipeline.data.events import Video
from marey.pipeline.data.source import Source

PART_FRAMES = 1024
"""Frames that one part file holds at most."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the result: frames [start, stop) of each of a few videos (or images)."""

    number: int
    pieces: tuple[tuple[int, int, int, int], ...]
    """(event, view, first frame, stop frame) at the chosen rate."""

    @property
    def frames(self) -> int:
        """How many frames it is of, those that cannot be read among them."""
        return sum(stop - start for _, _, start, stop in self.pieces)

    @property
    def name(self) -> str:
        """File name of the finished part."""
        return f"parts/part-{self.number:06d}.parquet"


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


def parts(source: Source, rate: float, size: int = PART_FRAMES) -> Iterator[Part]:
    """Cut a corpus into parts of at most `size` frames, in the source's order."""
    pieces: list[tuple[int, int, int, int]] = []
    room, number = size, 0
    for event in range(len(source)):
        for view, video in enumerate(source.event(event).videos):
            if not video.has_frames:
                continue
            start, count = 0, len(frame_numbers(video, rate))
            while start < count:
                stop = min(count, start + room)
                pieces.append((event, view, start, stop))
                room -= stop - start
                start = stop
                if room == 0:
                    yield Part(number, tuple(pieces))
                    pieces, room, number = [], size, number + 1
    if pieces:
        yield Part(number, tuple(pieces))
