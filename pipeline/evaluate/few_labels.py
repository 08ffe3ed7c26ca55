"""Subsets of labelled videos: nested, with every class, drawn by seed.

Whole videos (events, or images) are chosen, never single frames: frames of one video would count
as many labels where somebody gave one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import SettingError


def few_rows(
    labels: NDArray[np.int64],
    group: NDArray[np.object_],
    *,
    share: float = 1.0,
    shots: int = 0,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Rows int64 [m] of the chosen groups: all frames of each.

    labels: class of each row [n]; group: its video [n]. Of the groups that hold a class,
    ceil(share * number), or `shots` of them where that is set, are chosen in an order that the seed
    draws. A smaller choice of the same seed is therefore inside a larger one, and every class has
    a group. Raises SettingError for a share outside (0, 1], or with both share and shots.
    """
    if not 0 < share <= 1:
        raise SettingError(f"labelled={share} is out of range: more than 0, at most 1")
    if shots < 0 or (shots and share < 1):
        raise SettingError(f"shots={shots} with labelled={share}: give one of them, shots >= 1")
    names = group.astype(str)
    order = np.random.default_rng(seed).permutation(np.unique(names))
    chosen: set[str] = set()
    for label in np.unique(labels):
        own = set(names[labels == label].tolist())
        # 0.1 * 30 is 3.0000000000000004
        count = min(shots, len(own)) if shots else math.ceil(share * len(own) - 1e-9)
        chosen.update([name for name in order if name in own][: max(1, count)])
    return np.flatnonzero(np.isin(names, list(chosen)))


def over_draws(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each number over the draws; scores also get their standard deviation.

    Figures that are no numbers (intervals) are left out: they speak of one draw.
    """
    result: dict[str, Any] = {}
    for name in figures[0]:
        values = [one[name] for one in figures if isinstance(one.get(name), int | float)]
        if len(values) != len(figures):
            continue
        same = all(value == values[0] for value in values)
        result[name] = values[0] if same else float(np.mean(values))
        if name.startswith(("accuracy", "r2")) and not name.endswith("chance"):
            result[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return result | {"draws": len(figures)}
