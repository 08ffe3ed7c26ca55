"""Which frames come back for a query frame? Exact retrieval by cosine, with its chance level.

Three tasks: `scene` (other moments of the same video), `semantic` (same label in another video)
and `temporal` (the same moment of the same event from another camera).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from configs.errors import InputError, SettingError
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.knn import unit_rows
from pipeline.evaluate.labels import encode_classes

TASKS = ("scene", "semantic", "temporal")
KS = (1, 5, 10, 20)
_CHUNK = 8 * 1024 * 1024
"""Similarities held at once."""


def ranking_figures(
    similarity: NDArray[np.floating],
    relevant: NDArray[np.bool_],
    removed: NDArray[np.bool_],
    ks: Sequence[int] = KS,
) -> dict[str, NDArray[np.float64]]:
    """Figures of each query, float64 [n], from `similarity` [n, m] to the gallery.

    `removed` rows leave the gallery before ranking (self-matches among them). Keys: `average
    precision` and for each k `hit@k` (at least one relevant frame among the first k),
    `precision@k` and `chance@k`, the hit rate of a random ranking. NaN where nothing is relevant.
    """
    relevant = relevant & ~removed
    scored = np.where(removed, -np.inf, similarity)
    order = np.argsort(-scored, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1)
    total = relevant.sum(axis=1)
    size = (~removed).sum(axis=1)
    rank = np.arange(1, hits.shape[1] + 1)
    found = np.cumsum(hits, axis=1)
    usable = total > 0
    share = np.where(usable, total, 1)
    precision = (found / rank * hits).sum(axis=1) / share
    figures = {"average_precision": np.where(usable, precision, np.nan)}
    for k in ks:
        last = min(k, hits.shape[1]) - 1
        figures[f"hit@{k}"] = np.where(usable, found[:, last] > 0, np.nan)
        figures[f"precision@{k}"] = np.where(usable, found[:, last] / k, np.nan)
        figures[f"chance@{k}"] = np.where(usable, chance_hit(total, size, k), np.nan)
    return figures


def chance_hit(relevant: NDArray[np.int64], size: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Hit rate at k of a random ranking: 1 - C(G - R, k) / C(G, k), float64 [n]."""
    other, k_all = size - relevant, np.minimum(k, size)
    certain = other < k_all
    other = np.where(certain, k_all, other)
    log_miss = (gammaln(other + 1) - gammaln(other - k_all + 1) - gammaln(size + 1)) + gammaln(
        size - k_all + 1
    )
    return np.where(certain, 1.0, 1 - np.exp(log_miss))


def _masks(
    task: str, embeddings: Embeddings, rows: NDArray[np.int64], window_s: float, delta_s: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(relevant, removed), bool [len(rows), n] each."""
    same_video = _same(embeddings.video_id, rows)
    apart = np.abs(embeddings.time_s[rows, None] - embeddings.time_s[None])
    if task == "scene":
        return same_video, same_video & (apart < window_s)
    if task == "semantic":
        label = embeddings.label
        if label is None:
            raise InputError("semantic retrieval needs labels")
        return _same(encode_classes(label)[0], rows), same_video
    candidates = _same(embeddings.event, rows) & ~_same(embeddings.view, rows)
    return candidates & (apart <= delta_s + 1e-6), ~candidates


def _same(values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where each of `rows` has the value of another row, bool [len(rows), n]."""
    _, number = np.unique(values, return_inverse=True)
    return number[rows, None] == number[None]


def _parts(count: int) -> Iterator[NDArray[np.int64]]:
    step = max(1, _CHUNK // count)
    for start in range(0, count, step):
        yield np.arange(start, min(start + step, count))


def retrieval(
    embeddings: Embeddings,
    task: str,
    *,
    window_s: float = 5.0,
    delta_s: float = 0.2,
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Mean figures of a task over all queries that have something relevant to find.

    scene: relevant are frames of the query's video, those closer than `window_s` removed.
    semantic: relevant are frames of the same label, the query's video removed.
    temporal: gallery are the other views of the same event, relevant within `delta_s`.
    `mean_average_precision` is the micro mean over queries; `hubness` is the skewness of how often
    a frame is among the ten nearest (above 5 is suspicious).
    Raises SettingError for an unknown task, InputError when no query has a relevant frame.
    """
    if task not in TASKS:
        raise SettingError(f"no retrieval task {task!r}; there are {', '.join(TASKS)}")
    unit = unit_rows(embeddings.features)
    collected: dict[str, list[NDArray[np.float64]]] = {}
    occurrence = np.zeros(len(unit))
    for rows in _parts(len(unit)):
        relevant, removed = _masks(task, embeddings, rows, window_s, delta_s)
        removed[np.arange(len(rows)), rows] = True
        similarity = unit[rows] @ unit.T
        for name, values in ranking_figures(similarity, relevant, removed, ks).items():
            collected.setdefault(name, []).append(values)
        scored = np.where(removed, -np.inf, similarity)
        near = np.argsort(-scored, axis=1, kind="stable")[:, :10]
        valid = np.isfinite(np.take_along_axis(scored, near, axis=1))
        occurrence += np.bincount(near[valid], minlength=len(unit))
    figures = {name: np.concatenate(parts) for name, parts in collected.items()}
    usable = ~np.isnan(figures["average_precision"])
    if not usable.any():
        raise InputError(f"{task} retrieval: no query has a relevant frame in the gallery")
    result = {name: float(values[usable].mean()) for name, values in figures.items()}
    result["mean_average_precision"] = result.pop("average_precision")
    spread = occurrence.std()
    centred = occurrence - occurrence.mean()
    result["hubness"] = float((centred**3).mean() / spread**3) if spread > 0 else 0.0
    return result | {"queries": int(usable.sum()), "queries_without_relevant": int((~usable).sum())}
