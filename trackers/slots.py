"""Which boxes are being followed right now, and where are they? Arrays with one entry per box."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from marey.trackers.tracker import Job


@dataclass
class Slots:
    """The boxes that are being followed, one entry each."""

    job: NDArray[np.int64]
    box: NDArray[np.int64]
    start: NDArray[np.int64]  # the frame in which the box was given
    frame: NDArray[np.int64]
    centre: NDArray[np.float64]  # [N, 2]
    size: NDArray[np.float64]  # [N, 2], of the first box
    scale: NDArray[np.float64]
    velocity: NDArray[np.float64]  # [N, 2], pixels a frame
    low: NDArray[np.int64]  # frames in a row below the threshold
    usual: NDArray[np.float64]  # running mean of the response's peak
    limit: NDArray[np.int64]  # [N, 2], frame width and height
    alive: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.job)

    def take(self, rows: NDArray[np.int64]) -> "Slots":
        return Slots(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def join(self, other: "Slots") -> "Slots":
        return Slots(
            **{
                f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)])
                for f in fields(self)
            }
        )


def open_slots(jobs: list[Job], taken: list[tuple[int, int]]) -> Slots:
    """Slots for boxes (job, number) at their start frames."""
    job = np.array([j for j, _ in taken], dtype=np.int64)
    given = np.array([jobs[j].boxes[jobs[j].start[b], b] for j, b in taken], dtype=np.float64)
    start = np.array([jobs[j].start[b] for j, b in taken], dtype=np.int64)
    num = len(taken)
    return Slots(
        job=job,
        box=np.array([b for _, b in taken], dtype=np.int64),
        start=start,
        frame=start.copy(),
        centre=given[:, :2] + given[:, 2:] / 2.0,
        size=given[:, 2:].copy(),
        scale=np.ones(num),
        velocity=np.zeros((num, 2)),
        low=np.zeros(num, dtype=np.int64),
        usual=np.full(num, np.nan),
        limit=np.array([jobs[j].size for j in job], dtype=np.int64),
        alive=np.ones(num, dtype=bool),
    )
