"""Does the embedding follow the state of a process? Alignment error, phase error, Kendall's tau.

TCN (Sermanet et al., arXiv 1704.06888, section 4) and TCC (Dwibedi et al., arXiv 1904.07846). None
of them needs training. Frames are compared by squared Euclidean distance; ties are broken at
random with a fixed seed, so that a collapsed embedding scores what chance scores.
"""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError, SettingError
from marey.pipeline.embedding.embeddings import Embeddings

_TIE = 1e-12
"""Squared distances closer than this share of the squared norms count as equal (float64)."""


def nearest(
    query: NDArray[np.floating],
    gallery: NDArray[np.floating],
    rng: np.random.Generator,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Row of the nearest gallery vector for each query, int64 [n]; ties at random.

    `allowed`: bool [n, m], which gallery rows a query may choose; -1 where it may choose none.
    """
    a, b = query.astype(np.float64), gallery.astype(np.float64)
    size_a, size_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    distance = size_a[:, None] + size_b[None] - 2 * (a @ b.T)
    if allowed is not None:
        distance[~allowed] = np.inf
    low = distance.min(axis=1)
    scale = size_a + size_b.max()
    tied = distance <= (low + _TIE * scale)[:, None]
    choice = distance.argmin(axis=1)
    for row in np.flatnonzero(tied.sum(axis=1) > 1):
        choice[row] = rng.choice(np.flatnonzero(tied[row]))
    return np.where(np.isfinite(low), choice, -1)


def alignment_errors(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    time_first: NDArray[np.float64],
    time_second: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Mean |t - t'| / T from the first view to the second, and from the second to the first.

    t' is the time of the nearest frame in the other view. Only the time that both views cover
    counts; T is its length, one frame included. Always in [0, 1): random matching gives 1/3.
    Raises InputError when fewer than two frames of each view lie in the common time.
    """
    begin = max(time_first.min(), time_second.min()) - 1e-6
    end = min(time_first.max(), time_second.max()) + 1e-6
    keep_first = (time_first >= begin) & (time_first <= end)
    keep_second = (time_second >= begin) & (time_second <= end)
    if keep_first.sum() < 2 or keep_second.sum() < 2:
        raise InputError("two views share fewer than two frames of time")
    first, time_first = first[keep_first], time_first[keep_first]
    second, time_second = second[keep_second], time_second[keep_second]
    errors = []
    for query, query_time, other, other_time in (
        (first, time_first, second, time_second),
        (second, time_second, first, time_first),
    ):
        span = np.ptp(query_time) + np.median(np.diff(np.sort(query_time)))
        if not span > 0:
            raise InputError("the frames of a view all have one time")
        found = other_time[nearest(query, other, rng)]
        errors.append(float(np.abs(query_time - found).mean() / span))
    return errors[0], errors[1]


def alignment_error(embeddings: Embeddings, *, seed: int = 0) -> dict[str, Any]:
    """Alignment error over every (event, unordered pair of views), with equal weight.

    `alignment_error` is one-directional (lower view name to higher), as in the paper, wherever it
    is named: in the command, on pages and in the online probe. `alignment_error_symmetric` averages
    both directions. `per_pair` holds (event, symmetric error).
    Raises InputError when no event has two views.
    """
    rng = np.random.default_rng(seed)
    one_way, per_pair, skipped = [], [], 0
    for event in np.unique(embeddings.event):
        member = embeddings.event == event
        views = np.unique(embeddings.view[member])
        for low, high in combinations(views, 2):
            first = np.flatnonzero(member & (embeddings.view == low))
            second = np.flatnonzero(member & (embeddings.view == high))
            try:
                forth, back = alignment_errors(
                    embeddings.features[first],
                    embeddings.features[second],
                    embeddings.time_s[first],
                    embeddings.time_s[second],
                    rng,
                )
            except InputError:
                skipped += 1
                continue
            one_way.append(forth)
            per_pair.append((str(event), (forth + back) / 2))
    if not one_way:
        raise InputError(
            "alignment needs events seen by two views at the same time, and there is none; "
            "was the index made with --views?"
        )
    return {
        "alignment_error": float(np.mean(one_way)),
        "alignment_error_symmetric": float(np.mean([error for _, error in per_pair])),
        "alignment_chance": 1 / 3,
        "events": len({event for event, _ in per_pair}),
        "view_pairs": len(one_way),
        "view_pairs_without_common_time": skipped,
        "per_pair": per_pair,
    }


def nearest_class_error(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    sequence: NDArray[np.object_],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Label error of the nearest frame in another sequence, macro over all classes (TCN).

    `sequence` is the event, so that the same event seen by another camera is no neighbour.
    Classes without a single hit count with error 1 (the reference code leaves them out).
    """
    names = np.unique(sequence)
    if len(names) < 2:
        raise InputError("phase error needs labelled frames of at least two sequences")
    rng = np.random.default_rng(seed)
    found = np.full(len(labels), -1)
    for name in names:
        own = sequence == name
        other = np.flatnonzero(~own)
        rows = np.flatnonzero(own)
        for part in np.array_split(rows, max(1, len(rows) * len(other) // 10_000_000)):
            if len(part):
                found[part] = labels[other[nearest(features[part], features[other], rng)]]
    recalls = [float((found[labels == label] == label).mean()) for label in np.unique(labels)]
    return {
        "phase_error": 1 - float(np.mean(recalls)),
        "phase_error_chance": 1 - 1 / len(recalls),
        "classes": len(recalls),
    }


def kendall_tau(
    embeddings: Embeddings, *, stride: int = 2, max_pairs: int = 2000, seed: int = 0
) -> dict[str, float | None]:
    """Do nearest neighbours in another video keep the order of time? Mean tau-b (TCC).

    Every ordered pair of distinct videos, each video's frames by time and every `stride`-th; above
    `max_pairs` a random part of the pairs. tau is undefined where all neighbours coincide: such
    pairs count as 0 in `kendall_tau`, are left out of `kendall_tau_defined` and are reported as
    `nan_fraction`. Only meaningful where all videos show one process that does not go back.
    """
    from scipy.stats import kendalltau  # takes a second, which no training run has need of

    if stride < 1:
        raise SettingError(f"stride={stride} is out of range: at least 1")
    rng = np.random.default_rng(seed)
    series = []
    for video in np.unique(embeddings.video_id):
        rows = np.flatnonzero(embeddings.video_id == video)
        ordered = rows[np.argsort(embeddings.time_s[rows], kind="stable")][::stride]
        if len(ordered) >= 2:
            series.append(embeddings.features[ordered])
    if len(series) < 2:
        raise InputError("Kendall's tau needs at least two videos of two frames or more")
    pairs = list(permutations(range(len(series)), 2))
    if len(pairs) > max_pairs:
        pairs = [pairs[i] for i in np.sort(rng.choice(len(pairs), max_pairs, replace=False))]
    values = np.array(
        [
            kendalltau(np.arange(len(series[i])), nearest(series[i], series[j], rng))[0]
            for i, j in pairs
        ],
        dtype=np.float64,
    )
    undefined = np.isnan(values)
    return {
        "kendall_tau": float(np.where(undefined, 0, values).mean()),
        "kendall_tau_defined": None if undefined.all() else float(np.nanmean(values)),
        "nan_fraction": float(undefined.mean()),
        "video_pairs": len(pairs),
        "stride": stride,
    }
