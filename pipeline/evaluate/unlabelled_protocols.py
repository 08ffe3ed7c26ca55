"""What the protocols do that also work without labels: alignment, retrieval, copies, geometry.

Each takes (test, gallery or None, labels' location or None, settings) and returns plain numbers,
the level of chance beside each figure that has one.
"""

from __future__ import annotations

import numpy as np

from marey.configs.errors import InputError, SettingError
from marey.configs.evaluation import (
    AlignmentSettings,
    CopiesSettings,
    GeometrySettings,
    RetrievalSettings,
)
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.alignment import alignment_error, kendall_tau, nearest_class_error
from marey.pipeline.evaluate.geometry import align, diagnose, lidar, pairs_in_time
from marey.pipeline.evaluate.label_protocols import Figures, Location, interval, with_labels
from marey.pipeline.evaluate.labels import encode_classes
from marey.pipeline.evaluate.retrieval import copy_retrieval, retrieval, video_means


def alignment(
    test: Embeddings, train: Embeddings | None, path: Location | None, settings: AlignmentSettings
) -> Figures:
    """Those of the three figures that the embeddings allow: each needs something else.

    Two views of an event, frames of two videos, or labels of two events.
    """
    figures: Figures = {}
    seed = settings.seed
    events, videos = (len(np.unique(names)) for names in (test.event, test.video_id))
    if len(set(zip(test.event, test.view, strict=True))) > events:
        figures = alignment_error(test, seed=seed)
        names, values = zip(*figures.pop("per_pair"), strict=True)
        pairs = np.array(names, dtype=object)
        figures |= interval("alignment_error_symmetric", np.array(values), pairs, seed)
    if videos > 1:
        figures |= kendall_tau(test, stride=settings.stride, seed=seed)
    # labels that came with the embeddings were not asked for
    if path is not None or (test.label is not None and events > 1):
        known, labels, unlabelled = with_labels(test, path, settings.attribute)
        number, _ = encode_classes(labels.values)
        figures |= nearest_class_error(known.features, number, known.event, seed=seed)
        figures["unlabelled"] = unlabelled
    if not figures:
        raise InputError(
            "alignment needs two views of an event, frames of two videos, or labels of two events: "
            "these are frames of one video"
        )
    return figures


def retrieve(
    test: Embeddings, train: Embeddings | None, path: Location | None, settings: RetrievalSettings
) -> Figures:
    """Retrieval of frames or of whole videos, as `settings.task` says."""
    task, attribute = settings.task, settings.attribute
    if task in ("semantic", "video"):
        test, _, _ = with_labels(test, path, attribute)
        train = None if train is None else with_labels(train, path, attribute)[0]
    if task == "video":
        test = video_means(test)
        train = None if train is None else video_means(train)
    figures = retrieval(
        test, task, gallery=train, window_s=settings.window_s, delta_s=settings.delta_s
    )
    return {"task": task} | figures


def copies(
    test: Embeddings, train: Embeddings | None, path: Location | None, settings: CopiesSettings
) -> Figures:
    """Copy detection: augmented copies (`test`) find their originals (`train`)."""
    if train is None:
        raise SettingError("copies needs --gallery: embeddings of the same frames, unchanged")
    return dict(copy_retrieval(test, train, delta_s=settings.delta_s))


def geometry(
    test: Embeddings, train: Embeddings | None, path: Location | None, settings: GeometrySettings
) -> Figures:
    """Collapse, rank, uniformity and alignment of the embeddings; no labels needed."""
    rng = np.random.default_rng(settings.seed)
    if test.copy is not None:
        return _geometry_of_copies(test, settings.frames, rng)
    chosen = np.sort(rng.permutation(len(test))[: settings.frames])
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
