"""Which labels a run may use, and how often it visits what has one (S4L)."""

from __future__ import annotations

import numpy as np


def label_is_kept(number: np.ndarray, share: float) -> np.ndarray:
    """Which events keep their labels, by their place in the source alone: bool [E].

    number: int64 [E]. Multiples of the golden ratio fill the unit interval evenly, whatever the
    step between places, so that each class keeps nearly its share however the table is sorted, and
    the labels of a smaller share are among those of a larger one.
    """
    golden = 2_654_435_769  # 2^32 / 1.618...
    return (number.astype(np.int64) * golden % 2**32) / 2**32 < share


def visits(labelled: np.ndarray, counts: np.ndarray, part: float) -> tuple[np.ndarray, np.ndarray]:
    """Whom an epoch visits so that `part` of its samples have a label, none more rarely than once.

    labelled: bool [E]; counts: int64 [E], samples of each event in one visit.
    Returns (event, visit), int64 [V] each: the position in `labelled`, and how often that event
    has been visited before. Labelled and other events lie evenly among each other, since stills
    are mixed with their neighbours only.
    """
    with_label, without = int(counts[labelled].sum()), int(counts[~labelled].sum())
    times = 1
    if with_label and without:
        times = max(1, round(part / (1 - part) * without / with_label))
    known, others = np.flatnonzero(labelled), np.flatnonzero(~labelled)
    event = np.concatenate([np.tile(known, times), others])
    visit = np.concatenate([np.repeat(np.arange(times), len(known)), np.zeros_like(others)])
    place = [(np.arange(n) + 0.5) / max(1, n) for n in (times * len(known), len(others))]
    order = np.concatenate(place).argsort(kind="stable")
    return event[order], visit[order]
