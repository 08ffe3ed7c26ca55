"""Weighted k-nearest-neighbour classification.

InstDisc (Wu, Xiong, Yu, Lin, CVPR 2018, arXiv 1805.01978, section 3.4): cosine similarity, weights
exp(s / tau). A query never sees the gallery frames of its own video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError, SettingError

_CHUNK = 32 * 1024 * 1024
"""Similarities held at once."""


def unit_rows(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """L2-normalised rows, float32 [n, D]; rows of zeros stay zero."""
    values = features.astype(np.float64)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(norm > 0, norm, 1)).astype(np.float32)


def top_k(similarity: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Columns of the k largest values of each row, int64 [n, k], largest first.

    Equal values are taken by lowest column, so that the result does not depend on the machine.
    """
    rows, columns = similarity.shape
    k = min(k, columns)
    if k == columns:
        return np.argsort(-similarity, axis=1, kind="stable")
    threshold = np.partition(similarity, columns - k, axis=1)[:, columns - k]
    chosen = similarity > threshold[:, None]
    room = k - chosen.sum(axis=1)
    tied = similarity == threshold[:, None]
    chosen |= tied & (np.cumsum(tied, axis=1) <= room[:, None])
    index = np.nonzero(chosen)[1].reshape(rows, k)
    order = np.argsort(-np.take_along_axis(similarity, index, axis=1), axis=1, kind="stable")
    return np.take_along_axis(index, order, axis=1)


@dataclass(frozen=True, slots=True)
class Gallery:
    """What queries are compared with: unit `features` [n, D], `labels` int [n] and `group` [n].

    `group` says from which video a row comes; None where rows are independent images that the
    queries do not share.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    group: NDArray[np.object_] | None = None


def knn_scores(
    query: NDArray[np.floating],
    gallery: Gallery,
    *,
    k: int,
    tau: float,
    num_classes: int,
    group: NDArray[np.object_] | None = None,
    balanced: bool = False,
) -> NDArray[np.float64]:
    """Each class's share of the neighbours' weight, float64 [n, num_classes].

    `group` is the queries' video: gallery rows of the same video are masked before the k nearest
    are chosen. `balanced` divides each class's weight by its count in the gallery. Rows are zero
    where a query has no gallery left. Raises SettingError for k < 1 or tau <= 0.
    """
    if k < 1 or tau <= 0:
        raise SettingError(f"kNN needs k >= 1 and tau > 0, got k={k} and tau={tau}")
    if not len(gallery.features):
        raise InputError("the kNN gallery is empty")
    unit, target = unit_rows(query), unit_rows(gallery.features)
    count = np.bincount(gallery.labels, minlength=num_classes)
    scale = np.where(count > 0, 1 / np.maximum(count, 1), 0) if balanced else np.ones(num_classes)
    scores = np.zeros((len(unit), num_classes))
    own, other = None, None
    if group is not None and gallery.group is not None:
        _, number = np.unique(np.concatenate([group, gallery.group]), return_inverse=True)
        own, other = number[: len(group)], number[len(group) :]
    step = max(1, _CHUNK // len(target))
    for start in range(0, len(unit), step):
        rows = slice(start, start + step)
        similarity = unit[rows] @ target.T
        if own is not None and other is not None:
            similarity[own[rows, None] == other[None]] = -np.inf
        index = top_k(similarity, k)
        near = np.take_along_axis(similarity, index, axis=1).astype(np.float64)
        best = near[:, :1]
        weight = np.exp((near - np.where(np.isfinite(best), best, 0)) / tau)
        part = scores[rows]
        for rank in range(index.shape[1]):
            np.add.at(part, (np.arange(len(part)), gallery.labels[index[:, rank]]), weight[:, rank])
        part *= scale
        total = part.sum(axis=1, keepdims=True)
        part /= np.where(total > 0, total, 1)
    return scores


def knn_accuracy(
    scores: NDArray[np.float64], labels: NDArray[np.int64], k: int
) -> dict[str, float]:
    """Top-1 (micro and macro over the classes that occur) and, from k = 5 on, top-5 accuracy.

    Queries without any neighbour (rows of zeros) are left out and counted. A class that no
    neighbour has is never among the five.
    """
    usable = scores.sum(axis=1) > 0
    if not usable.any():
        raise InputError("no query has a neighbour in another video: one video is not enough")
    scores, labels = scores[usable], labels[usable]
    hit = scores.argmax(axis=1) == labels
    recall = [hit[labels == label].mean() for label in np.unique(labels)]
    result = {
        "accuracy": float(hit.mean()),
        "accuracy_macro": float(np.mean(recall)),
        "queries_without_neighbour": int((~usable).sum()),
    }
    if k >= 5 and scores.shape[1] > 5:
        near = top_k(scores, 5)
        found = (near == labels[:, None]) & (np.take_along_axis(scores, near, axis=1) > 0)
        result["accuracy_top5"] = float(found.any(axis=1).mean())
    return result
