"""What each protocol does with embeddings, a gallery and labels; its settings are its keywords.

Every protocol takes (test, gallery or None, labels' place or None, **settings) and returns plain
numbers, the level of chance beside each figure that has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import InputError, SettingError
from pipeline.evaluate.alignment import alignment_error, kendall_tau, nearest_class_error
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.geometry import align, diagnose
from pipeline.evaluate.knn import Gallery, knn_accuracy, knn_scores
from pipeline.evaluate.labels import Labels, encode_classes, load_labels
from pipeline.evaluate.linear import PENALTIES, linear_probe, ridge_probe
from pipeline.evaluate.retrieval import retrieval
from pipeline.evaluate.statistics import split_by_group, video_interval

Figures = dict[str, Any]
Location = str | Path


def find_protocol(name: str) -> Callable[..., Figures]:
    """The protocol of that name. Raises SettingError when there is none."""
    if name not in PROTOCOLS:
        raise SettingError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def check_options(protocol: str, options: Mapping[str, Any]) -> None:
    """Raises SettingError for a setting that the protocol does not have or of a wrong type."""
    parameters = inspect.signature(find_protocol(protocol)).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for name, value in options.items():
        if name not in known:
            raise SettingError(f"{protocol} has no setting {name!r}; it has {', '.join(known)}")
        wanted = type(known[name])
        if not isinstance(value, wanted) and not (wanted is float and isinstance(value, int)):
            raise SettingError(f"{protocol}: {name}={value!r} is no {wanted.__name__}")


def labelled(embeddings: Embeddings, labels: Labels) -> Embeddings:
    """The same frames with these labels."""

    return replace(embeddings, label=labels.values)


def _with_labels(
    embeddings: Embeddings, path: Location | None, attribute: str
) -> tuple[Embeddings, Labels, int]:
    """The frames that have a label, their labels, and how many have none."""
    where = None if path is None else Path(path)
    labels = load_labels(where, embeddings, attribute=attribute)
    known = labels.known
    kept = labelled(embeddings, labels).take(known)
    return kept, Labels(labels.values[known], labels.source), int((~known).sum())


def _interval(
    name: str, values: NDArray[np.float64], event: NDArray[np.object_], seed: int
) -> Figures:
    """The figure's 95 % interval over events; nothing where one event cannot tell."""
    if len(np.unique(event)) < 2:
        return {}
    return {f"{name}_interval": list(video_interval(values, event, seed=seed))}


def _knn(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    *,
    attribute: str = "phase",
    k: int = 20,
    tau: float = 0.07,
    balanced: bool = False,
    seed: int = 0,
) -> Figures:
    query, query_labels, unlabelled = _with_labels(test, path, attribute)
    pool, pool_labels = query, query_labels
    if train is not None:
        pool, pool_labels, _ = _with_labels(train, path, attribute)
    both = np.concatenate([query_labels.values, pool_labels.values])
    number, names = encode_classes(both)
    target, known = number[: len(query)], number[len(query) :]
    own = None if train is not None else query.event
    gallery = Gallery(pool.features, known, None if own is None else pool.event)
    scores = knn_scores(
        query.features,
        gallery,
        k=k,
        tau=tau,
        num_classes=len(names),
        group=own,
        balanced=balanced,
    )
    figures: Figures = dict(knn_accuracy(scores, target, k))
    prior = np.bincount(known, minlength=len(names)) / len(known)
    figures["accuracy_chance"] = float(prior[target].mean())
    hit = (scores.argmax(axis=1) == target).astype(float)
    figures |= _interval("accuracy", hit, query.event, seed)
    return figures | {
        "classes": len(names),
        "queries": len(query),
        "gallery": len(pool),
        "unlabelled": unlabelled,
        "k": min(k, len(pool)),
        "tau": float(tau),
    }


def _linear(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    *,
    attribute: str = "phase",
    penalties: int = len(PENALTIES),
    seed: int = 0,
) -> Figures:
    query, query_labels, unlabelled = _with_labels(test, path, attribute)
    try:
        if train is None:
            shares = (0.6, 0.2, 0.2)
            fit, choose, held_out = split_by_group(query.event, shares, seed)
            pool, pool_labels = query, query_labels
        else:
            pool, pool_labels, _ = _with_labels(train, path, attribute)
            fit, choose = split_by_group(pool.event, (0.8, 0.2), seed)
            held_out = np.arange(len(query))
    except ValueError as error:
        raise InputError(f"linear probe: too few videos to split: {error}") from error
    grid = PENALTIES[:: max(1, round(len(PENALTIES) / max(1, penalties)))]
    targets, wanted = pool_labels.numeric(), query_labels.numeric()
    if targets is not None and wanted is not None:
        figures: Figures = ridge_probe(
            (pool.features[fit], targets[fit]),
            (pool.features[choose], targets[choose]),
            (query.features[held_out], wanted[held_out]),
            penalties=grid,
        )
    else:
        both = np.concatenate([pool_labels.values, query_labels.values])
        number, names = encode_classes(both)
        known, target = number[: len(pool)], number[len(pool) :][held_out]
        figures, probability, classes = linear_probe(
            (pool.features[fit], known[fit]),
            (pool.features[choose], known[choose]),
            (query.features[held_out], target),
            penalties=grid,
        )
        prior = np.bincount(known[fit], minlength=len(names)) / len(fit)
        figures["accuracy_chance"] = float(prior.max())
        hit = (classes[probability.argmax(axis=1)] == target).astype(float)
        figures |= _interval("accuracy", hit, query.event[held_out], seed)
        figures["classes"] = len(names)
    return figures | {
        "frames_train": len(fit),
        "frames_validation": len(choose),
        "frames_test": len(held_out),
        "unlabelled": unlabelled,
        "seed": seed,
    }


def _alignment(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    *,
    attribute: str = "phase",
    stride: int = 2,
    seed: int = 0,
) -> Figures:
    figures = alignment_error(test, seed=seed)
    per_event = figures.pop("per_event")
    names = np.array(list(per_event), dtype=object)
    values = np.array(list(per_event.values()))
    figures |= _interval("alignment_error_symmetric", values, names, seed)
    videos = len(np.unique(test.video_id))
    if videos > 1:
        figures |= kendall_tau(test, stride=stride, seed=seed)
    if path is not None or test.label is not None:
        known, labels, unlabelled = _with_labels(test, path, attribute)
        number, _ = encode_classes(labels.values)
        figures |= nearest_class_error(known.features, number, known.event, seed=seed)
        figures["unlabelled"] = unlabelled
    return figures


def _retrieval(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    *,
    task: str = "scene",
    attribute: str = "phase",
    window_s: float = 5.0,
    delta_s: float = 0.2,
) -> Figures:
    if task == "semantic":
        test, _, _ = _with_labels(test, path, attribute)
    return {"task": task} | retrieval(test, task, window_s=window_s, delta_s=delta_s)


def _geometry(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    *,
    frames: int = 4096,
    seed: int = 0,
) -> Figures:
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(test))[:frames])
    figures = diagnose(test.features[chosen])
    following = (test.video_id[1:] == test.video_id[:-1]).nonzero()[0]
    apart = np.diff(test.time_s)[following]
    near = following[apart <= 1.05]
    if len(near):
        figures["align_time"] = align(test.features[near], test.features[near + 1])
    return figures | {"frames": len(chosen)}


PROTOCOLS: dict[str, Callable[..., Figures]] = {
    "knn": _knn,
    "linear": _linear,
    "alignment": _alignment,
    "retrieval": _retrieval,
    "geometry": _geometry,
}
