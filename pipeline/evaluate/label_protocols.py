"""What the protocols that need labels do: kNN, the linear probe, phase progression.

Each takes (test, gallery or None, labels' location or None, settings) and returns plain numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError, SettingError
from marey.configs.evaluation import (
    DrawnLabels,
    KNNSettings,
    LinearSettings,
    ProgressionSettings,
)
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.bootstrap import split_by_group, video_interval
from marey.pipeline.evaluate.few_labels import few_rows, over_draws
from marey.pipeline.evaluate.knn import Gallery, knn_accuracy, knn_scores
from marey.pipeline.evaluate.labels import (
    Labels,
    check_common_classes,
    encode_classes,
    load_labels,
)
from marey.pipeline.evaluate.linear import PENALTIES, linear_probe, ridge_probe
from marey.pipeline.evaluate.progression import phase_progression, progression_targets
from marey.pipeline.evaluate.sgd_probe import sgd_probe

Figures = dict[str, Any]
Location = str | Path
Rows = NDArray[np.int64]
SHARES = (0.1, 0.5, 1.0)
"""Parts of the training videos that are labelled for phase classification (TCC, section 4.2)."""


def labelled_as(embeddings: Embeddings, labels: Labels) -> Embeddings:
    """The same frames with these labels."""
    return replace(embeddings, label=labels.values)


def with_labels(
    embeddings: Embeddings, path: Location | None, attribute: str
) -> tuple[Embeddings, Labels, int]:
    """The frames that have a label, their labels, and how many have none."""
    where = None if path is None else Path(path)
    labels = load_labels(where, embeddings, attribute=attribute)
    known = labels.known
    kept = labelled_as(embeddings, labels).take(known)
    return kept, Labels(labels.values[known], labels.source), int((~known).sum())


def interval(
    name: str, values: NDArray[np.float64], event: NDArray[np.object_], seed: int
) -> Figures:
    """The figure's 95 % interval over events; nothing where one event cannot tell."""
    if len(np.unique(event)) < 2:
        return {}
    return {f"{name}_interval": list(video_interval(values, event, seed=seed))}


def _seeds(settings: DrawnLabels) -> range:
    """One seed for every draw of labelled videos; a single one where all are labelled."""
    return range(1 if settings.labelled == 1 and not settings.shots else settings.draws)


def knn(
    test: Embeddings, train: Embeddings | None, path: Location | None, settings: KNNSettings
) -> Figures:
    """Weighted kNN accuracy; with few labels the mean over draws of the gallery's videos."""
    attribute, k = settings.attribute, settings.k
    query, query_labels, unlabelled = with_labels(test, path, attribute)
    pool, pool_labels = query, query_labels
    if train is not None:
        pool, pool_labels, _ = with_labels(train, path, attribute)
    both = np.concatenate([query_labels.values, pool_labels.values])
    number, names = encode_classes(both)
    target, known = number[: len(query)], number[len(query) :]
    unknown = check_common_classes(target, known, names)

    def score(chosen: Rows, asked: NDArray[np.bool_]) -> Figures:
        group = None if train is not None else pool.event[chosen]
        scores = knn_scores(
            query.features[asked],
            Gallery(pool.features[chosen], known[chosen], group),
            k=k,
            tau=settings.tau,
            num_classes=len(names),
            group=None if train is not None else query.event[asked],
            balanced=settings.balanced,
        )
        truth = target[asked]
        figures: Figures = dict(knn_accuracy(scores, truth, k))
        prior = np.bincount(known[chosen], minlength=len(names)) / len(chosen)
        figures["accuracy_chance"] = float(prior[truth].mean())
        hit = (scores.argmax(axis=1) == truth).astype(float)
        figures |= interval("accuracy", hit, query.event[asked], settings.seed)
        return figures | {
            "classes": len(names),
            "classes_not_in_gallery": unknown,
            "queries": len(truth),
            "gallery": len(chosen),
            "gallery_events": len(np.unique(pool.event[chosen])),
            "unlabelled": unlabelled,
            "k": min(k, len(chosen)),
            "tau": settings.tau,
        }

    figures = []
    for draw in _seeds(settings):
        chosen = few_rows(
            known, pool.event, share=settings.labelled, shots=settings.shots, seed=draw
        )
        asked = np.ones(len(query), dtype=bool)
        if train is None and len(chosen) < len(pool):
            # a labelled event's own frames would have to do without their label
            asked[chosen] = False
        if not asked.any():
            raise InputError("every event is among the labelled ones; give --gallery or fewer")
        figures.append(score(chosen, asked))
    return over_draws(figures) if len(figures) > 1 else figures[0]


@dataclass(frozen=True, slots=True)
class _Split:
    """Labelled frames to fit on, to choose the penalty on, and to report on."""

    pool: Embeddings
    pool_labels: Labels
    query: Embeddings
    query_labels: Labels
    fit: Rows
    choose: Rows
    held_out: Rows
    unlabelled: int

    def counts(self) -> Figures:
        return {
            "frames_train": len(self.fit),
            "frames_validation": len(self.choose),
            "frames_test": len(self.held_out),
            "events_train": len(np.unique(self.pool.event[self.fit])),
            "events_validation": len(np.unique(self.pool.event[self.choose])),
            "unlabelled": self.unlabelled,
        }

    def few(self, labelled: float, shots: int, seed: int) -> _Split:
        """Only few videos labelled, in the validation part too: a large one would be labels."""
        kind = np.zeros(len(self.pool), dtype=np.int64)
        if self.pool_labels.numeric() is None:
            kind, _ = encode_classes(self.pool_labels.values)
        fit, choose = (
            rows[
                few_rows(kind[rows], self.pool.event[rows], share=labelled, shots=shots, seed=seed)
            ]
            for rows in (self.fit, self.choose)
        )
        return replace(self, fit=fit, choose=choose)


def _split(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    attribute: str,
    seed: int,
) -> _Split:
    query, query_labels, unlabelled = with_labels(test, path, attribute)
    try:
        if train is None:
            fit, choose, held_out = split_by_group(query.event, (0.6, 0.2, 0.2), seed)
            pool, pool_labels = query, query_labels
        else:
            pool, pool_labels, _ = with_labels(train, path, attribute)
            fit, choose = split_by_group(pool.event, (0.8, 0.2), seed)
            held_out = np.arange(len(query))
    except ValueError as error:
        raise InputError(f"linear probe: too few videos to split: {error}") from error
    return _Split(pool, pool_labels, query, query_labels, fit, choose, held_out, unlabelled)


def _grid(penalties: int) -> tuple[float, ...]:
    """So many of the penalties, evenly spread over their range; of one, the middle."""
    if penalties < 1:
        raise SettingError(f"penalties={penalties} is out of range: 1 to {len(PENALTIES)}")
    last = len(PENALTIES) - 1
    places = np.linspace(0, last, min(penalties, last + 1)) if penalties > 1 else [last / 2]
    return tuple(PENALTIES[int(place)] for place in np.round(places))


def _classify(
    split: _Split, grid: tuple[float, ...], seed: int, crosscheck: bool = False
) -> Figures:
    """Logistic regression of the classes of a split, and by SGD too for a cross-check."""
    both = np.concatenate([split.pool_labels.values, split.query_labels.values])
    number, names = encode_classes(both)
    known, target = number[: len(split.pool)], number[len(split.pool) :][split.held_out]
    if split.query is not split.pool:
        check_common_classes(target, known, names)
    figures: Figures
    parts = (
        (split.pool.features[split.fit], known[split.fit]),
        (split.pool.features[split.choose], known[split.choose]),
        (split.query.features[split.held_out], target),
    )
    figures, probability, classes = linear_probe(*parts, penalties=grid)
    if crosscheck:
        figures |= sgd_probe(*parts, seed=seed)
    # what always answering the most frequent class of training would score
    common = np.bincount(known[split.fit]).argmax()
    figures["accuracy_chance"] = float((target == common).mean())
    hit = (classes[probability.argmax(axis=1)] == target).astype(float)
    figures |= interval("accuracy", hit, split.query.event[split.held_out], seed)
    return figures | {"classes": len(names)}


def linear(
    test: Embeddings, train: Embeddings | None, path: Location | None, settings: LinearSettings
) -> Figures:
    """Logistic regression, or ridge for regression targets; with few labels over draws."""
    seed, penalties = settings.seed, _grid(settings.penalties)
    whole = _split(test, train, path, settings.attribute, seed)
    figures = []
    for draw in _seeds(settings):
        split = whole.few(settings.labelled, settings.shots, draw)
        targets, wanted = split.pool_labels.numeric(), split.query_labels.numeric()
        if targets is not None and wanted is not None:
            own: Figures = ridge_probe(
                (split.pool.features[split.fit], targets[split.fit]),
                (split.pool.features[split.choose], targets[split.choose]),
                (split.query.features[split.held_out], wanted[split.held_out]),
                penalties=penalties,
            )
        else:
            own = _classify(split, penalties, seed, settings.crosscheck)
        figures.append(own | split.counts())
    return (over_draws(figures) if len(figures) > 1 else figures[0]) | {"seed": seed}


def progression(
    test: Embeddings,
    train: Embeddings | None,
    path: Location | None,
    settings: ProgressionSettings,
) -> Figures:
    """R2 of the time to each phase's start, and phase accuracy with 10, 50, 100 % of the labels."""
    seed, penalties = settings.seed, _grid(settings.penalties)
    split = _split(test, train, path, settings.attribute, seed)
    both = np.concatenate([split.pool_labels.values, split.query_labels.values])
    number, names = encode_classes(both)
    known, asked = number[: len(split.pool)], number[len(split.pool) :]
    if split.query is not split.pool:
        check_common_classes(asked, known, names)
    pool = progression_targets(split.pool, known, len(names))
    query = progression_targets(split.query, asked, len(names))
    figures = phase_progression(
        (split.pool.features[split.fit], pool[split.fit]),
        (split.pool.features[split.choose], pool[split.choose]),
        (split.query.features[split.held_out], query[split.held_out]),
        names,
        penalties,
    )
    for share in SHARES:
        scores = over_draws(
            [
                _classify(split.few(share, 0, draw), penalties, seed)
                for draw in range(1 if share == 1 else settings.draws)
            ]
        )
        figures[f"accuracy_{share:.0%}_labelled"] = scores["accuracy"]
        figures[f"accuracy_{share:.0%}_labelled_std"] = scores["accuracy_std"]
        figures["accuracy_chance"] = scores["accuracy_chance"]
    return figures | split.counts() | {"draws": settings.draws, "seed": seed}
