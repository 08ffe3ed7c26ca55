"""Has an embedding space collapsed, and does it tell images apart?

What methods without negatives report, since their loss alone does not say: a collapsed network
reaches the lowest value of most of these losses.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """How far unit embeddings point apart: sqrt(D) times the mean deviation of their entries.

    embeddings: [N, D], of any length. Returns a float32 scalar: 1.0 for directions without
    preference, 0 for one direction only (SimSiam, arXiv 2011.10566, section 4.1).
    """
    units = functional.normalize(embeddings.float(), dim=1)
    return units.std(dim=0, correction=0).mean() * units.shape[1] ** 0.5


@torch.no_grad()
def pair_auc(first: Tensor, second: Tensor, instance: Tensor) -> Tensor:
    """How often a crop is nearer to its own partner than to a crop of another video or image.

    first, second: [N, D], two crops of N frames; instance: int64 [N]. Cosine similarity; ties count
    half, so that collapse gives 0.5, as does chance. 0.5 also where there is nothing else to
    compare with. Returns a float32 scalar.
    """
    first, second = (functional.normalize(crops.float(), dim=1) for crops in (first, second))
    with torch.autocast(first.device.type, enabled=False):
        similarity = first @ second.T
    own = similarity.diagonal()[:, None]
    won = (own > similarity).float() + 0.5 * (own == similarity).float()
    other = instance[:, None] != instance[None, :]
    compared = other.sum()
    share = torch.where(other, won, torch.zeros_like(won)).sum() / compared.clamp_min(1)
    return torch.where(compared > 0, share, torch.full_like(share, 0.5))


PIXELS = 4
"""Cells along each side of the picture that stands for knowing colours and light alone."""


@torch.no_grad()
def over_pixels(auc: Tensor, first: Tensor, second: Tensor, instance: Tensor) -> dict[str, Tensor]:
    """`pixel_auc`, the `pair_auc` of the crops' own colours in 4x4 cells, and `auc_over_pixels`,
    how far an embedding's `auc` is above it: pairs can be told well without any learning.

    first, second: the network's input, float [N, 3, ...]; instance: as for `pair_auc`, or fewer,
    each of several frames.
    """
    instance = instance.repeat_interleave(len(first) // len(instance))
    both = torch.stack([_cells(first), _cells(second)])
    both = both - both.mean(dim=(0, 1))
    pixels = pair_auc(both[0], both[1], instance)
    return {"pixel_auc": pixels, "auc_over_pixels": auc - pixels}


def _cells(images: Tensor) -> Tensor:
    """float [N, 3, (T,) S, S] -> [N, values]."""
    still = images.float().mean(dim=2) if images.ndim == 5 else images.float()
    return functional.adaptive_avg_pool2d(still, PIXELS).flatten(1)


def joint_embedding_metrics(first: Tensor, second: Tensor, instance: Tensor) -> dict[str, Tensor]:
    """`spread` of both crops' embeddings and their `pair_auc`, as metrics of a method.

    Arguments as for `pair_auc`; instance int64 [B] may count samples of several frames each.
    """
    instance = instance.repeat_interleave(len(first) // len(instance))
    return {
        "spread": (spread(first) + spread(second)) / 2,
        "pair_auc": pair_auc(first, second, instance),
    }
