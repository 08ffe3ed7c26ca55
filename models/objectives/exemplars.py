"""How one image is augmented into exemplars, and how their embeddings are held together.

S4L-Exemplar (Zhai et al., ICCV 2019, arXiv 1905.03670, section 3.2), after Dosovitskiy et al. 2014.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from marey.models.augmentation import color
from marey.models.objectives.arithmetic import squared_distances


class HSVNoise(NamedTuple):
    """What is drawn for each image; all float [N]."""

    hue: Tensor
    """Turn of the hue as share of the colour circle."""
    power: Tensor
    """float [N, 2]: exponents of saturation and value."""
    factor: Tensor
    """float [N, 2]: factors of both."""
    shift: Tensor
    """float [N, 2]: what is added to both."""


def draw_hsv_noise(count: int) -> HSVNoise:
    """Hue turned by up to 0.1; saturation and value x -> x^p f + s with p = 2^U(-2, 2),
    f = 2^U(-0.5, 0.5), s = U(-0.1, 0.1)."""
    pair = (count, 2)
    return HSVNoise(
        hue=torch.empty(count).uniform_(-0.1, 0.1),
        power=2 ** torch.empty(pair).uniform_(-2, 2),
        factor=2 ** torch.empty(pair).uniform_(-0.5, 0.5),
        shift=torch.empty(pair).uniform_(-0.1, 0.1),
    )


def apply_hsv_noise(images: Tensor, noise: HSVNoise) -> Tensor:
    """Images with other hue, saturation and value: float [N, 3, H, W] in [0, 1].

    Pixels without colour have no hue and get none.
    """
    noise = HSVNoise(*(amount.to(images.device, non_blocking=True) for amount in noise))
    turned = color.adjust_hue(images, noise.hue)
    value = turned.amax(dim=1, keepdim=True)
    chroma = value - turned.amin(dim=1, keepdim=True)
    # how far each channel lies below the value, as share of the chroma: the hue alone
    lack = (value - turned) / chroma.clamp_min(1e-6)
    saturation = chroma / value.clamp_min(1e-6)

    def varied(amount: Tensor, number: int) -> Tensor:
        power, factor, shift = (
            drawn[:, number].view(-1, 1, 1, 1) for drawn in (noise.power, noise.factor, noise.shift)
        )
        return (amount.clamp_min(1e-6) ** power * factor + shift).clamp(0, 1)

    return varied(value, 1) * (1 - varied(saturation, 0) * lack)


def batch_hard_terms(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Soft-margin triplet loss with each anchor's hardest positive and negative: (terms, counted).

    distance: [N, M], Euclidean, not squared; positive, negative: bool [N, M]. The term of an anchor
    is softplus(distance to the farthest positive - that to the nearest negative) (Hermans et al.
    2017, arXiv 1703.07737, section 2). Returns float [N] and bool [N]: anchors without a positive
    or a negative do not count, and their terms are 0.
    """
    farthest = distance.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distance.masked_fill(~negative, torch.inf).amin(dim=1)
    counted = positive.any(dim=1) & negative.any(dim=1)
    # infinities are taken out before the difference, whose gradient would be NaN
    apart = torch.where(counted, farthest, 0.0) - torch.where(counted, nearest, 0.0)
    return torch.where(counted, functional.softplus(apart), 0.0), counted


def distances(anchors: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances, at least float32 [N, M], with a finite gradient also at 0."""
    return squared_distances(anchors, others).clamp_min(1e-12).sqrt()
