"""Which moments of other videos, or events, are most like a given one? One from each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.configs.nearest import suggest
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.knn import unit_rows

_CHUNK = 16 * 1024 * 1024
"""Similarities held at once."""


class Moments:
    """Embedded frames that can be searched by cosine similarity."""

    def __init__(self, embeddings: Embeddings, *, by_event: bool = False) -> None:
        """embeddings: sorted by event and video, as `load_embeddings` gives them. by_event: what
        the videos of this class are, are events: all views of one happening together."""
        self.unit = unit_rows(embeddings.features)
        names = embeddings.event if by_event else embeddings.video_id
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


@dataclass(frozen=True, slots=True)
class Moment:
    """An embedded frame that was found, and how much it is like the one that was asked for."""

    video_id: str
    event: str
    view: str
    frame: int
    """Number of the frame in its video."""
    time_s: float
    """When it is first shown: seconds, in the clock of its event."""
    similarity: float
    """Cosine of the two embeddings: 1 for the same direction, 0 for unrelated ones."""


def find(
    embeddings: Embeddings, video: str, time_s: float, count: int = 5
) -> tuple[Moment, list[Moment]]:
    """The embedded frame nearest to a time of a video, and the most similar one of each of the
    `count` most similar other events, the best first.

    Other cameras show the same moment of the video's own event, which is no discovery.

    video: a `video_id`, or the end of one or of a file's path (`walk.mp4`). time_s: seconds, in
    the clock of the video's event. Raises InputError for a video or a time that is not there, and
    where there is no other event.
    """
    rows = _rows_of(embeddings, video)
    times = embeddings.time_s[rows]
    gap = float(np.diff(times).max()) if len(times) > 1 else 0.0
    if not times[0] - gap <= time_s <= times[-1] + gap:
        raise InputError(
            f"{embeddings.video_id[rows[0]]} has no embedded frame at {time_s:g} s; its frames go "
            f"from {times[0]:.2f} to {times[-1]:.2f} s"
        )
    asked = int(rows[np.abs(times - time_s).argmin()])
    moments = Moments(embeddings, by_event=True)
    found, cosines = moments.nearest(
        embeddings.features[[asked]], moments.video[[asked]], max(1, count)
    )
    if not found.size:
        raise InputError(
            f"all embedded frames are of the event {embeddings.event[asked]}, and moments are "
            "looked for in others: embed an index of several events "
            "(`marey embed RUN --data INDEX -o EMBEDDINGS`)"
        )
    return _moment(embeddings, asked, 1.0), [
        _moment(embeddings, row, cosine)
        for row, cosine in zip(found[0].tolist(), cosines[0].tolist(), strict=True)
    ]


def _rows_of(embeddings: Embeddings, video: str) -> NDArray[np.int64]:
    """The rows of the one video that a name stands for, in the order of their times.

    Raises InputError where no video, or more than one, has the name.
    """
    names = np.unique(embeddings.video_id.astype(str))
    named = [name for name in names if name == video] or [
        name for name in names if name.endswith(f"/{video}") or video.endswith(f"/{name}")
    ]
    if len(named) > 1:
        raise InputError(f"{video} may be any of {', '.join(named[:5])}: give more of its path")
    if not named:
        raise InputError(f"no embedded video is called {video}{suggest(video, names.tolist())}")
    rows = np.flatnonzero(embeddings.video_id == named[0])
    return rows[np.argsort(embeddings.time_s[rows], kind="stable")]


def _moment(embeddings: Embeddings, row: int, similarity: float) -> Moment:
    return Moment(
        str(embeddings.video_id[row]),
        str(embeddings.event[row]),
        str(embeddings.view[row]),
        int(embeddings.frame[row]),
        float(embeddings.time_s[row]),
        round(similarity, 6),
    )
