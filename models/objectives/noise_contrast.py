"""Noise-contrastive estimation, and contrast with a memory bank (InstDisc, CMC, Local Aggregation).

    L = -log h(s_p) - sum over n in N of log(1 - h(s_n)),   h(s) = P / (P + K / M),   P = exp(s) / Z

with K rows drawn uniformly from the M of a bank (InstDisc, arXiv 1805.01978, equation 7). All is
computed in logarithms and in float32, since exp(1 / 0.07) already exceeds float16.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import gather_rows
from marey.models.objectives.info_nce import FrameIds, NearDuplicates, Terms, info_nce
from marey.models.objectives.memory import Bank


def noise_contrast(
    scores: Tensor,
    positive: Tensor,
    negative: Tensor,
    log_z: Tensor,
    rows: int,
    min_negatives: int = 1,
) -> Terms:
    """Noise-contrastive estimation, over the same arguments as `info_nce`.

    scores: [R, 1 + K]: of the positive and of K rows drawn uniformly from the `rows` of a bank;
    positive: int64 [R].
    """
    scores = full_precision(scores)
    log_noise = math.log((scores.shape[1] - 1) / rows)
    log_p = scores - log_z
    right = log_p.gather(1, positive[:, None])[:, 0]
    noise = torch.full_like(right, log_noise)
    attraction = torch.logaddexp(right, noise) - right
    repulsion = torch.logaddexp(log_p, noise[:, None]) - log_noise
    loss = attraction + torch.where(negative, repulsion, torch.zeros_like(repulsion)).sum(dim=1)
    return info_nce(scores.detach(), positive, negative, min_negatives)._replace(loss=loss)


class Partition(nn.Module):
    """The constant Z of noise contrast, estimated on the first batches and then frozen.

    The paper takes one batch; more guard against one that happens to be odd.
    """

    log_total: Tensor
    """Of the means of exp(score) of the batches seen, the logarithm of the sum."""
    seen: Tensor

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches
        self.register_buffer("log_total", torch.tensor(-torch.inf))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._held: list[Tensor] = []

    @torch.no_grad()
    def log_z(self, scores: Tensor, rows: int) -> Tensor:
        """log Z, float scalar: of the batches so far and, until it is frozen, of this one."""
        # in logarithms: exp(1 / temperature) is beyond float32 below a temperature of 0.0113
        mine = full_precision(scores).flatten().logsumexp(dim=0) - math.log(scores.numel())
        mine = gather_rows(mine[None])
        mine = mine.logsumexp(dim=0) - math.log(len(mine))
        if self.training:
            self._held.append(mine)
        log_total, seen = self._with(mine)
        return math.log(rows) + log_total - seen.log()

    def _with(self, mine: Tensor) -> tuple[Tensor, Tensor]:
        """`log_total` and `seen` with one batch more, unless enough have been."""
        open_ = self.seen < self.batches
        added = torch.where(open_, mine, -torch.inf)
        return torch.logaddexp(self.log_total, added), self.seen + open_.long()

    @torch.no_grad()
    def write(self) -> None:
        """Count the batches of this step, unless enough have been."""
        for mine in self._held:
            log_total, seen = self._with(mine)
            self.log_total.copy_(log_total)
            self.seen.copy_(seen)
        self._held.clear()


def against_bank(
    embeddings: Tensor,
    place: Tensor,
    frames: FrameIds,
    bank: Bank,
    *,
    temperature: float,
    near_duplicates: NearDuplicates,
    noise: Tensor | None = None,
    partition: Partition | None = None,
    min_negatives: int = 1,
) -> Terms:
    """Each embedding with its own row of a bank against all others, or against those of `noise`.

    embeddings: float [R, D], of length 1; place: int64 [R], their rows; frames: what they show;
    rows of near-duplicates are no negatives. noise: int64 [R, K], rows drawn uniformly. With a
    `partition`: noise contrast against them, else InfoNCE.
    """
    if noise is None:
        chosen, positive = None, place
    else:
        chosen, positive = torch.cat([place[:, None], noise], dim=1), torch.zeros_like(place)
    scores = bank.scores(embeddings, temperature, chosen)
    negative = bank.negatives(place, frames, near_duplicates, chosen)
    if partition is None:
        return info_nce(scores, positive, negative, min_negatives)
    rows = len(bank.rows)
    log_z = partition.log_z(scores.detach(), rows)
    return noise_contrast(scores, positive, negative, log_z, rows, min_negatives)
