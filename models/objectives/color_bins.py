"""Which bins of the ab plane colours fall into, and how much each bin weighs.

Colorization (Zhang, Isola, Efros, ECCV 2016, arXiv 1603.08511) predicts a distribution over bins of
CIE Lab's a and b. All functions are pure; colours are in units of a and b.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from marey.models.augmentation.color import rgb_to_lab
from marey.models.objectives.arithmetic import full_precision


def gamut_bins(step: float = 10.0) -> Tensor:
    """Centres of the bins that sRGB needs: float32 [Q, 2], sorted by a, then b.

    They are the corners of all cells of a grid of this step that some 8-bit colour lies in, so that
    every colour lies between four bins; 309 for a step of 10, where the paper counts 313.
    """
    lowest, side = -200, 400  # wider than any colour, in cells of the finest step
    corners = torch.tensor([0, 1, side, side + 1])
    cells = torch.floor(_faces() / step).long() - lowest
    found = ((cells[:, 0] * side + cells[:, 1]).unique()[:, None] + corners).unique()
    return torch.stack([found // side, found % side], dim=1).add(lowest).float() * step


def _faces() -> Tensor:
    """a and b of the 8-bit colours on the faces of the RGB cube, float64 [6 * 256^2, 2].

    Any colour has one of the same a and b on a face, so that these span the gamut.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    plane = torch.cartesian_prod(levels, levels)
    sides = []
    for channel, value in itertools.product(range(3), (0.0, 1.0)):
        fixed = torch.full((len(plane), 1), value, dtype=torch.float64)
        sides.append(torch.cat([plane[:, :channel], fixed, plane[:, channel:]], dim=1))
    rgb = torch.cat(sides)
    return rgb_to_lab(rgb.T[None, :, None])[0, 1:, 0].T


def soft_bins(
    colors: Tensor, centres: Tensor, neighbours: int = 5, sigma: float = 5.0
) -> tuple[Tensor, Tensor]:
    """The bins nearest to each colour and its share in each (section 2.2).

    colors: float [N, 2]; centres: [Q, 2]. Returns bins, int64 [N, `neighbours`], nearest first, and
    shares, [N, `neighbours`], which sum to 1: a Gaussian of this deviation over the distances.
    """
    with torch.autocast(colors.device.type, enabled=False):
        colors = full_precision(colors)
        squares = (colors[:, None] - centres.to(colors)[None]).square().sum(dim=2)
        nearest, bins = squares.topk(min(neighbours, len(centres)), largest=False)
        return bins, (-nearest / (2 * sigma**2)).softmax(dim=1)


def bin_weights(counts: Tensor, centres: Tensor, mix: float = 0.5, sigma: float = 5.0) -> Tensor:
    """How much a pixel of each bin weighs: float64 [Q], of mean 1 over the pixels counted.

    counts: [Q], pixels seen of each bin. w = 1 / ((1 - mix) p + mix / Q'), p being the shares
    smoothed over neighbouring bins by a Gaussian of deviation `sigma` (0: not smoothed) and Q' the
    bins where p is not 0; the others weigh nothing. Scaled so that the mean is 1 (section 2.2).
    Without any count every bin weighs 1.
    """
    counts = counts.double()
    pixels = counts.sum()
    share = counts / pixels
    smooth = share
    if sigma:
        places = centres.double()
        squares = (places[:, None] - places[None]).square().sum(dim=2)
        kernel = torch.exp(-squares / (2 * sigma**2))
        smooth = kernel.T @ (share / kernel.sum(dim=1))
    known = smooth > 0
    mixed = (1 - mix) * smooth + mix / known.sum()
    weights = torch.where(known, 1 / mixed.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    return torch.where(pixels > 0, weights / (share * weights).sum(), 1.0)


def annealed_mean(logits: Tensor, centres: Tensor, temperature: float = 0.38) -> Tensor:
    """The colour that logits [N, Q] speak of: float [N, 2] (equation 5).

    At temperature 1 the mean of the distribution, towards 0 its mode.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = full_precision(logits)
        return (logits / temperature).softmax(dim=1) @ centres.to(logits)
