"""How good is the encoder during training? A probe over frames in memory, run between steps.

It is a monitor, not a reported number: a few hundred frames, the encoder in eval mode, no gradient.
Frames of synchronised views are scored by alignment error, labelled frames by kNN accuracy, and
all frames by the signs of collapse in their embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.modes import evaluating
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.alignment import alignment_error, nearest_class_error
from marey.pipeline.evaluate.geometry import LIMITS, alarms, collapse_signs
from marey.pipeline.evaluate.knn import Gallery, knn_accuracy, knn_scores
from marey.pipeline.evaluate.labels import encode_classes

GRAVE = ("collapse", "cone", "dimensional_collapse")
"""Alarms that mean a lost run if they persist."""
DETAILS = ("rank_share", "dead_units", "mean_cosine")
"""Metrics that the alarms summarise: for curves, not for the progress line."""


class OnlineProbe:
    """Scores an encoder on fixed frames: `probe(encoder)` -> {metric: value}.

    frames: uint8 [n, H, W, 3]; event, view: [n] names and time_s: [n] seconds, left out for
    independent images; labels: [n] classes or None. Metrics:

    - `alignment_error`, as `marey eval alignment` has it, where an event has two views;
    - where there are labels `knn_accuracy` (k = 20, tau = 0.07, own event left out), for frames of
      sequences also `phase_error`;
    - always `rankme`, `spread` (0 = collapsed, near 1 = isotropic), `mean_cosine` of different
      events, `rank_share` and `dead_units` (see `geometry.collapse_signs`), `alarms` (how many of
      these four are out of bounds) and `alarms_in_a_row`: the consecutive probes, this one
      included, that found a collapse, a cone or a lack of rank. The first probe, of the untrained
      encoder, does not count. The second in a row warns; nothing is stopped, since a slow start in
      a narrow cone looks the same.
    """

    def __init__(
        self,
        frames: NDArray[np.uint8],
        *,
        event: Sequence[str] | NDArray[Any] | None = None,
        view: Sequence[str] | NDArray[Any] | None = None,
        time_s: Sequence[float] | NDArray[Any] | None = None,
        labels: Sequence[object] | NDArray[Any] | None = None,
        batch_size: int = 128,
        k: int = 20,
        tau: float = 0.07,
    ) -> None:
        count = len(frames)
        event = [str(number) for number in range(count)] if event is None else event
        view = ["0"] * count if view is None else view
        time_s = np.zeros(count) if time_s is None else time_s
        if count < 2 or any(len(values) != count for values in (event, view, time_s)):
            raise InputError(
                f"the probe needs as many events, views and times as frames, and two or more: "
                f"got {count} frames, {len(event)} events, {len(view)} views, {len(time_s)} times"
            )
        if labels is not None and len(labels) != count:
            raise InputError(f"the probe got {len(labels)} labels for {count} frames")
        self._frames = torch.from_numpy(np.ascontiguousarray(frames))
        self._batch_size, self._k, self._tau = batch_size, k, tau
        self._event = np.array([str(name) for name in event], dtype=object)
        self._view = np.array([str(name) for name in view], dtype=object)
        self._time_s = np.array(time_s, dtype=np.float64)
        pairs = zip(self._event, self._view, strict=True)
        self._video = np.array([f"{one}/{other}" for one, other in pairs], dtype=object)
        self._labels, self._classes, self._sequences = None, 0, False
        if labels is not None:
            values = np.empty(count, dtype=object)
            values[:] = list(labels)
            self._labels, names = encode_classes(values)
            self._classes = len(names)
            self._sequences = len(set(self._event)) < count
        self._paired = any(
            len(set(self._view[self._event == name])) > 1 for name in set(self._event)
        )
        self._several_events = len(set(self._event)) > 1
        self._in_a_row = -1
        """-1 before the first probe."""
        self.warning = ""
        """What is to be said of the last scores, in words; mostly nothing."""

    @property
    def chance(self) -> dict[str, float]:
        """Metric -> its value for random matching; for the curves' baseline."""
        levels = {}
        if self._paired:
            levels["alignment_error"] = 1 / 3
        if self._labels is not None and self._several_events:
            share = np.bincount(self._labels) / len(self._labels)
            levels["knn_accuracy"] = float((share**2).sum())
            if self._sequences:
                levels["phase_error"] = 1 - 1 / self._classes
        return levels

    def embed(self, encoder: Encoder) -> NDArray[np.float32]:
        """The frames' embeddings, float32 [n, D], on the encoder's device."""
        device = next(encoder.parameters()).device
        rows = []
        with evaluating(encoder):
            for part in self._frames.split(self._batch_size):
                images = encoder.preprocess(part.to(device))
                rows.append(encoder(images).float().cpu())
        return torch.cat(rows).numpy()

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Score the encoder as it is; its modes and running statistics are left as they were."""
        features = self.embed(encoder)
        if not np.isfinite(features).all():
            return {"finite": 0.0}
        scores = self._signs(features)
        if self._paired:
            embeddings = Embeddings(
                video_id=self._video,
                event=self._event,
                view=self._view,
                frame=np.arange(len(features)),
                time_s=self._time_s,
                features=features,
            )
            scores["alignment_error"] = alignment_error(embeddings)["alignment_error"]
        if self._labels is not None and self._several_events:
            gallery = Gallery(features, self._labels, self._event)
            shares = knn_scores(
                features,
                gallery,
                k=self._k,
                tau=self._tau,
                num_classes=self._classes,
                group=self._event,
            )
            scores["knn_accuracy"] = knn_accuracy(shares, self._labels, self._k)["accuracy"]
            if self._sequences:
                error = nearest_class_error(features, self._labels, self._event)
                scores["phase_error"] = error["phase_error"]
        return scores

    def _signs(self, features: NDArray[np.float32]) -> dict[str, float]:
        """The signs of collapse, and whether they persisted."""
        signs = collapse_signs(features, self._event)
        ringing = alarms(signs)
        grave = [name for name in ringing if name in GRAVE]
        # the first probe sees the untrained encoder, whose embeddings may lie in a narrow cone
        self._in_a_row = self._in_a_row + 1 if grave or self._in_a_row < 0 else 0
        self.warning = ""
        if self._in_a_row == 2:
            values = ", ".join(f"{LIMITS[n][0]} {signs[LIMITS[n][0]]:.3g}" for n in grave)
            self.warning = f"two online probes in a row found {', '.join(grave)}: {values}"
        scores = {
            "rankme": signs["rankme"],
            "spread": signs["normalised_std"],
            "rank_share": signs["rank_share"],
            "dead_units": signs["dead_units"],
            "alarms": float(len(ringing)),
            "alarms_in_a_row": float(self._in_a_row),
        }
        if self._several_events:
            scores["mean_cosine"] = signs["mean_cosine"]
        return scores
