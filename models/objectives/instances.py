"""Which frames show the same thing: those of one video that lie close in time, and near copies.

Frames of one video are not independent images. What attracts and repels must not call two moments
of one shot different things; how far apart they must be is a setting of each method. Nor may it do
so with one picture that a corpus holds twice: an upload of another, a scene that stands still.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from marey.configs.base import Settings
from marey.models.batch import Batch
from marey.models.objectives.distributed import gather_rows, own_rows
from marey.models.objectives.fingerprints import UNKNOWN, same_picture, same_picture_each


class AlikeConfig(Settings):
    """Frames so alike that they do not repel each other."""

    within_s: float = Field(default=10.0, ge=0)
    """Frames of one video that are no farther apart than this, in seconds, count as alike; 0 takes
    the very same moment alone, infinity the whole video."""
    bits: int | None = Field(default=4, ge=0, le=31)
    """Frames, of whatever videos, whose difference hashes of 64 bits differ in no more than this
    count as alike: uploads of one thing, scenes that stand still. Unset: looks do not count, as
    where all videos are of one fixed camera and little else tells them apart."""


class Moments(NamedTuple):
    """Where each of R frames comes from, and what it looks like."""

    instance: Tensor
    """int64 [R], the source video or image."""
    time_s: Tensor
    """float32 [R], its time in the video, in seconds."""
    dhash: Tensor
    """int64 [R], the hash of its picture (`marey.models.objectives.fingerprints`)."""

    def at(self, rows: Tensor | slice) -> Moments:
        """Those of some frames only: of int64 [M] or [R, M] numbers, or of a slice."""
        return Moments(*(key[rows] for key in self))

    def repeat(self, times: int) -> Moments:
        """The same moments again: [times R], all of the first copy, then all of the second."""
        return Moments(*(key.repeat(times) for key in self))

    def gathered(self) -> Moments:
        """Those of every rank, in rank order."""
        return Moments(*(gather_rows(key) for key in self))


def moments(batch: Batch) -> Moments:
    """The moment of every frame of a batch, sample after sample: [B F].

    A batch without `dhash`, int64 [B, F], is one of a method that goes by time alone.
    """
    time_s = batch["time_s"]
    instance = batch["instance"].repeat_interleave(time_s.shape[1])
    known = "dhash" in batch
    dhash = batch["dhash"].flatten() if known else torch.full_like(instance, UNKNOWN)
    return Moments(instance, time_s.flatten(), dhash)


def near(rows: Moments, columns: Moments, within_s: float) -> Tensor:
    """bool [R, C]: the two frames are of one instance and at most `within_s` apart.

    columns: of C frames, or [R, C] of each row's own. 0 keeps only the very same moment; infinity
    takes a whole video as one thing.
    """
    same = rows.instance[:, None] == columns.instance
    return same & ((rows.time_s[:, None] - columns.time_s).abs() <= within_s)


def unlike(rows: Moments, columns: Moments, alike: AlikeConfig) -> Tensor:
    """bool [R, C]: the two frames show different things, and may repel each other.

    columns: as for `near`.
    """
    same = near(rows, columns, alike.within_s)
    if alike.bits is not None:
        compare = same_picture if columns.dhash.ndim == 1 else same_picture_each
        same |= compare(rows.dhash, columns.dhash, alike.bits)
    return ~same


def equal_pairs(key: Tensor) -> Tensor:
    """bool [N, N]: which two entries of a key, [N], are the same."""
    return key[:, None] == key[None, :]


def partners(crops: Tensor) -> Tensor:
    """int64 [2N]: where each crop's partner lies among those of all ranks.

    crops: [2N, ...], this rank's: all first ones, then all second ones in the same order.
    """
    return own_rows(crops).roll(len(crops) // 2)
