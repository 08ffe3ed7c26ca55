"""Which moments of other videos are most like a given one? One a video, the best ones first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.knn import unit_rows

_CHUNK = 16 * 1024 * 1024
"""Similarities held at once."""


class Moments:
    """Embedded frames that can be searched by cosine similarity."""

    def __init__(self, embeddings: Embeddings) -> None:
        """embeddings: sorted by video, as `load_embeddings` gives them."""
        self.unit = unit_rows(embeddings.features)
        names = embeddings.video_id
        new = np.flatnonzero(names[1:] != names[:-1]) + 1
        self._starts = np.concatenate([[0], new]).astype(np.int64)
        ends = np.append(self._starts[1:], len(names))
        self._ends = ends
        self.video = np.repeat(np.arange(len(self._starts)), ends - self._starts)
        """int64 [n]: the number of each row's video."""

    def nearest(
        self, queries: NDArray[np.floating], own: NDArray[np.int64] | None, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best moment of each of the `count` most similar videos.

        queries: [q, D]. own: int64 [q], numbers of videos that are left out of the answers, or
        None. Returns rows int64 [q, k] and cosines float32 [q, k], the largest first; k is less
        than `count` where there are fewer other videos.
        """
        unit = unit_rows(queries)
        videos = len(self._starts)
        k = min(count, videos - (own is not None))
        rows = np.empty((len(unit), max(0, k)), np.int64)
        cosines = np.empty((len(unit), max(0, k)), np.float32)
        if k <= 0:
            return rows, cosines
        step = max(1, _CHUNK // len(self.unit))
        for start in range(0, len(unit), step):
            similarity = unit[start : start + step] @ self.unit.T
            best = np.maximum.reduceat(similarity, self._starts, axis=1)
            if own is not None:
                best[np.arange(len(best)), own[start : start + step]] = -np.inf
            chosen = np.argsort(-best, axis=1, kind="stable")[:, :k]
            for n, picked in enumerate(chosen):
                for place, video in enumerate(picked):
                    first, last = self._starts[video], self._ends[video]
                    rows[start + n, place] = first + similarity[n, first:last].argmax()
            cosines[start : start + step] = np.take_along_axis(best, chosen, axis=1)
        return rows, cosines
