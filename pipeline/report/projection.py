"""Where embeddings lie on a plane: t-SNE of as many as it can take, the others beside them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

LANDMARKS = 3_000
"""Rows that t-SNE places; about ten seconds of one core."""
_NEAR = 4
"""Landmarks between which a further row is put."""
_CHUNK = 4_096


def project(
    features: NDArray[np.floating], landmarks: int = LANDMARKS
) -> tuple[NDArray[np.float64], str]:
    """Features [n, D] on a plane, float64 [n, 2], and the name of the method that put them there.

    t-SNE where there are enough rows for it, else the first two principal components. Of more than
    `landmarks` rows so many, drawn evenly, are placed by t-SNE, and each other row between its
    nearest ones in the embedding, the nearer the more. The same rows give the same map.
    """
    count, width = features.shape
    if count < 50 or width < 3:
        flat = PCA(n_components=min(2, width, count)).fit_transform(features.astype(np.float64))
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))), "PCA"
    chosen = np.arange(count)
    if count > landmarks:
        chosen = np.sort(np.random.default_rng(0).permutation(count)[:landmarks])
    reduced = features[chosen].astype(np.float64)
    if width > 50:
        reduced = PCA(n_components=min(50, len(chosen)), random_state=0).fit_transform(reduced)
    perplexity = min(30.0, len(chosen) / 4)
    # its threads spin while they wait, which takes minutes on a machine that is busy otherwise
    with threadpool_limits(1, user_api="openmp"):
        placed = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    points = np.asarray(placed, np.float64)
    method = f"t-SNE, perplexity {perplexity:.0f}"
    if len(chosen) == count:
        return points, method
    everywhere = _between(features, features[chosen], points)
    everywhere[chosen] = points
    return everywhere, f"{method}, of {len(chosen):,} frames; the others between their nearest"


def _between(
    features: NDArray[np.floating], landmarks: NDArray[np.floating], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Each row of `features` [n, D] on the plane of its nearest landmarks [m, D] at [m, 2]."""
    out = np.empty((len(features), 2))
    known = landmarks.astype(np.float32)
    squares = (known**2).sum(axis=1)
    for start in range(0, len(features), _CHUNK):
        rows = features[start : start + _CHUNK].astype(np.float32)
        distance = (rows**2).sum(axis=1)[:, None] - 2 * rows @ known.T + squares
        near = np.argpartition(distance, _NEAR, axis=1)[:, :_NEAR]
        far = np.sqrt(np.maximum(np.take_along_axis(distance, near, axis=1), 0))
        # of neighbours from different parts of the map, only the nearest part counts
        weight = np.exp(-3 * far / np.maximum(far.mean(axis=1, keepdims=True), 1e-12))
        home = np.take_along_axis(near, far.argmin(axis=1)[:, None], axis=1)[:, 0]
        apart = np.linalg.norm(points[near] - points[home][:, None], axis=2)
        weight = np.where(apart <= _reach(points), weight, 0.0)
        place = (points[near] * weight[..., None]).sum(axis=1)
        out[start : start + _CHUNK] = place / weight.sum(axis=1, keepdims=True)
    return out


def _reach(points: NDArray[np.float64]) -> float:
    """Landmarks farther apart than this on the map are not blended: a twentieth of its width."""
    return float(np.ptp(points, axis=0).max()) / 20
