"""What can be painted into hidden parts of a picture without having learned anything?

Whoever reconstructs pixels has to be better than smooth interpolation of what is visible around
them, which knows nothing of what pictures show.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTHINGS = 8
"""Steps in which each hidden pixel takes the mean of those around it, after the coarse filling."""


@torch.no_grad()
def filled_from_around(images: Tensor, hidden: Tensor) -> Tensor:
    """The images with their hidden parts diffused into from what is visible: float32 [N, C, H, W].

    images: float [N, C, H, W]; hidden: bool [N, 1, H, W]. Coarse to fine: where a pixel is hidden,
    the mean of the visible ones in the smallest cell around it that has any, then smoothed. What is
    hidden of an image without any visible pixel becomes 0.
    """
    seen = (~hidden).float()
    levels = [(images.float() * seen, seen)]
    while max(levels[-1][1].shape[-2:]) > 1:
        # of values times weights, and of weights: their quotient is the mean of what is seen
        levels.append(
            tuple(functional.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1])  # pyright: ignore
        )
    total, weight = levels[-1]
    filled = total / weight.clamp_min(1e-12)
    for total, weight in reversed(levels[:-1]):
        around = functional.interpolate(
            filled, total.shape[-2:], mode="bilinear", align_corners=False
        )
        filled = torch.where(weight > 0, total / weight.clamp_min(1e-12), around)
    for _ in range(SMOOTHINGS):
        mean = functional.avg_pool2d(
            functional.pad(filled, (1, 1, 1, 1), mode="replicate"), 3, stride=1
        )
        filled = torch.where(hidden, mean, filled)
    return filled
