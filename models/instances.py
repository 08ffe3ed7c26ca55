"""Which frames show the same thing: those of one video that lie close in time.

Frames of one video are not independent images. What attracts and repels must not call two moments
of one shot different things; how far apart they must be is a setting of each method.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from models.distributed import gather_rows, own_rows
from models.method import Batch


class Moments(NamedTuple):
    """Where each of R frames comes from."""

    instance: Tensor
    """int64 [R], the source video or image."""
    time_s: Tensor
    """float32 [R], its time in the video, in seconds."""

    def repeat(self, times: int) -> Moments:
        """The same moments again: [times R], all of the first copy, then all of the second."""
        return Moments(*(key.repeat(times) for key in self))

    def gathered(self) -> Moments:
        """Those of every rank, in rank order."""
        return Moments(*(gather_rows(key) for key in self))


def moments(batch: Batch) -> Moments:
    """The moment of every frame of a batch, sample after sample: [B F]."""
    time_s = batch["time_s"]
    return Moments(batch["instance"].repeat_interleave(time_s.shape[1]), time_s.flatten())


def alike(rows: Moments, columns: Moments, within_s: float) -> Tensor:
    """bool [R, C]: the two frames are of one instance and at most `within_s` apart.

    0 keeps only the very same moment; infinity takes a whole video as one thing.
    """
    same = rows.instance[:, None] == columns.instance[None, :]
    near = (rows.time_s[:, None] - columns.time_s[None, :]).abs() <= within_s
    return same & near


def equal_pairs(key: Tensor) -> Tensor:
    """bool [N, N]: which two entries of a key, [N], are the same."""
    return key[:, None] == key[None, :]


def partners(crops: Tensor) -> Tensor:
    """int64 [2N]: where each crop's partner lies among those of all ranks.

    crops: [2N, ...], this rank's: all first ones, then all second ones in the same order.
    """
    return own_rows(crops).roll(len(crops) // 2)
