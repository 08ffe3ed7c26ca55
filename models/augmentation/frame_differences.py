"""How much do the frames of a sample differ, so far as one sees it?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 32
"""Pixels along each side at which frames are compared at most, so that noise does not count."""


def thumbnails(frames: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., values], each frame's pixels averaged to `SIDE`."""
    images = frames.flatten(0, -4).permute(0, 3, 1, 2).float()
    height, width = (min(SIDE, length) for length in images.shape[-2:])
    small = functional.adaptive_avg_pool2d(images, (height, width))
    return small.flatten(1).unflatten(0, frames.shape[:-3])


def frame_differences(frames: Tensor) -> Tensor:
    """Mean difference of every two frames of a sample, of 255: float32 [B, F, F].

    frames: uint8 [B, F, H, W, 3]; their `thumbnails` are compared.
    """
    small = thumbnails(frames)
    return torch.stack([(small - one[:, None]).abs().mean(2) for one in small.unbind(1)], dim=1)
