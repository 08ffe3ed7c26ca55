"""Which frames come back for a query frame? Exact retrieval by cosine, with its chance level.

Tasks: `scene` (other moments of the same video), `semantic` (same label in another event),
`temporal` (the same moment of the same event from another camera), `video` (same label, whole
videos) and `copies` (the frame of which a query is a strongly augmented copy).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError, SettingError
from marey.configs.evaluation import CopiesSettings, RetrievalSettings
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.geometry import align
from marey.pipeline.evaluate.knn import unit_rows
from marey.pipeline.evaluate.labels import check_common_classes, encode_classes

TASKS = ("scene", "semantic", "temporal", "video")
KS = (1, 5, 10, 20, 50)
NDCG_AT = 10
DEFAULT, COPIES = RetrievalSettings(), CopiesSettings()
"""A copy's neighbours in time count as its source: consecutive frames are near-duplicates."""
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
    precision`, `ndcg@10` (gain 1) and for each k `hit@k` (at least one relevant frame among the
    first k), `precision@k` and `chance@k`, the hit rate of a random ranking. NaN where nothing is
    relevant.
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
    discount = 1 / np.log2(rank[:NDCG_AT] + 1)
    ideal = np.cumsum(discount)[np.minimum(share, len(discount)) - 1]
    gain = (hits[:, :NDCG_AT] * discount).sum(axis=1)
    figures[f"ndcg@{NDCG_AT}"] = np.where(usable, gain / ideal, np.nan)
    for k in ks:
        last = min(k, hits.shape[1]) - 1
        figures[f"hit@{k}"] = np.where(usable, found[:, last] > 0, np.nan)
        figures[f"precision@{k}"] = np.where(usable, found[:, last] / k, np.nan)
        figures[f"chance@{k}"] = np.where(usable, chance_hit(total, size, k), np.nan)
    return figures


def chance_hit(relevant: NDArray[np.int64], size: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Hit rate at k of a random ranking: 1 - C(G - R, k) / C(G, k), float64 [n]."""
    from scipy.special import gammaln  # slow to import, and few commands come here

    other, k_all = size - relevant, np.minimum(k, size)
    certain = other < k_all
    other = np.where(certain, k_all, other)
    log_miss = (gammaln(other + 1) - gammaln(other - k_all + 1) - gammaln(size + 1)) + gammaln(
        size - k_all + 1
    )
    return np.where(certain, 1.0, 1 - np.exp(log_miss))


def _masks(
    task: str,
    queries: Embeddings,
    gallery: Embeddings,
    rows: NDArray[np.int64],
    window_s: float,
    delta_s: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(relevant, removed), bool [len(rows), m] each."""
    same_video = _same(queries.video_id[rows], gallery.video_id)
    apart = np.abs(queries.time_s[rows, None] - gallery.time_s[None])
    if task == "scene":
        return same_video, same_video & (apart < window_s)
    if task == "copies":
        return same_video & (apart <= delta_s + 1e-6), np.zeros_like(same_video)
    same_event = _same(queries.event[rows], gallery.event)
    if task == "temporal":
        candidates = same_event & ~_same(queries.view[rows], gallery.view)
        return candidates & (apart <= delta_s + 1e-6), ~candidates
    if queries.label is None or gallery.label is None:
        raise InputError(f"{task} retrieval needs labels")
    return _same(queries.label[rows], gallery.label), same_event


def _same(first: NDArray[np.object_], second: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Where values of two arrays [n] and [m] are equal, bool [n, m]."""
    number, _ = encode_classes(np.concatenate([first, second]))
    return number[: len(first), None] == number[None, len(first) :]


def _parts(queries: int, gallery: int) -> Iterator[NDArray[np.int64]]:
    step = max(1, _CHUNK // gallery)
    for start in range(0, queries, step):
        yield np.arange(start, min(start + step, queries))


def retrieval(
    queries: Embeddings,
    task: str,
    *,
    gallery: Embeddings | None = None,
    window_s: float = DEFAULT.window_s,
    delta_s: float = DEFAULT.delta_s,
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Mean figures of a task over all queries that have something relevant to find.

    scene: relevant are frames of the query's video, those closer than `window_s` removed.
    semantic: relevant are frames of the same label, the query's event (all its views) removed.
    temporal: gallery are the other views of the same event, relevant within `delta_s`.
    video: the same label among whole videos (see `video_means`), the query's event removed.
    gallery: other frames to look in, for semantic and video; without it the queries serve each
    other, and none finds itself. Ties are ranked at random, by a fixed seed.
    `mean_average_precision` is the mean over queries (`_macro`: over labels); `hubness` is the
    skewness of how often a frame is among the ten nearest (above 5 is suspicious). Raises
    SettingError for an unknown task, InputError when no query has a relevant frame.
    """
    if task not in TASKS:
        raise SettingError(f"no retrieval task {task!r}; there are {', '.join(TASKS)}")
    if gallery is not None and task not in ("semantic", "video"):
        raise SettingError(f"{task} retrieval looks in the queries' own videos: leave the gallery")
    if gallery is not None and queries.label is not None and gallery.label is not None:
        number, names = encode_classes(np.concatenate([queries.label, gallery.label]))
        check_common_classes(number[: len(queries)], number[len(queries) :], names)
    return _retrieve(queries, task, gallery, window_s, delta_s, ks)


def copy_retrieval(
    copies: Embeddings, frames: Embeddings, *, delta_s: float = COPIES.delta_s
) -> dict[str, float]:
    """Does a strongly augmented copy find its frame among all unaugmented ones? No label needed.

    copies, frames: `marey embed` of the same corpus with and without --copies. Relevant is the
    source frame and what lies within `delta_s` of it. `align_copies` is the squared distance of
    unit vectors of copy and source.
    """
    if copies.copy is None or frames.copy is not None:
        raise InputError(
            "copy retrieval needs embeddings made with --copies as queries, and as gallery "
            "embeddings of the same frames without it"
        )
    figures = _retrieve(copies, "copies", frames, 0.0, delta_s, (1, 10))
    place = {key: n for n, key in enumerate(zip(frames.video_id, frames.frame, strict=True))}
    source = [place.get(key, -1) for key in zip(copies.video_id, copies.frame, strict=True)]
    known = np.array(source) >= 0
    pair = copies.features[known], frames.features[np.array(source)[known]]
    return figures | {"align_copies": align(*pair)}


def video_means(embeddings: Embeddings, samples: int = 10) -> Embeddings:
    """One row a video: the mean of `samples` frames, evenly spaced over it.

    Raises InputError for a video with several labels.
    """
    firsts, means = [], []
    for video in np.unique(embeddings.video_id):
        rows = np.flatnonzero(embeddings.video_id == video)
        rows = rows[np.argsort(embeddings.time_s[rows], kind="stable")]
        if embeddings.label is not None and len(set(embeddings.label[rows].tolist())) > 1:
            raise InputError(f"video retrieval needs one label a video; {video} has several")
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, samples).round().astype(int))]
        firsts.append(rows[0])
        means.append(embeddings.features[chosen].mean(axis=0))
    return replace(embeddings.take(np.array(firsts)), features=np.stack(means))


def _retrieve(
    queries: Embeddings,
    task: str,
    other: Embeddings | None,
    window_s: float,
    delta_s: float,
    ks: Sequence[int],
) -> dict[str, float]:
    gallery = queries if other is None else other
    # equal frames are ranked in their order, which would else be that of videos and time
    order = np.random.default_rng(0).permutation(len(gallery))
    gallery, place = gallery.take(order), np.argsort(order)
    unit, target = unit_rows(queries.features), unit_rows(gallery.features)
    collected: dict[str, list[NDArray[np.float64]]] = {}
    occurrence = np.zeros(len(target))
    for rows in _parts(len(unit), len(target)):
        relevant, removed = _masks(task, queries, gallery, rows, window_s, delta_s)
        if other is None:
            removed[np.arange(len(rows)), place[rows]] = True
        similarity = unit[rows] @ target.T
        for name, values in ranking_figures(similarity, relevant, removed, ks).items():
            collected.setdefault(name, []).append(values)
        scored = np.where(removed, -np.inf, similarity)
        near = np.argsort(-scored, axis=1, kind="stable")[:, :10]
        valid = np.isfinite(np.take_along_axis(scored, near, axis=1))
        occurrence += np.bincount(near[valid], minlength=len(target))
    figures = {name: np.concatenate(parts) for name, parts in collected.items()}
    usable = ~np.isnan(figures["average_precision"])
    if not usable.any():
        raise InputError(f"{task} retrieval: no query has a relevant frame in the gallery")
    result = {name: float(values[usable].mean()) for name, values in figures.items()}
    result["mean_average_precision"] = result.pop("average_precision")
    if task in ("semantic", "video") and queries.label is not None:
        number, _ = encode_classes(queries.label[usable])
        values = figures["average_precision"][usable]
        means = [values[number == label].mean() for label in np.unique(number)]
        result["mean_average_precision_macro"] = float(np.mean(means))
    spread = occurrence.std()
    centred = occurrence - occurrence.mean()
    result["hubness"] = float((centred**3).mean() / spread**3) if spread > 0 else 0.0
    return result | {"queries": int(usable.sum()), "queries_without_relevant": int((~usable).sum())}
