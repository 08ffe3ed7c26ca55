"""How far is it to each key event? Phase progression (Dwibedi et al., arXiv 1904.07846, 4.3).

A key event is the start of a phase. The target of a frame at time t is (t_event - t) / T, signed:
positive before, negative after, T the length of its video.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.linear import ridge_probe

Part = tuple[NDArray[np.floating], NDArray[np.float64]]
"""Features [n, D] and targets [n, K]."""


def progression_targets(
    embeddings: Embeddings, phase: NDArray[np.int64], phases: int
) -> NDArray[np.float64]:
    """Targets float64 [n, phases]: (start of the phase - t) / T in the frame's own video.

    phase: the phase number of each frame [n]. A phase that comes again counts from its first start.
    NaN where the video does not show the start: it lacks the phase, or begins in it.
    """
    targets = np.full((len(embeddings), phases), np.nan)
    for video in np.unique(embeddings.video_id):
        rows = np.flatnonzero(embeddings.video_id == video)
        rows = rows[np.argsort(embeddings.time_s[rows], kind="stable")]
        time_s = embeddings.time_s[rows]
        if len(rows) < 2:
            continue
        length = np.ptp(time_s) + np.median(np.diff(time_s))
        for number in range(phases):
            shown = np.flatnonzero(phase[rows] == number)
            if len(shown) and shown[0] > 0:
                targets[rows, number] = (time_s[shown[0]] - time_s) / length
    return targets


def phase_progression(
    train: Part, validation: Part, test: Part, names: list[str], penalties: tuple[float, ...]
) -> dict[str, Any]:
    """R2 of ridge regression on test, for each key event and their mean (it can be negative).

    Targets of the parts are those of `progression_targets`, one column a phase in `names`; each
    column is fitted on the frames that have it. Raises InputError when no phase has a start in
    all three parts.
    """
    known = [~np.isnan(part[1]) for part in (train, validation, test)]
    together: dict[bytes, list[int]] = {}
    for column in range(len(names)):
        masks = [mask[:, column] for mask in known]
        if all(mask.sum() >= 2 for mask in masks):
            # phases known for the same frames share one decomposition
            together.setdefault(np.concatenate(masks).tobytes(), []).append(column)
    scores: dict[int, float] = {}
    for columns in together.values():
        rows = [mask[:, columns[0]] for mask in known]
        parts = [
            (features[mask], targets[mask][:, columns])
            for (features, targets), mask in zip((train, validation, test), rows, strict=True)
        ]
        figures = ridge_probe(*parts, penalties=penalties)
        for place, column in enumerate(columns):
            scores[column] = figures[f"r2_{place}" if len(columns) > 1 else "r2"]
    if not scores:
        raise InputError(
            "phase progression needs labelled videos in which a phase begins after the first frame"
        )
    ordered = sorted(scores)
    return {
        "progression_r2": float(np.nanmean([scores[column] for column in ordered])),
        "progression_r2_per_event": [scores[column] for column in ordered],
        "key_events": [names[column] for column in ordered],
    }
