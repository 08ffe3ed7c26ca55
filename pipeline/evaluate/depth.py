"""How good is a depth map? The errors of Eigen et al. 2014, as KITTI tables report them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError

Crop = Literal["none", "garg", "eigen"]
CROPS: dict[str, tuple[float, float, float, float]] = {
    "none": (0.0, 1.0, 0.0, 1.0),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
"""Rows from, to and columns from, to that are scored, as shares of height and width."""


@dataclass(frozen=True, slots=True)
class DepthErrors:
    """Errors of one depth map, or means over several. Lower is better, but for the deltas."""

    abs_rel: float
    """mean |p - t| / t"""
    sq_rel: float
    """mean (p - t)^2 / t, in the unit of depth"""
    rmse: float
    """root of mean (p - t)^2, in the unit of depth"""
    rmse_log: float
    """root of mean (log p - log t)^2"""
    delta_1: float
    """share of pixels with max(p / t, t / p) < 1.25"""
    delta_2: float
    """the same below 1.25^2"""
    delta_3: float
    """the same below 1.25^3"""
    scale: float
    """median t / median p where the map was scaled by it, else 1"""


def depth_errors(
    predicted: NDArray[np.floating],
    truth: NDArray[np.floating],
    *,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    crop: Crop = "none",
    median_scaling: bool = False,
) -> DepthErrors | None:
    """Compare a depth map with the truth, both [H, W] in one unit; None if no pixel has a truth.

    A pixel counts where the truth is finite, above `min_depth` and below `max_depth`, and inside
    the crop; predictions are clamped to the same range, after scaling.
    median_scaling: multiply by median truth / median prediction first, for methods that know depth
        up to a factor only.
    Raises InputError when the shapes differ or a scored prediction is no positive number.
    """
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise InputError(
            f"a depth map and its truth must have one shape [H, W], got {predicted.shape} and "
            f"{truth.shape}; resize the prediction to the truth"
        )
    counted = np.isfinite(truth) & (truth > min_depth) & (truth < max_depth)
    counted &= _crop_mask(truth.shape, crop)
    if not counted.any():
        return None
    true = truth[counted].astype(np.float64)
    guess = predicted[counted].astype(np.float64)
    if not (np.isfinite(guess).all() and (guess > 0).all()):
        raise InputError("predicted depths must be positive and finite wherever the truth counts")
    scale = float(np.median(true) / np.median(guess)) if median_scaling else 1.0
    guess = np.clip(guess * scale, min_depth, max_depth)
    ratio = np.maximum(guess / true, true / guess)
    difference = guess - true
    return DepthErrors(
        abs_rel=float(np.mean(np.abs(difference) / true)),
        sq_rel=float(np.mean(difference**2 / true)),
        rmse=float(np.sqrt(np.mean(difference**2))),
        rmse_log=float(np.sqrt(np.mean(np.log(guess / true) ** 2))),
        delta_1=float(np.mean(ratio < 1.25)),
        delta_2=float(np.mean(ratio < 1.25**2)),
        delta_3=float(np.mean(ratio < 1.25**3)),
        scale=scale,
    )


def _crop_mask(shape: tuple[int, ...], crop: Crop) -> NDArray[np.bool_]:
    if crop not in CROPS:
        raise InputError(f"crop {crop!r} is none of {', '.join(CROPS)}")
    top, bottom, left, right = CROPS[crop]
    mask = np.zeros(shape, dtype=bool)
    height, width = shape
    mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return mask


@dataclass(frozen=True, slots=True)
class DepthSummary:
    """Errors over a set of images, each with equal weight."""

    mean: DepthErrors
    scale_spread: float
    """Standard deviation of the images' scales over their median: 0 for consistent scale."""
    images: int
    """Images that were scored."""
    without_truth: int
    """Images left out because no pixel had a truth."""


def summarize(errors: Sequence[DepthErrors | None]) -> DepthSummary:
    """Means over images. Raises InputError when none could be scored."""
    scored = [asdict(error) for error in errors if error is not None]
    if not scored:
        raise InputError(f"none of {len(errors)} images has a pixel with a true depth in range")
    mean = {name: float(np.mean([error[name] for error in scored])) for name in scored[0]}
    scales = np.array([error["scale"] for error in scored])
    return DepthSummary(
        mean=DepthErrors(**mean),
        scale_spread=float(np.std(scales / np.median(scales))),
        images=len(scored),
        without_truth=len(errors) - len(scored),
    )


def order_agreement(
    predicted: NDArray[np.floating],
    truth: NDArray[np.floating],
    *,
    ratio: float = 1.25,
    pairs: int = 4096,
    seed: int = 0,
) -> float:
    """Share of random pixel pairs, of depths more than `ratio` apart, that are in the right order.

    Chance, and a flat map, score 0.5 (ties count half). NaN when no pair is that far apart.
    """
    rng = np.random.default_rng(seed)
    first, second = rng.integers(truth.size, size=(2, pairs))
    true = truth.ravel()[first] / truth.ravel()[second]
    guess = predicted.ravel()[first] / predicted.ravel()[second]
    apart = np.maximum(true, 1 / true) > ratio
    if not apart.any():
        return float("nan")
    agree = np.sign(np.log(true[apart])) * np.sign(np.log(guess[apart]))
    return float(np.mean((agree + 1) / 2))
