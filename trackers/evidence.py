"""Is the box still on what it started on? What a step knows of it, to be weighed on truth.

A filter that drifted onto the background answers with a high and sharp peak there: the height of
the peak does not tell a right track from a lost one. What tells them apart is whether the box still
looks like it did in the first frame, and whether its colours are still those of the target and not
of its surroundings. `python -m benchmarks.tracker_scores` fits weights on the tuning half of the
generated benchmark: a variant's `calibration`.
"""

from functools import lru_cache

import torch
from torch import Tensor

EVIDENCE = ("peak", "sharpness", "trend", "likeness", "inside", "contrast", "colours")
"""peak: height of the filter's response. sharpness: its ratio to the side lobe, log1p. trend: log
of the peak over its own running mean. likeness: correlation of the window's features with those of
the first frame, -1..1. inside: mean likelihood of the box's colours, 0-1. contrast: that, less the
window's mean. colours: overlap of the box's colour histogram with the first frame's, 0-1."""
WITHOUT_COLOUR = 4
"""Trackers without colour know the first four."""


def remember(x: Tensor) -> dict[str, Tensor]:
    """What `likeness` needs of the first windows, whose spectra are complex64 [N, C, S, S//2+1]."""
    weight = _mirrored(x.shape[2], x.device)
    weighted = (torch.view_as_real(x) * weight).flatten(1)
    norm = torch.linalg.vecdot(weighted, torch.view_as_real(x).flatten(1))
    return {"weighted": weighted, "norm": norm.clamp_min(1e-20).sqrt()}


def likeness(first: dict[str, Tensor], now: Tensor) -> Tensor:
    """float32 [N]: correlation of S x S feature maps given by spectra complex64 [N, C, S, S//2+1].

    first: of the start, as `remember` gives it. A channel's mean says little, so its zero frequency
    is left out.
    """
    values = torch.view_as_real(now)
    product = torch.linalg.vecdot(first["weighted"], values.flatten(1))
    energy = (values.square().sum(dim=1) * _mirrored(now.shape[2], now.device)).flatten(1).sum(1)
    return product / (first["norm"] * energy.clamp_min(1e-20).sqrt())


@lru_cache(maxsize=8)
def _mirrored(cells: int, device: torch.device) -> Tensor:
    """float32 [S, S//2+1, 1]: how many frequencies of the whole spectrum each one stands for."""
    weight = torch.full((cells, cells // 2 + 1, 1), 2.0, device=device)
    weight[:, 0] = 1.0
    if cells % 2 == 0:
        weight[:, -1] = 1.0
    weight[0, 0] = 0.0
    return weight
