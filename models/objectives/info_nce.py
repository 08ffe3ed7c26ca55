"""InfoNCE with masks: how a query's positive is told from its negatives, for every method.

    L_i = -log  exp(s_ip) / ( exp(s_ip) + sum over n in N_i of exp(s_in) )

(van den Oord et al. 2018, arXiv 1807.03748.) One row a query, one column a candidate:

- `scores`, float [R, C]: similarities over the temperature (`similarity`);
- `positive`: the column of each query's positive, int64 [R], or a mask, bool [R, C];
- `negative`, bool [R, C]: the candidates in N_i.

What is in neither is ignored: the query itself, and false negatives. Two frames of one video are
not independent images; those close in time, and near-duplicates of whatever video (re-uploads,
still scenes), must not be negatives of each other (`negative_mask`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.configs.base import Settings
from marey.models.batch import Batch
from marey.models.objectives.arithmetic import full_precision, masked_logsumexp
from marey.models.objectives.distributed import gather_rows, mean_over_ranks, own_rows
from marey.models.objectives.fingerprints import UNKNOWN, same_picture, same_picture_each


class Terms(NamedTuple):
    """The terms of R queries, before their mean (`summary`)."""

    loss: Tensor
    """float [R], with gradient: L_i, the mean over the query's positives if it has several."""
    counted: Tensor
    """bool [R], queries with a positive and enough negatives."""
    information: Tensor
    """float [R], no gradient: log of the candidates less the loss, in nats; 0 by chance. A lower
    bound on the mutual information of query and positive."""
    hit: Tensor
    """bool [R]: a positive has a higher score than every negative."""

    def mean(self) -> Tensor:
        """The loss: mean over the counted queries of all processes (this one's share of it)."""
        return mean_over_ranks(self.loss, self.counted)


def similarity(queries: Tensor, candidates: Tensor, temperature: float = 1.0) -> Tensor:
    """Dot products over the temperature: float [R, C]. queries: [R, D]; candidates: [C, D].

    Cosines, where the rows have length 1. In float32 whatever the autocast state: exp(1 / 0.07)
    already exceeds float16.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return full_precision(queries) @ full_precision(candidates).T / temperature


def info_nce(scores: Tensor, positive: Tensor, negative: Tensor, min_negatives: int = 1) -> Terms:
    """InfoNCE: each positive of a query against all of the query's negatives.

    scores: float [R, C]; positive: int64 [R] or bool [R, C]; negative: bool [R, C] (see above).
    Several positives do not compete with each other. min_negatives: queries with fewer are not
    counted.
    """
    scores = full_precision(scores)
    if positive.dtype == torch.bool:
        right, chosen = scores, positive
    else:
        right = scores.gather(1, positive[:, None])
        chosen = torch.ones_like(right, dtype=torch.bool)
    against = masked_logsumexp(scores, negative)
    each = torch.logaddexp(right, against[:, None]) - right
    each = torch.where(chosen, each, torch.zeros_like(each))
    loss = each.sum(dim=1) / chosen.sum(dim=1).clamp_min(1)
    count = negative.sum(dim=1)
    best = torch.where(chosen, right.detach(), -torch.inf).amax(dim=1)
    rival = torch.where(negative, scores.detach(), -torch.inf).amax(dim=1)
    return Terms(
        loss,
        chosen.any(dim=1) & (count >= min_negatives),
        torch.log1p(count.float()) - loss.detach(),
        best > rival,
    )


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float,
    negative: Tensor | None = None,
    min_negatives: int = 1,
) -> Terms:
    """NT-Xent of SimCLR (arXiv 2002.05709, equation 1) of this process's 2N crops.

        l(i, j) = -log  exp(z_i z_j / tau) / sum over k != i of exp(z_i z_k / tau)

    first, second: [N, D], the unit embeddings of the two crops of each image; candidates are the
    crops of all processes. negative: bool [2N, W 2N], which of them are negatives; unset, all but
    the crop itself and its positive, as in the equation.
    """
    crops = torch.cat([first, second])
    positive = partners(crops)
    scores = similarity(crops, gather_rows(crops), temperature)
    if negative is None:
        column = torch.arange(scores.shape[1], device=crops.device)
        negative = (column != own_rows(crops)[:, None]) & (column != positive[:, None])
    return info_nce(scores, positive, negative, min_negatives)


def positive_first(
    positive: Tensor, scores: Tensor, negative: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `info_nce` where positives are no candidates of other queries (MoCo).

    positive: float [R], scores of the positives; scores: float [R, K] and negative: bool [R, K], of
    the other candidates. The positive becomes column 0 of [R, 1 + K].
    """
    return (
        torch.cat([positive[:, None], scores], dim=1),
        torch.zeros_like(positive, dtype=torch.int64),
        functional.pad(negative, (1, 0), value=False),
    )


def against_queue(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    negative: Tensor,
    temperature: float,
    min_negatives: int = 1,
) -> Terms:
    """Each query with its own key against the keys of a queue (MoCo, arXiv 1911.05722, equation 1).

        L_q = -log  exp(q k+ / tau) / ( exp(q k+ / tau) + sum over k in queue of exp(q k / tau) )

    queries, keys: [R, D] and queue: [K, D], of length 1; negative: bool [R, K].
    """
    with torch.autocast(queries.device.type, enabled=False):
        positive = (queries * keys).sum(dim=1) / temperature
    scores = similarity(queries, queue, temperature)
    return info_nce(*positive_first(positive, scores, negative), min_negatives)


def summary(*terms: Terms) -> dict[str, Tensor]:
    """`loss` over all ranks, the sum of the given ones, and the means of their metrics."""
    of_each = [
        {
            "loss": mean_over_ranks(term.loss, term.counted),
            "information": mean_over_ranks(term.information, term.counted),
            "top1": mean_over_ranks(term.hit.float(), term.counted),
            "valid": term.counted.float().mean(),
        }
        for term in terms
    ]
    means = {name: torch.stack([one[name] for one in of_each]).mean() for name in of_each[0]}
    return means | {"loss": means["loss"] * len(terms)}


class NearDuplicates(Settings):
    """Which frames count as near-duplicates, and are no negatives of each other."""

    within_s: float = Field(default=10.0, ge=0)
    """Frames of one video at most this far apart, in seconds, are near-duplicates; 0 takes the very
    same moment alone, infinity the whole video."""
    bits: int | None = Field(default=4, ge=0, le=31)
    """Frames, of whatever videos, whose difference hashes of 64 bits differ in no more than this
    are near-duplicates: re-uploads, still scenes. Unset: pictures are not compared, as
    where all videos are of one fixed camera and little else tells them apart."""


class FrameIds(NamedTuple):
    """Where each of R frames comes from, and what it looks like."""

    instance: Tensor
    """int64 [R], the source video or image."""
    time_s: Tensor
    """float32 [R], its time in the video, in seconds."""
    dhash: Tensor
    """int64 [R], the hash of its picture (`marey.models.objectives.fingerprints`)."""

    def at(self, rows: Tensor | slice) -> FrameIds:
        """Those of some frames only: of int64 [M] or [R, M] numbers, or of a slice."""
        return FrameIds(*(key[rows] for key in self))

    def repeat(self, times: int) -> FrameIds:
        """The same frames again: [times R], all of the first copy, then all of the second."""
        return FrameIds(*(key.repeat(times) for key in self))

    def gathered(self) -> FrameIds:
        """Those of every rank, in rank order."""
        return FrameIds(*(gather_rows(key) for key in self))


def frame_ids(batch: Batch) -> FrameIds:
    """Where every frame of a batch comes from, sample after sample: [B F].

    A batch without `dhash`, int64 [B, F], is one of a method that goes by time alone.
    """
    time_s = batch["time_s"]
    instance = batch["instance"].repeat_interleave(time_s.shape[1])
    known = "dhash" in batch
    dhash = batch["dhash"].flatten() if known else torch.full_like(instance, UNKNOWN)
    return FrameIds(instance, time_s.flatten(), dhash)


def negative_mask(
    queries: FrameIds, candidates: FrameIds, near_duplicates: NearDuplicates
) -> Tensor:
    """bool [R, C]: the two frames show different things, and may be negatives of each other.

    candidates: of C frames, or [R, C] of each query's own.
    """
    duplicate = close_in_time(queries, candidates, near_duplicates.within_s)
    if near_duplicates.bits is not None:
        compare = same_picture if candidates.dhash.ndim == 1 else same_picture_each
        duplicate |= compare(queries.dhash, candidates.dhash, near_duplicates.bits)
    return ~duplicate


def close_in_time(queries: FrameIds, candidates: FrameIds, within_s: float) -> Tensor:
    """bool [R, C]: the two frames are of one video and at most `within_s` apart.

    candidates: as for `negative_mask`. 0 keeps only the very same moment; infinity takes a whole
    video as one thing.
    """
    same = queries.instance[:, None] == candidates.instance
    return same & ((queries.time_s[:, None] - candidates.time_s).abs() <= within_s)


def partners(crops: Tensor) -> Tensor:
    """int64 [2N]: the column of each crop's partner among the crops of all ranks.

    crops: [2N, ...], this rank's: all first ones, then all second ones in the same order.
    """
    return own_rows(crops).roll(len(crops) // 2)


def equal_pairs(key: Tensor) -> Tensor:
    """bool [N, N]: which two entries of a key, [N], are the same."""
    return key[:, None] == key[None, :]
