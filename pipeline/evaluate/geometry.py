"""How do the vectors fill their space? Alignment, uniformity, effective rank, signs of collapse.

Wang and Isola, ICML 2020, arXiv 2005.10242; RankMe: Garrido et al., ICML 2023, arXiv 2210.02885.
Sums run in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import InputError
from pipeline.evaluate.knn import unit_rows

_CHUNK = 1024


def align(first: NDArray[np.floating], second: NDArray[np.floating], alpha: float = 2.0) -> float:
    """Mean |u - u'|^alpha over positive pairs of unit vectors, rows of two [n, D] arrays."""
    gap = unit_rows(first).astype(np.float64) - unit_rows(second)
    return float((np.linalg.norm(gap, axis=1) ** alpha).mean())


def uniformity(features: NDArray[np.floating], t: float = 2.0) -> float:
    """log of the mean of exp(-t |u_i - u_j|^2) over pairs i < j; 0 for a constant.

    For the uniform distribution on the sphere with t = 2: -2.08 in 3, -3.94 in 128 dimensions.
    """
    unit = unit_rows(features).astype(np.float64)
    if len(unit) < 2:
        raise InputError("uniformity needs at least two frames")
    total = 0.0
    for start in range(0, len(unit), _CHUNK):
        rows = unit[start : start + _CHUNK]
        # exponents are in [-4 t, 0]: no overflow to guard against
        kernel = np.exp(-2 * t * np.maximum(1 - rows @ unit[start:].T, 0))
        total += float(np.triu(kernel, 1).sum())
    pairs = len(unit) * (len(unit) - 1) / 2
    return float(np.log(total / pairs))


def rankme(features: NDArray[np.floating], *, centred: bool = False) -> float:
    """Effective rank: exp of the entropy of the singular values' shares, in [1, D].

    Biased low when n is not far above D: compare only equal n. `centred` removes the mean first.
    """
    values = features.astype(np.float64)
    if centred:
        values = values - values.mean(axis=0)
    sigma = np.linalg.svd(values, compute_uv=False)
    if sigma.sum() <= 1e-12 * max(1.0, float(np.abs(features).max())) * np.sqrt(features.size):
        return 1.0
    share = sigma / sigma.sum()
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def participation_ratio(features: NDArray[np.floating]) -> float:
    """(sum lambda)^2 / sum lambda^2 of the covariance's eigenvalues."""
    values = features.astype(np.float64)
    power = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
    return float(power.sum() ** 2 / max((power**2).sum(), 1e-300)) if power.any() else 0.0


def diagnose(features: NDArray[np.floating]) -> dict[str, Any]:
    """Signs of collapse in features [n, D] of frames from different shots, and which alarm.

    normalised_std: sqrt(D) * mean over dimensions of the std of unit vectors; healthy near 1.
    mean_cosine: of different frames. rank_share: RankMe / min(n, D). dead_units: share of
    dimensions with less than 1e-6 of the mean variance. `alarms` names those out of bounds:
    collapse (< 0.2), cone (> 0.9), dimensional_collapse (< 0.05), dead_units (> 0.2).
    """
    count, width = features.shape
    if count < 2:
        raise InputError("collapse diagnostics need at least two frames")
    unit = unit_rows(features).astype(np.float64)
    variance = features.astype(np.float64).var(axis=0)
    normalised_std = float(np.sqrt(width) * unit.std(axis=0).mean())
    squares = float((unit**2).sum())
    mean_cosine = float((np.square(unit.sum(axis=0)).sum() - squares) / (count * (count - 1)))
    rank = rankme(features)
    # a constant has rounding noise for a variance: measure against the scale of the values
    floor = 1e-12 * float(np.square(features.astype(np.float64)).mean())
    dead = float((variance <= max(1e-6 * variance.mean(), floor)).mean())
    checks = {
        "collapse": normalised_std < 0.2,
        "cone": mean_cosine > 0.9,
        "dimensional_collapse": rank / min(count, width) < 0.05,
        "dead_units": dead > 0.2,
    }
    return {
        "normalised_std": normalised_std,
        "mean_cosine": mean_cosine,
        "rankme": rank,
        "rankme_centred": rankme(features, centred=True),
        "rank_share": rank / min(count, width),
        "participation_ratio": participation_ratio(features),
        "dead_units": dead,
        "uniformity": uniformity(features),
        "alarms": [name for name, raised in checks.items() if raised],
    }
