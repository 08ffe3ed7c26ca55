"""The metric and contrastive objectives, as pure functions of embeddings and masks.

All compute in float32 whatever the autocast state. A mask row says, for one embedding, which
others attract (`positive`) and which repel (`negative`); what is in neither is ignored. A term
without a negative is left out, and a batch without any term gives 0 with zero gradient, never NaN
(`Objective.valid` then reads 0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Objective(NamedTuple):
    """A loss with what one wants to watch beside it."""

    loss: Tensor
    """Scalar with gradient."""
    score: Tensor
    """Share of triplets that are active (triplet, lifted), or share of rows whose best candidate
    is a positive (InfoNCE, n-pairs): float scalar without gradient."""
    valid: Tensor
    """Share of the terms that have a negative: float scalar."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values under the mask; 0, still attached to the graph, if there are none."""
    total = torch.where(mask, values, torch.zeros_like(values)).sum()
    return total / mask.sum().clamp_min(1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, float32 [N, M], never below 0. a: [N, D], b: [M, D]."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = full_precision(a), full_precision(b)
        squares = a.square().sum(1)[:, None] + b.square().sum(1)[None, :]
        return (squares - 2 * a @ b.T).clamp_min(0)


def paired_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of each row with that of the same number, [N]. a, b: [N, D]."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = full_precision(a), full_precision(b)
        return (functional.normalize(a, dim=1) * functional.normalize(b, dim=1)).sum(dim=1)


def semi_hard_triplet(
    embeddings: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.2
) -> Objective:
    """Triplet loss over all positive pairs, each with its semi-hard negative (TCN, FaceNet).

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
    repels = negative[anchor]
    semi_hard = repels & (candidates > attraction.detach()[:, None])
    nearest = torch.where(semi_hard, candidates, infinity).argmin(dim=1)
    farthest = torch.where(repels, candidates, -infinity).argmax(dim=1)
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
    """N-pairs loss: cross entropy of raw dot products, with an L2 term that bounds their scale.

    Sohn, NIPS 2016. anchors: [N, D] and positives: [M, D], not normalised; positive, negative:
    bool [N, M]. The L2 term is a quarter of `l2` times the mean squared lengths, as in TCN; it too
    is left out where no term is valid.
    """
    contrast = info_nce(anchors, positives, positive, negative, temperature=1.0)
    lengths = (
        full_precision(anchors).square().sum(1).mean()
        + full_precision(positives).square().sum(1).mean()
    )
    bound = torch.where(contrast.valid > 0, 0.25 * l2 * lengths, 0.0)
    return contrast._replace(loss=contrast.loss + bound)


def info_nce(
    queries: Tensor, keys: Tensor, positive: Tensor, negative: Tensor, temperature: float
) -> Objective:
    """InfoNCE: each positive against all negatives of its query (van den Oord et al. 2018).

    queries: [N, D], keys: [M, D], usually of length 1; positive, negative: bool [N, M]. A query
    with several positives is the mean of their terms; they do not compete with each other.
    """
    terms, counted, hit = info_nce_terms(queries, keys, positive, negative, temperature)
    return Objective(
        masked_mean(terms, counted),
        masked_mean(hit.float(), counted),
        _share(counted, positive.any(dim=1)),
    )


def info_nce_terms(
    queries: Tensor, keys: Tensor, positive: Tensor, negative: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """InfoNCE before its mean: term [N], which terms count [N], whose best candidate is right [N].

    Arguments as for `info_nce`.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = full_precision(queries) @ full_precision(keys).T / temperature
    repulsion = masked_logsumexp(logits, negative)
    each = torch.logaddexp(logits, repulsion[:, None]) - logits
    each = torch.where(positive, each, torch.zeros_like(each))
    terms = each.sum(dim=1) / positive.sum(dim=1).clamp_min(1)
    best = torch.where(positive, logits, torch.full_like(logits, -torch.inf)).amax(dim=1)
    worst = torch.where(negative, logits, torch.full_like(logits, -torch.inf)).amax(dim=1)
    return terms, positive.any(dim=1) & negative.any(dim=1), (best > worst).detach()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Objective:
    """NT-Xent of SimCLR (arXiv 2002.05709, equation 1), the mean over all 2N crops.

    first, second: [N, D], the unit embeddings of the two crops of each image. Every crop but a
    crop itself and its partner is its negative.
    """
    crops = torch.cat([first, second])
    itself = torch.eye(len(crops), dtype=torch.bool, device=crops.device)
    partner = itself.roll(len(first), dims=0)
    return info_nce(crops, crops, partner, ~(itself | partner), temperature)


def full_precision(values: Tensor) -> Tensor:
    """At least float32 (float64 stays, for gradient checks)."""
    return values if values.dtype == torch.float64 else values.float()


def masked_logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """Log of the summed exponentials of each row under the mask; -1e30 for an empty row.

    The floor is finite, since a gradient through -inf is NaN; it adds exactly 0 to any sum.
    """
    floor = torch.full_like(values, -1e30)
    summed = torch.where(mask, values, floor).logsumexp(dim=1)
    return torch.where(mask.any(dim=1), summed, floor[:, 0])


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part.sum().float() / whole.sum().clamp_min(1)
