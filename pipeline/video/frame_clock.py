"""Which frame of a video is shown when, without a table of all of them.

At a constant rate frame n is shown from n / fps on. Where the rate varies, the times are kept as a
line through few points: between two of them frames follow each other evenly. The line is never
farther from a frame's time than a quarter of the way to the frames beside it, so that the middle
between its values for n and n + 1 is shown by frame n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Knots = tuple[tuple[int, float], ...]
"""Points (frame number, seconds) of the line, the last one at the video's end."""

_SLACK = 0.25
"""Share of the distance to a neighbour by which the line may miss a frame's time."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameClock:
    """The times of a video's frames. numbers: int64 [K], times_s: float64 [K], both ascending."""

    numbers: np.ndarray
    times_s: np.ndarray

    @classmethod
    def of(cls, knots: Sequence[tuple[int, float]]) -> FrameClock:
        """The clock of the points that `knots_of` found."""
        numbers, times_s = zip(*knots, strict=True)
        return cls(np.array(numbers, dtype=np.int64), np.array(times_s, dtype=np.float64))

    @classmethod
    def even(cls, frames: int, fps: float) -> FrameClock:
        """The clock of a constant rate."""
        return cls(np.array([0, frames]), np.array([0.0, frames / fps]))

    def starts(self, numbers: np.ndarray) -> np.ndarray:
        """When each frame is first shown (to a quarter of a frame where the rate varies): float64,
        the shape of `numbers`."""
        return np.interp(numbers, self.numbers, self.times_s)

    def middles(self, numbers: np.ndarray) -> np.ndarray:
        """A time well within that of each frame: float64, the shape of `numbers`."""
        edges = (np.interp(n, self.numbers, self.times_s) for n in (numbers, numbers + 1))
        return sum(edges, np.zeros(np.shape(numbers))) / 2

    def numbers_at(self, times_s: np.ndarray) -> np.ndarray:
        """The frame shown at each time, near a change to a quarter of a frame: int64."""
        places = np.interp(times_s, self.times_s, self.numbers)
        return np.clip(np.floor(places + 1e-6), 0, self.numbers[-1] - 1).astype(np.int64)


def knots_of(times_s: np.ndarray, end_s: float) -> Knots:
    """The points of a video whose rate varies; none where it is constant.

    times_s: float64 [F], when each frame is shown, from 0. end_s: when the last one ends.
    """
    count = len(times_s)
    if count < 2 or end_s <= times_s[-1]:
        return ()
    times = np.append(times_s, end_s)
    gaps = np.diff(times)
    slack = _SLACK * np.minimum(np.append(gaps, gaps[-1]), np.append(gaps[0], gaps))
    if (np.abs(np.arange(count + 1) * (end_s / count) - times) <= slack).all():
        return ()
    knots = [(0, 0.0)]
    at, start, low, high = 0, 0.0, -np.inf, np.inf
    for n, (time_s, room) in enumerate(zip(times.tolist(), slack.tolist(), strict=True)):
        if n == 0:
            continue
        least, most = (time_s - room - start) / (n - at), (time_s + room - start) / (n - at)
        if max(low, least) > min(high, most):
            start += (low + high) / 2 * (n - 1 - at)
            at = n - 1
            knots.append((at, start))
            low, high = time_s - room - start, time_s + room - start
        else:
            low, high = max(low, least), min(high, most)
    return (*knots, (count, start + (low + high) / 2 * (count - at)))
