"""Losses of metric learning over a whole batch: triplet, lifted structure, N-pairs, InfoNCE.

All compute in float32 whatever the autocast state. A row of the masks says, for one embedding,
which others are its positives (`positive`) and its negatives (`negative`); what is in neither is
ignored. A term without a negative is left out, and a batch without any term gives 0 with zero
gradient, never NaN (`Objective.valid` then reads 0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from marey.models.objectives.arithmetic import (
    full_precision,
    masked_logsumexp,
    masked_mean,
    squared_distances,
)
from marey.models.objectives.info_nce import Terms, info_nce, nt_xent, similarity

__all__ = [
    "Objective", "info_nce", "lifted_structure", "n_pairs", "nt_xent", "semi_hard_triplet",
    "similarity",
]  # fmt: skip


class Objective(NamedTuple):
    """A loss with what one wants to watch beside it."""

    loss: Tensor
    """Scalar with gradient."""
    score: Tensor
    """Share of triplets that are active (triplet, lifted), or share of rows whose best candidate
    is a positive (InfoNCE, n-pairs): float scalar without gradient."""
    valid: Tensor
    """Share of the terms that have a negative: float scalar."""

    @classmethod
    def mean(cls, terms: Terms, positive: Tensor) -> Objective:
        """The mean of InfoNCE's terms over a whole batch. positive: bool [R, C], as given there."""
        return cls(
            masked_mean(terms.loss, terms.counted),
            masked_mean(terms.hit.float(), terms.counted),
            _share(terms.counted, positive.any(dim=1)),
        )


def semi_hard_triplet(
    embeddings: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.2
) -> Objective:
    """Triplet loss over all positive pairs, each with its semi-hard negative (TCN, FaceNet).

        L = mean over pairs (a, p) of  max(0, |z_a - z_p|^2 - |z_a - z_n|^2 + margin)

    embeddings: [N, D]; positive, negative: bool [N, N]. For a pair (i, j) the negative is the
    nearest one farther from i than j is; if none is farther, the farthest one. The pairs of rows
    without negatives are left out.
    """
    distance = squared_distances(embeddings, embeddings)
    detached = distance.detach()
    pairs = positive & negative.any(dim=1, keepdim=True)
    anchor, match = pairs.nonzero(as_tuple=True)
    attraction = distance[anchor, match]
    candidates = detached[anchor]
    infinity = torch.full_like(candidates, torch.inf)
    allowed = negative[anchor]
    semi_hard = allowed & (candidates > attraction.detach()[:, None])
    nearest = torch.where(semi_hard, candidates, infinity).argmin(dim=1)
    farthest = torch.where(allowed, candidates, -infinity).argmax(dim=1)
    chosen = torch.where(semi_hard.any(dim=1), nearest, farthest)
    terms = (attraction - distance[anchor, chosen] + margin).clamp_min(0)
    every = torch.ones_like(terms, dtype=torch.bool)
    active = masked_mean((terms.detach() > 0).float(), every)
    loss = masked_mean(terms, every) + 0 * distance.sum()
    return Objective(loss, active, _share(pairs, positive))


def lifted_structure(
    embeddings: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0
) -> Objective:
    """Lifted structured loss: every positive pair against the negatives of both its ends.

        J_ij = |z_i - z_j| + log sum over n in N_i or N_j of exp(margin - |z - z_n|)
        L = mean over pairs of  max(0, J_ij)^2 / 2

    Song et al., arXiv 1511.06452, equation 4; distances are not squared. embeddings: [N, D];
    positive, negative: bool [N, N]. Each unordered pair counts once.
    """
    distance = (squared_distances(embeddings, embeddings) + 1e-12).sqrt()
    repulsion = masked_logsumexp(margin - distance, negative)
    both = torch.logaddexp(repulsion[:, None], repulsion[None, :])
    wanted = (positive | positive.T).triu(diagonal=1)
    pairs = wanted & (negative.any(1)[:, None] | negative.any(1)[None, :])
    terms = torch.where(pairs, distance + both, torch.zeros_like(both)).clamp_min(0)
    active = masked_mean((terms.detach() > 0).float(), pairs)
    return Objective(masked_mean(terms.square() / 2, pairs), active, _share(pairs, wanted))


def n_pairs(
    anchors: Tensor, positives: Tensor, positive: Tensor, negative: Tensor, l2: float = 0.002
) -> Objective:
    """N-pairs loss: InfoNCE of raw dot products, with an L2 term that bounds their scale.

    Sohn, NIPS 2016. anchors: [N, D] and positives: [M, D], not normalised; positive, negative:
    bool [N, M]. The L2 term is a quarter of `l2` times the mean squared lengths, as in TCN; it too
    is left out where no term is valid.
    """
    terms = info_nce(similarity(anchors, positives), positive, negative)
    contrast = Objective.mean(terms, positive)
    lengths = (
        full_precision(anchors).square().sum(1).mean()
        + full_precision(positives).square().sum(1).mean()
    )
    bound = torch.where(contrast.valid > 0, 0.25 * l2 * lengths, 0.0)
    return contrast._replace(loss=contrast.loss + bound)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part.sum().float() / whole.sum().clamp_min(1)
