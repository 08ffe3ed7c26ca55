"""Linear probes: logistic regression and ridge regression on frozen features.

Features are standardised with the training set's statistics (an affine-free batch norm), the L2
penalty is chosen on validation videos and the model refitted once on training and validation.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from marey.configs.errors import InputError
from marey.pipeline.runtime.progress import each

PENALTIES: tuple[float, ...] = tuple(float(value) for value in np.logspace(-6, 5, 45))
"""L2 penalties of the mean loss: lambda in mean(loss) + lambda/2 |w|^2."""
_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-6
_SMALLEST_STD = 1e-6
Floats = NDArray[np.floating]


class Standardiser:
    """Zero mean and unit variance for each dimension, from the training features [n, D].

    Dimensions that hardly vary are dropped: standard deviation below 1e-6 of the largest, or below
    the rounding of their own values. Where none is left, as of collapsed embeddings, one of zeros
    stands for all: a probe can then say nothing but what is most frequent.
    """

    def __init__(self, features: Floats) -> None:
        values = features.astype(np.float64)
        deviation = values.std(axis=0)
        rounding = np.finfo(np.float32).eps * np.abs(values).max(axis=0)
        self._keep = deviation > np.maximum(_SMALLEST_STD * deviation.max(), rounding)
        self._mean = values.mean(axis=0)[self._keep]
        self._std = deviation[self._keep]

    def __call__(self, features: Floats) -> NDArray[np.float64]:
        """float64 [n, D'] with D' the dimensions kept, or [n, 1] of zeros."""
        if not self._keep.any():
            return np.zeros((len(features), 1))
        return (features[:, self._keep].astype(np.float64) - self._mean) / self._std


def _logistic(
    features: NDArray[np.float64], labels: NDArray[np.int64], penalty: float
) -> LogisticRegression:
    model = LogisticRegression(
        C=1 / (penalty * len(features)), max_iter=_MAX_ITERATIONS, tol=_TOLERANCE
    )
    with warnings.catch_warnings():
        # the weakest penalties of a separable problem have no finite optimum
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def linear_probe(
    train: tuple[Floats, NDArray[np.int64]],
    validation: tuple[Floats, NDArray[np.int64]],
    test: tuple[Floats, NDArray[np.int64]],
    *,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[dict[str, float], NDArray[np.float64], NDArray[np.int64]]:
    """Multinomial logistic regression (L-BFGS, at most 1,000 iterations, tolerance 1e-6).

    Each part is (features [n, D], labels [n]). Of penalties that are equally good on validation
    the strongest wins. Returns the figures, the class probabilities on test [n, C] and the C
    classes (labels) of its columns. Raises InputError when training holds fewer than two classes.
    """
    if len(np.unique(train[1])) < 2:
        raise InputError("a linear probe needs at least two classes in its training videos")
    scale = Standardiser(train[0])
    known, held_out = scale(train[0]), scale(validation[0])
    best_penalty, best_accuracy = penalties[0], -1.0
    for penalty in each(sorted(penalties, reverse=True), "linear probe", "penalties"):
        accuracy = _logistic(known, train[1], penalty).score(held_out, validation[1])
        if accuracy > best_accuracy:
            best_penalty, best_accuracy = penalty, float(accuracy)
    features = np.concatenate([train[0], validation[0]])
    labels = np.concatenate([train[1], validation[1]])
    scale = Standardiser(features)
    model = _logistic(scale(features), labels, best_penalty)
    chance = model.predict_proba(scale(test[0]))
    classes = model.classes_
    figures = classification_figures(chance, classes, test[1])
    figures |= {"penalty": float(best_penalty), "validation_accuracy": best_accuracy}
    return figures, chance, classes


def classification_figures(
    probability: NDArray[np.float64], classes: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Top-1, macro recall, calibration error (15 bins) and, from ten classes on, top-5.

    probability: float64 [n, C]; classes: the label of each column; labels: int64 [n].
    """
    predicted = classes[probability.argmax(axis=1)]
    hit = predicted == labels
    recall = [hit[labels == label].mean() for label in np.unique(labels)]
    figures = {
        "accuracy": float(hit.mean()),
        "accuracy_macro": float(np.mean(recall)),
        "calibration_error": calibration_error(probability.max(axis=1), hit),
    }
    if len(classes) >= 10:
        top5 = classes[np.argsort(-probability, axis=1, kind="stable")[:, :5]]
        figures["accuracy_top5"] = float((top5 == labels[:, None]).any(axis=1).mean())
    return figures


def calibration_error(
    confidence: NDArray[np.float64], hit: NDArray[np.bool_], bins: int = 15
) -> float:
    """Expected calibration error: |confidence - accuracy| over equal bins, weighted by count."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    gap = np.bincount(index, weights=confidence - hit, minlength=bins)
    return float(np.abs(gap[count > 0]).sum() / len(confidence))


def ridge_probe(
    train: tuple[Floats, Floats],
    validation: tuple[Floats, Floats],
    test: tuple[Floats, Floats],
    *,
    penalties: Sequence[float] = PENALTIES,
) -> dict[str, float]:
    """Ridge regression of targets [n, K]; R2 on test, for each target and their mean.

    R2 is 0 for always answering the test mean and can be negative. Targets that do not vary in
    test are left out of the mean and counted. Raises InputError when none varies in test, or none
    in validation, which then cannot choose a penalty.
    """
    if np.isnan(_r2(validation[1].astype(np.float64), validation[1])).all():
        raise InputError("no regression target varies in the validation videos")
    best_penalty, best_score = penalties[0], -np.inf
    fit = _RidgePath(*train)
    for penalty in sorted(penalties, reverse=True):
        score = float(np.nanmean(_r2(fit.predict(validation[0], penalty), validation[1])))
        if score > best_score:
            best_penalty, best_score = penalty, score
    both = tuple(np.concatenate(pair) for pair in zip(train, validation, strict=True))
    scores = _r2(_RidgePath(both[0], both[1]).predict(test[0], best_penalty), test[1])
    if np.isnan(scores).all():
        raise InputError("no regression target varies in the test videos")
    figures = {"r2": float(np.nanmean(scores)), "penalty": float(best_penalty)}
    figures["constant_targets"] = int(np.isnan(scores).sum())
    if len(scores) > 1:
        figures |= {f"r2_{number}": float(score) for number, score in enumerate(scores)}
    return figures


class _RidgePath:
    """Ridge solutions for every penalty from one singular value decomposition."""

    def __init__(self, features: Floats, targets: Floats) -> None:
        self._scale = Standardiser(features)
        self._mean = targets.mean(axis=0, dtype=np.float64)
        values = self._scale(features)
        self._rows = len(values)
        left, self._sigma, self._right = np.linalg.svd(values, full_matrices=False)
        self._projected = left.T @ (targets - self._mean)

    def predict(self, features: Floats, penalty: float) -> NDArray[np.float64]:
        """Targets [n, K] for features [n, D] under `penalty` of the mean squared error."""
        shrink = self._sigma / (self._sigma**2 + penalty * self._rows)
        weights = self._right.T @ (shrink[:, None] * self._projected)
        return self._scale(features) @ weights + self._mean


def _r2(predicted: NDArray[np.float64], target: Floats) -> NDArray[np.float64]:
    """R2 of each column, NaN where the target is constant."""
    spread = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    error = ((target - predicted) ** 2).sum(axis=0)
    return np.where(spread > 1e-12, 1 - error / np.where(spread > 1e-12, spread, 1), np.nan)
