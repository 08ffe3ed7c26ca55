"""Confidence intervals of means over frames: bootstrap over videos, never over frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def video_interval(
    values: NDArray[np.floating],
    video: NDArray[np.object_],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` [n] under resampling of whole videos.

    For a comparison, pass the difference of two models' values on the same frames: the videos are
    then redrawn for both at once (a paired bootstrap).
    """
    _, group = np.unique(video.astype(str), return_inverse=True)
    total = np.bincount(group, weights=values.astype(np.float64))
    count = np.bincount(group).astype(np.float64)
    draws = np.random.default_rng(seed).integers(len(total), size=(resamples, len(total)))
    means = total[draws].sum(axis=1) / count[draws].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def split_by_group(
    group: NDArray[np.object_], shares: tuple[float, ...], seed: int
) -> list[NDArray[np.int64]]:
    """Rows of disjoint parts, whole groups only; part i gets about `shares[i]` of the groups.

    Every part gets at least one group, the last one what is left. Raises ValueError when there
    are fewer groups than parts.
    """
    names = np.unique(group.astype(str))
    if len(names) < len(shares):
        raise ValueError(f"{len(names)} groups cannot make {len(shares)} parts")
    shuffled = np.random.default_rng(seed).permutation(names)
    ends, begin = [], 0
    for part, share in enumerate(shares):
        left = len(shares) - part - 1
        size = max(1, round(share * len(names)))
        begin = min(begin + size, len(names) - left)
        ends.append(begin)
    ends[-1] = len(names)
    parts = np.split(shuffled, ends[:-1])
    return [np.flatnonzero(np.isin(group.astype(str), part)) for part in parts]
