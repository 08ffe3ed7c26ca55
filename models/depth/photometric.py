"""How different do two pictures look, and how rough is a disparity map? In float32.

Images are RGB in [0, 1], as the camera gave them: no jitter, no normalisation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SSIM_SHARE = 0.85
"""Weight of structure against plain difference (Monodepth, section 3.3)."""
_C1, _C2 = 0.01**2, 0.03**2


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of each pixel and channel over 3x3 boxes, mirrored at the border: [N, C, H, W]."""
    both = functional.pad(torch.cat([first, second]), (1, 1, 1, 1), mode="reflect")
    first, second = both.chunk(2)
    mean_1, mean_2 = _box(first), _box(second)
    variance_1 = _box(first.square()) - mean_1.square()
    variance_2 = _box(second.square()) - mean_2.square()
    covariance = _box(first * second) - mean_1 * mean_2
    likeness = (2 * mean_1 * mean_2 + _C1) * (2 * covariance + _C2)
    bound = (mean_1.square() + mean_2.square() + _C1) * (variance_1 + variance_2 + _C2)
    return likeness / bound


def _box(images: Tensor) -> Tensor:
    return functional.avg_pool2d(images, 3, 1)


def photometric_error(first: Tensor, second: Tensor) -> Tensor:
    """0.85 (1 - SSIM) / 2 + 0.15 |difference|, mean over channels: [N, 1, H, W]."""
    structure = ((1 - structural_similarity(first, second)) / 2).clamp(0, 1)
    error = SSIM_SHARE * structure + (1 - SSIM_SHARE) * (first - second).abs()
    return error.mean(dim=1, keepdim=True)


def roughness(disparity: Tensor, images: Tensor) -> Tensor:
    """Mean slope of a disparity map [N, 1, H, W] where the image [N, 3, H, W] has no edge: [N].

    |dx d| exp(-|dx I|) + |dy d| exp(-|dy I|), the image's gradient averaged over channels.
    """
    total = torch.zeros_like(disparity[:, 0, 0, 0])
    for axis in (2, 3):
        slope = disparity.diff(dim=axis).abs()
        edge = images.diff(dim=axis).abs().mean(dim=1, keepdim=True)
        total = total + (slope * torch.exp(-edge)).mean(dim=(1, 2, 3))
    return total


def shrink(images: Tensor, size: int) -> Tensor:
    """[N, C, S, S] -> [N, C, size, size], each pixel the mean of those that it covers."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, (size, size), mode="area")
