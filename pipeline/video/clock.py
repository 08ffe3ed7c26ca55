"""When is each frame shown, if the times of its file repeat or step back?

A file's own times stand wherever they ascend. Frames that share one time (ticks too coarse for the
rate, durations of zero) would hide all but the last of them: the last keeps it, and the others are
spread over the frame time before it. Where the clock steps back, the times after it mean other
frames than the same times before: nothing from there on is read.
"""

from __future__ import annotations

import numpy as np

MOST_REORDERED = 16
"""H.264 and HEVC decode so many frames at most before one that is shown earlier."""

_LOOK_BACK = 128
"""Frames before the first that is out of order among which the step is looked for."""


def forward(pts: np.ndarray, key: np.ndarray, reorder: int | None) -> tuple[np.ndarray, int | None]:
    """Times in decode order that do not step back farther than reordered frames do.

    pts: int64 [F] ticks of the frames that are shown, in decode order. key: bool [F], where
    decoding can start: what is decoded before a keyframe is shown before it.
    reorder: so many frames at most are decoded before a frame and shown after it; None if unknown.
    Returns (int64 [F] ticks, the place in decode order from which on they are not to be believed,
    or None). Where frames are never reordered, and the clock steps back by less than the usual
    distance of two frames, the first frame after the step gets the time of the one before.
    """
    later = np.zeros(len(pts), dtype=np.int64)  # frames before each that are shown after it
    for lag in range(1, min(2 * MOST_REORDERED, len(pts) - 1) + 1):
        later[lag:] += pts[:-lag] > pts[lag:]
    most = MOST_REORDERED if reorder is None else reorder
    broken = later > max(most, 1)  # a single frame that is far too late is no clock's doing
    if np.count_nonzero(np.diff(broken.astype(np.int8)) > 0) > 3 + len(pts) // 50:
        most = MOST_REORDERED  # so often: what the stream says of itself is wrong
        broken = later > most
    highest = np.maximum.accumulate(pts) if len(pts) else pts
    if most == 0:
        distance = np.diff(pts, append=pts[-1:])
        usual = np.median(np.abs(distance[:-1])) if len(pts) > 1 else 0
        goes_on = np.abs(distance - usual) < usual / 2
        fall = -np.diff(pts, prepend=pts[:1])
        slight = (later == 1) & (fall > 0) & (fall < usual) & goes_on
        broken &= ~slight
        pts = np.where(slight, highest, pts)
    else:
        broken |= key & (later > 1)
    if not broken.any():
        return pts, None
    found = int(np.argmax(broken))
    # What is broken may come some frames after the step: it lies where most pairs of frames are
    # shown in the other order.
    start, stop = max(0, found - _LOOK_BACK), found + MOST_REORDERED
    near = pts[start:stop]
    wrong = np.triu(near[:, None] > near[None, :]).cumsum(axis=0)
    across = [int(wrong[n - 1, n:].sum()) for n in range(1, len(near))]
    return pts, start + 1 + int(np.argmax(across))


def distinct_times(ticks: np.ndarray, end: float) -> np.ndarray:
    """Times at which frames begin, ascending, from those that do not descend.

    ticks: float64 [F], not descending. end: when the last one stops being shown, after `ticks[-1]`.
    Times of an even rate that were rounded to ticks are that rate's. Else, of frames with one time,
    the last keeps it; those before are spread over what it leaves free of the usual distance of two
    frames. At the very start, where nothing is before, the first keeps it.
    """
    if len(ticks) < 2 or (np.diff(ticks) > 0).all():
        return ticks
    even = _even_times(ticks)
    if even is not None:
        return even
    times = ticks.copy()
    starts = np.flatnonzero(np.append(True, np.diff(ticks) > 0))
    stops = np.append(starts[1:], len(ticks))
    edges = np.append(ticks[starts], end)
    usual = float(np.median(np.diff(edges)))
    for n in np.flatnonzero(stops - starts > 1).tolist():
        start, stop = int(starts[n]), int(stops[n])
        count = stop - start
        free = edges[1] - edges[0] if n == 0 else edges[n] - times[start - 1]
        shift = np.arange(count) if n == 0 else np.arange(1 - count, 1)
        times[start:stop] += shift * min(free / count, usual)
    return times


def _even_times(ticks: np.ndarray) -> np.ndarray | None:
    """Times of the even rate that these ticks are roundings of, if they are of any."""
    count = len(ticks)
    mean = (ticks[-1] - ticks[0]) / (count - 1)
    if count < 8 or mean <= 0:
        return None
    number = np.arange(count)
    low, high = mean - 1 / (count - 1), mean + 1 / (count - 1)
    for _ in range(60):  # the spread of what is left is a convex function of the period
        first, second = low + (high - low) / 3, high - (high - low) / 3
        if np.ptp(ticks - first * number) < np.ptp(ticks - second * number):
            high = second
        else:
            low = first
    period = (low + high) / 2
    if period <= 0 or np.ptp(ticks - period * number) > 1 + 1e-6:
        return None
    return ticks[0] + period * number
