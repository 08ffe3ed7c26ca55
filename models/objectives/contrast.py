"""How one right score is held against many wrong ones: by a softmax, or by noise contrast.

Scores are cosines over a temperature, float [R] for the right one and [R, K] for the others, of
which only those that `repels` may count. All is computed in logarithms and in float32, since
exp(1 / 0.07) already exceeds float16. A row without anything that repels is not counted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from marey.models.objectives.distributed import gather_rows, mean_over_ranks
from marey.models.objectives.instances import AlikeConfig, Moments
from marey.models.objectives.losses import full_precision, masked_logsumexp
from marey.models.objectives.memory import Bank


class Terms(NamedTuple):
    """The terms of R rows."""

    loss: Tensor
    """float [R], with gradient."""
    counted: Tensor
    """bool [R], rows that have enough against them."""
    information: Tensor
    """float [R], no gradient: log of the candidates less the softmax loss, in nats; 0 by chance."""
    hit: Tensor
    """bool [R]: the right score is the best one."""


def softmax_terms(right: Tensor, others: Tensor, repels: Tensor, fewest: int = 1) -> Terms:
    """Cross entropy of the right score among all candidates (InfoNCE).

    fewest: rows with fewer candidates than this beside the right one are not counted.
    """
    right, others = full_precision(right), full_precision(others)
    loss = torch.logaddexp(right, masked_logsumexp(others, repels)) - right
    count = repels.sum(dim=1)
    information = torch.log1p(count.float()) - loss.detach()
    hit = right.detach() > torch.where(repels, others.detach(), -torch.inf).amax(dim=1)
    return Terms(loss, count >= fewest, information, hit)


def nce_terms(
    right: Tensor, others: Tensor, repels: Tensor, log_z: Tensor, places: int, fewest: int = 1
) -> Terms:
    """Noise-contrastive estimation (InstDisc, arXiv 1805.01978, equation 7).

    others: scores of K rows drawn uniformly from `places`. With P = exp(score) / Z and
    h = P / (P + K / places): the term is -log h(right) - sum over others of log(1 - h).
    """
    right, others = full_precision(right), full_precision(others)
    log_noise = math.log(others.shape[1] / places)
    likely, unlikely = right - log_z, others - log_z
    noise = torch.full_like(likely, log_noise)
    attraction = torch.logaddexp(likely, noise) - likely
    repulsion = torch.logaddexp(unlikely, noise[:, None]) - log_noise
    loss = attraction + torch.where(repels, repulsion, torch.zeros_like(repulsion)).sum(dim=1)
    _, counted, information, hit = softmax_terms(right.detach(), others.detach(), repels, fewest)
    return Terms(loss, counted, information, hit)


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
    def log_z(self, scores: Tensor, places: int) -> Tensor:
        """log Z, float scalar: of the batches so far and, until it is frozen, of this one."""
        # in logarithms: exp(1 / temperature) is beyond float32 below a temperature of 0.0113
        mine = full_precision(scores).flatten().logsumexp(dim=0) - math.log(scores.numel())
        mine = gather_rows(mine[None])
        mine = mine.logsumexp(dim=0) - math.log(len(mine))
        if self.training:
            self._held.append(mine)
        log_total, seen = self._with(mine)
        return math.log(places) + log_total - seen.log()

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


def bank_terms(
    embeddings: Tensor,
    place: Tensor,
    where: Moments,
    bank: Bank,
    *,
    temperature: float,
    alike: AlikeConfig,
    noise: Tensor | None = None,
    partition: Partition | None = None,
    fewest: int = 1,
) -> Terms:
    """Each embedding with its own row of a bank against the others, or against those of `noise`.

    embeddings: float [R, D], of length 1; place: int64 [R], their rows; where: what they show; rows
    of something `alike` do not repel. noise: int64 [R, K], rows drawn
    uniformly. With a `partition`: noise contrast against them, else a softmax.
    """
    repels = bank.repels(place, where, alike, noise)
    right, others = bank.scores(embeddings, place, temperature, noise)
    if partition is None:
        return softmax_terms(right, others, repels, fewest)
    places = len(bank.rows)
    scores = torch.cat([right[:, None], others], dim=1)
    log_z = partition.log_z(scores.detach(), places)
    return nce_terms(right, others, repels, log_z, places, fewest)


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


def queue_terms(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    repels: Tensor,
    temperature: float,
    fewest: int = 1,
) -> Terms:
    """Each query against its own key and what repels it in the queue (equation 1).

    queries, keys: [R, D] and queue: [K, D], of length 1; repels: bool [R, K].
    """
    with torch.autocast(queries.device.type, enabled=False):
        scaled = queries / temperature
        return softmax_terms((scaled * keys).sum(dim=1), scaled @ queue.T, repels, fewest)
