"""The protocol `states`: how much of a table of states does a linear classifier find in a frame?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from marey.configs.errors import InputError
from marey.configs.evaluation import StatesSettings
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.bootstrap import split_by_group
from marey.pipeline.evaluate.state_labels import States, entropy, load_states
from marey.pipeline.evaluate.state_probe import Part, category_means, probe_states, weighted_f1

PARTS = (0.7, 0.1, 0.2)
"""Train, validation and test share of the videos, where no gallery is given."""
Figures = dict[str, Any]


def states(
    test: Embeddings, gallery: Embeddings | None, labels: str | Path, settings: StatesSettings
) -> Figures:
    """Weighted F1 of every label, its mean over labels and over categories, beside the majority's.

    Raises InputError for too few videos, a table that does not fit, or when no label varies.
    """
    query, asked = _with_states(test, labels, settings)
    try:
        if gallery is None:
            pool, known = query, asked
            fit, choose, held_out = split_by_group(query.event, PARTS, settings.seed)
        else:
            pool, known = _with_states(gallery, labels, settings)
            share = PARTS[0] / (PARTS[0] + PARTS[1])
            fit, choose = split_by_group(pool.event, (share, 1 - share), settings.seed)
            held_out = np.arange(len(query))
    except ValueError as error:
        raise InputError(f"states: too few videos to split: {error}") from error
    kept = held_out[~_seen_before(asked.take(held_out), known.take(np.append(fit, choose)))]
    if not len(kept):
        raise InputError("states: every test frame is a picture of the gallery too")
    values = np.concatenate([known.values[fit], known.values[choose], asked.values[kept]])
    varying = [n for n in range(len(asked.names)) if entropy(values[:, n]) >= settings.min_entropy]
    if not varying:
        raise InputError(
            f"states: no label has an entropy of {settings.min_entropy} nats or more "
            "(min_entropy); there is nothing to tell"
        )
    names = [asked.names[n] for n in varying]
    numbered = np.stack([np.unique(values[:, n], return_inverse=True)[1] for n in varying], 1)
    ends = np.cumsum([len(fit), len(choose)])
    features = (pool.features[fit], pool.features[choose], query.features[kept])
    parts = [Part(*both) for both in zip(features, np.split(numbered, ends), strict=True)]
    answers = probe_states(
        *parts, lr=settings.lr, epochs=settings.epochs, patience=settings.patience,
        seed=settings.seed,
    )  # fmt: skip
    truth = parts[2].values
    scores = weighted_f1(answers, truth)
    common = np.array([np.bincount(column).argmax() for column in parts[0].values.T])
    blind = weighted_f1(np.broadcast_to(common, truth.shape), truth)
    by_category = category_means(scores, names)
    return {
        "f1": float(np.mean(list(by_category.values()))),
        "f1_chance": float(np.mean(list(category_means(blind, names).values()))),
        "accuracy": float((answers == truth).mean()),
        "accuracy_chance": float((common == truth).mean()),
        **{f"f1_{name}": value for name, value in by_category.items() if name},
        **{f"f1_of_{name}": float(score) for name, score in zip(names, scores, strict=True)},
        "labels": len(names),
        "labels_left_out": len(asked.names) - len(names),
        "train_frames": len(fit),
        "validation_frames": len(choose),
        "test_frames": len(kept),
        "duplicates_left_out": len(held_out) - len(kept),
        "seed": settings.seed,
    }


def _with_states(
    embeddings: Embeddings, labels: str | Path, settings: StatesSettings
) -> tuple[Embeddings, States]:
    rows, found = load_states(Path(labels), embeddings, tolerance_s=settings.tolerance_s)
    return embeddings.take(rows), found


def _seen_before(test: States, train: States) -> np.ndarray:
    """bool [n]: which test frames show a picture that training showed too."""
    if test.picture is None or train.picture is None:
        return np.zeros(len(test.values), dtype=bool)
    return np.isin(test.picture.astype(str), train.picture.astype(str))
