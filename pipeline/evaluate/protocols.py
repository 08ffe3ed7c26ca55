"""What each protocol does with embeddings, a gallery and labels; its settings are its keywords.

Every protocol takes (test, gallery or None, labels' place or None, **settings) and returns plain
numbers, the level of chance beside each figure that has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from marey.configs.errors import InputError, SettingError
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.alignment import alignment_error, kendall_tau, nearest_class_error
from marey.pipeline.evaluate.geometry import align, diagnose, lidar, pairs_in_time
from marey.pipeline.evaluate.label_protocols import (
    Figures,
    Location,
    interval,
    knn,
    linear,
    progression,
    with_labels,
)
from marey.pipeline.evaluate.labels import encode_classes
from marey.pipeline.evaluate.retrieval import COPY_S, copy_retrieval, retrieval, video_means


def find_protocol(name: str) -> Callable[..., Figures]:
    """The protocol of that name. Raises SettingError when there is none."""
    if name not in PROTOCOLS:
        raise SettingError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def check_options(protocol: str, options: Mapping[str, Any]) -> None:
    """Raises SettingError for a setting that the protocol does not have or of a wrong type."""
    check_settings(protocol, find_protocol(protocol), options)


def resolved(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a protocol: those given, and the defaults of the others."""
    parameters = inspect.signature(find_protocol(protocol)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return defaults | dict(options)


def check_settings(protocol: str, run: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """The same for a function whose keywords are the settings; those that may be None are not."""
    parameters = inspect.signature(run).parameters.values()
    known = {
        p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not None
    }
    for name, value in options.items():
        if name not in known:
            raise SettingError(f"{protocol} has no setting {name!r}; it has {', '.join(known)}")
        wanted = list if isinstance(known[name], tuple) else type(known[name])
        if not isinstance(value, wanted) and not (wanted is float and isinstance(value, int)):
            raise SettingError(f"{protocol}: {name}={value!r} is no {wanted.__name__}")


def _alignment(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    *,
    attribute: str = "phase",
    stride: int = 2,
    seed: int = 0,
) -> Figures:
    """Those of the three figures that the embeddings allow: each asks for something else."""
    figures: Figures = {}
    events, videos = (len(np.unique(names)) for names in (test.event, test.video_id))
    if len(set(zip(test.event, test.view, strict=True))) > events:
        figures = alignment_error(test, seed=seed)
        names, values = zip(*figures.pop("per_pair"), strict=True)
        pairs = np.array(names, dtype=object)
        figures |= interval("alignment_error_symmetric", np.array(values), pairs, seed)
    if videos > 1:
        figures |= kendall_tau(test, stride=stride, seed=seed)
    # labels that came with the embeddings were not asked for
    if path is not None or (test.label is not None and events > 1):
        known, labels, unlabelled = with_labels(test, path, attribute)
        number, _ = encode_classes(labels.values)
        figures |= nearest_class_error(known.features, number, known.event, seed=seed)
        figures["unlabelled"] = unlabelled
    if not figures:
        raise InputError(
            "alignment needs two views of an event, frames of two videos, or labels of two events: "
            "these are frames of one video"
        )
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
    if task in ("semantic", "video"):
        test, _, _ = with_labels(test, path, attribute)
        train = None if train is None else with_labels(train, path, attribute)[0]
    if task == "video":
        test = video_means(test)
        train = None if train is None else video_means(train)
    figures = retrieval(test, task, gallery=train, window_s=window_s, delta_s=delta_s)
    return {"task": task} | figures


def _copies(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    *,
    delta_s: float = COPY_S,
) -> Figures:
    if train is None:
        raise SettingError("copies needs --gallery: embeddings of the same frames, unchanged")
    return dict(copy_retrieval(test, train, delta_s=delta_s))


def _geometry(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    *,
    frames: int = 4096,
    seed: int = 0,
) -> Figures:
    rng = np.random.default_rng(seed)
    if test.copy is not None:
        return _geometry_of_copies(test, frames, rng)
    chosen = np.sort(rng.permutation(len(test))[:frames])
    figures = diagnose(test.features[chosen], test.video_id[chosen])
    first, second = pairs_in_time(test.video_id, test.time_s)
    if len(first):
        figures["align_time"] = align(test.features[first], test.features[second])
    return figures | {"frames": len(chosen)}


def _geometry_of_copies(test: Embeddings, frames: int, rng: np.random.Generator) -> Figures:
    """LiDAR and the distance of copies of one frame; the other figures for the first copies."""
    assert test.copy is not None
    # rows are sorted, so the copies of a frame follow each other
    keys = list(zip(test.video_id, test.frame, strict=True))
    first = np.array([n for n, key in enumerate(keys) if not n or key != keys[n - 1]])
    sizes = np.diff([*first, len(keys)])
    copies = int(sizes.max())
    first = first[sizes == copies]
    first = np.sort(rng.permutation(first)[:frames])
    features = test.features[first[:, None] + np.arange(copies)]
    figures = diagnose(features[:, 0], test.video_id[first])
    if copies > 1:
        figures["align_aug"] = align(features[:, 0], features[:, 1])
        figures["lidar"] = lidar(features)
    return figures | {"frames": len(first), "copies": copies}


PROTOCOLS: dict[str, Callable[..., Figures]] = {
    "knn": knn,
    "linear": linear,
    "progression": progression,
    "alignment": _alignment,
    "retrieval": _retrieval,
    "copies": _copies,
    "geometry": _geometry,
}
SAME_VIDEOS = frozenset(["copies"])
"""Protocols whose gallery holds the very videos that are tested."""
