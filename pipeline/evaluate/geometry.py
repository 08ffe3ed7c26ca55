"""How embeddings fill their space: alignment, uniformity, effective rank, signs of collapse.

Wang and Isola, ICML 2020, arXiv 2005.10242; RankMe: Garrido et al., ICML 2023, arXiv 2210.02885;
LiDAR: Thilak et al., ICLR 2024, arXiv 2312.04000. Sums run in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.pipeline.evaluate.knn import unit_rows

_CHUNK = 1024


def align(first: NDArray[np.floating], second: NDArray[np.floating], alpha: float = 2.0) -> float:
    """Mean |u - u'|^alpha over positive pairs of unit vectors, rows of two [n, D] arrays."""
    gap = unit_rows(first).astype(np.float64) - unit_rows(second)
    return float((np.linalg.norm(gap, axis=1) ** alpha).mean())


def uniformity(
    features: NDArray[np.floating], shot: NDArray[np.object_] | None = None, t: float = 2.0
) -> float:
    """log of the mean of exp(-t |u_i - u_j|^2) over pairs i < j of different shots; 0 where all
    vectors are equal, also where all are zero. Without `shot` [n], or where all frames are of one,
    over all pairs.

    For the uniform distribution on the sphere with t = 2: -2.08 in 3, -3.94 in 128 dimensions.
    """
    unit = unit_rows(features).astype(np.float64)
    if len(unit) < 2:
        raise InputError("uniformity needs at least two frames")
    names = _shot_numbers(shot, len(unit))
    if not names.any():
        names = np.arange(len(unit))
    total, pairs = 0.0, 0
    length = (unit * unit).sum(axis=1)
    for start in range(0, len(unit), _CHUNK):
        rows = slice(start, start + _CHUNK)
        # vectors of zeros have no length 1: their distance is not 2 - 2 cos
        squared = length[rows, None] + length[None, start:] - 2 * unit[rows] @ unit[start:].T
        # exponents are in [-4 t, 0]: no overflow to guard against
        kernel = np.exp(-t * np.maximum(squared, 0))
        apart = np.triu(names[rows, None] != names[None, start:], 1)
        total += float(kernel[apart].sum())
        pairs += int(apart.sum())
    return float(np.log(total / pairs))


def _shot_numbers(shot: NDArray[np.object_] | None, count: int) -> NDArray[np.int64]:
    """The shot of each frame by number, from 0; each frame its own where none is known."""
    return np.arange(count) if shot is None else np.unique(shot, return_inverse=True)[1]


def pairs_in_time(
    video: NDArray[np.object_],
    time_s: NDArray[np.floating],
    apart_s: float = 1.0,
    tolerance_s: float = 0.05,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (first, second) of one video, `apart_s` apart in time, give or take the tolerance.

    video [n], time_s [n], sorted by video and then by time. Each row is first at most once.
    """
    starts = np.flatnonzero(np.append(True, video[1:] != video[:-1]))
    first, second = [], []
    for start, stop in zip(starts, [*starts[1:], len(video)], strict=True):
        times = time_s[start:stop]
        wanted = times + apart_s
        after = np.searchsorted(times, wanted).clip(1, max(1, len(times) - 1))
        if len(times) < 2:
            continue
        before = after - 1
        nearest = np.where(wanted - times[before] < times[after] - wanted, before, after)
        good = np.abs(times[nearest] - wanted) <= tolerance_s
        first.append(start + np.flatnonzero(good))
        second.append(start + nearest[good])
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *first]), np.concatenate([empty, *second])


def singular_values(features: NDArray[np.floating], *, centred: bool) -> NDArray[np.float64]:
    """Singular values of features [n, D], largest first; those of rounding alone are zero.

    What is rounding depends on the size of the values: that of float32 for features in float32.
    """
    values = features.astype(np.float64)
    size = float(np.linalg.norm(values))
    if centred:
        values = values - values.mean(axis=0)
    sigma = np.linalg.svd(values, compute_uv=False)
    # the mean of n equal numbers is off by some of their last bits
    return np.where(sigma > ROUNDING * size, sigma, 0.0)


ROUNDING = 1e-9
"""Share of the features' Frobenius norm below which a singular value is rounding."""


def rankme(features: NDArray[np.floating], *, centred: bool = False) -> float:
    """Effective rank: exp of the entropy of the singular values' shares, in [1, D].

    1 for a constant; the same for features of any scale. Biased low when n is not far above D:
    compare only equal n. `centred` removes the mean first.
    """
    sigma = singular_values(features, centred=centred)
    if not sigma.any():
        return 1.0
    share = sigma / sigma.sum()
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def participation_ratio(features: NDArray[np.floating]) -> float:
    """(sum lambda)^2 / sum lambda^2 of the covariance's eigenvalues; 0 for a constant."""
    sigma = singular_values(features, centred=True)
    if not sigma.any():
        return 0.0
    power = (sigma / sigma[0]) ** 2
    return float(power.sum() ** 2 / (power**2).sum())


def spectrum_decay(features: NDArray[np.floating]) -> float | None:
    """alpha of lambda_i ~ i^-alpha, fitted over ranks 5 % to 50 % of D of the covariance.

    None where fewer than three of those eigenvalues are above rounding.
    """
    power = singular_values(features, centred=True) ** 2
    width = features.shape[1]
    rank = np.arange(1, len(power) + 1)
    used = (rank >= max(1, 0.05 * width)) & (rank <= 0.5 * width)
    used &= (power > 1e-12 * power.max()) & (power > 0)
    if used.sum() < 3:
        return None
    return float(-np.polyfit(np.log(rank[used]), np.log(power[used]), 1)[0])


def lidar(features: NDArray[np.floating], *, ridge: float = 1e-4) -> float:
    """Effective rank of the variation between frames relative to that within their copies.

    features: [n, q, D], q >= 2 augmented copies of n frames. With S_b the covariance of the frames'
    means and S_w that of copies around them (+ `ridge` I), the exponential of the entropy of the
    eigenvalues' shares of S_w^-1/2 S_b S_w^-1/2. Between 1 and min(n - 1, D); scale matters through
    `ridge` only.
    """
    count, copies, width = features.shape
    if count < 2 or copies < 2:
        raise InputError(f"LiDAR needs two frames and two copies of each, got {count} and {copies}")
    values = features.astype(np.float64)
    means = values.mean(axis=1)
    centred = means - means.mean(axis=0)
    residual = (values - means[:, None]).reshape(-1, width)
    between = centred.T @ centred / (count - 1)
    within = residual.T @ residual / (count * (copies - 1)) + ridge * np.eye(width)
    size, turn = np.linalg.eigh(within)
    whitener = turn / np.sqrt(size)
    eigenvalues = np.linalg.eigvalsh(whitener.T @ between @ whitener).clip(min=0)
    if eigenvalues.sum() <= 1e-12:
        return 1.0
    share = eigenvalues / eigenvalues.sum()
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


LIMITS = {
    "collapse": ("normalised_std", "below", 0.2),
    "cone": ("mean_cosine", "above", 0.9),
    "dimensional_collapse": ("rank_share", "below", 0.05),
    "dead_units": ("dead_units", "above", 0.2),
}
"""Alarm -> the sign that it watches, and the bound past which it rings."""


def collapse_signs(
    features: NDArray[np.floating], shot: NDArray[np.object_] | None = None
) -> dict[str, float]:
    """Signs of collapse in features [n, D], numbers only.

    normalised_std: sqrt(D) * mean over dimensions of the std of unit vectors; healthy near 1.
    mean_cosine: of frames of different shots (`shot` [n], by default each frame is its own; NaN
    where there is one shot). rankme, and rank_share: (RankMe - 1) / (min(n, D) - 1), so 0 where all
    vectors lie along one direction. dead_units: share of dimensions with less than 1e-6 of the mean
    variance.
    """
    count, width = features.shape
    if count < 2:
        raise InputError("collapse diagnostics need at least two frames")
    unit = unit_rows(features).astype(np.float64)
    names = _shot_numbers(shot, count)
    sums = np.zeros((int(names.max()) + 1, width))
    np.add.at(sums, names, unit)
    pairs = count**2 - int((np.bincount(names) ** 2).sum())
    cosine = np.square(unit.sum(axis=0)).sum() - np.square(sums).sum()
    variance = features.astype(np.float64).var(axis=0)
    rank = rankme(features)
    # a constant has rounding noise for a variance: measure against the scale of the values
    floor = 1e-12 * float(np.square(features.astype(np.float64)).mean())
    return {
        "normalised_std": float(np.sqrt(width) * unit.std(axis=0).mean()),
        "mean_cosine": float(cosine / pairs) if pairs else float("nan"),
        "rankme": rank,
        "rank_share": (rank - 1) / (most - 1) if (most := min(count, width)) > 1 else 1.0,
        "dead_units": float((variance <= max(1e-6 * variance.mean(), floor)).mean()),
    }


def alarms(signs: dict[str, float]) -> list[str]:
    """Names of the alarms that ring for what `collapse_signs` gives; NaN rings none."""
    return [
        name
        for name, (sign, side, bound) in LIMITS.items()
        if (signs[sign] < bound if side == "below" else signs[sign] > bound)
    ]


def diagnose(
    features: NDArray[np.floating], shot: NDArray[np.object_] | None = None
) -> dict[str, Any]:
    """All of that for features [n, D] of frames, and which alarms ring.

    shot: [n], what each frame is of: pairs of one do not count; by default each is its own.
    `alarms` names those of `LIMITS` that are out of bounds.
    """
    signs = collapse_signs(features, shot)
    return {
        **signs,
        "rankme_centred": rankme(features, centred=True),
        "participation_ratio": participation_ratio(features),
        "spectrum_decay": spectrum_decay(features),
        "uniformity": uniformity(features, shot),
        "alarms": alarms(signs),
    }
