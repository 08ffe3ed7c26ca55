"""How a batch of images is cropped, flipped, resized and blurred, each image in its own way.

Every such operation is separable, so that an image's whole geometry is two small matrices: one
over its rows, one over its columns. Building these for each image and multiplying the batch by
them is exact (the anti-aliased bilinear filter that Pillow and torchvision use: a triangle as wide
as the reduction), has no loop over images and runs the same on CPU and GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor


def resize_weights(
    start: Tensor, length: Tensor, source: int, target: int, *, mirror: Tensor | None = None
) -> Tensor:
    """One axis of a resized crop, as weights over source pixels.

    start, length: float [N], the crop in source pixels; it may reach beyond the image.
    target: pixels made of it. mirror: bool [N], reversed axis.
    Returns float32 [N, target, source]. Rows sum to 1; those whose centre lies outside the image
    are 0, which shows as black. Pixels outside the crop do not leak in.
    """
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    scale = length / target
    width = scale.clamp_min(1)
    position = torch.arange(target, device=start.device, dtype=torch.float32)[None, :, None] + 0.5
    centre = start + scale * position
    pixel = torch.arange(source, device=start.device, dtype=torch.float32)[None, None, :] + 0.5
    weights = (1 - (pixel - centre).abs() / width).clamp_min(0)
    weights = weights * ((pixel > start) & (pixel < start + length))
    weights = weights / weights.sum(dim=2, keepdim=True).clamp_min(1e-6)
    weights = weights * ((centre > 0) & (centre < source))
    if mirror is not None:
        weights = torch.where(mirror[:, None, None], weights.flip(1), weights)
    return weights


def resample(frames: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix to the rows and one to the columns of every frame.

    frames: uint8 [N, H, W, 3]; rows: float [N, S, H]; columns: float [N, S, W].
    Returns float32 [N, 3, S, S] in [0, 1].
    """
    count, height, width, channels = frames.shape
    images = frames.reshape(count, height, width * channels).float()
    shrunk = torch.bmm(rows / 255, images).unflatten(2, (width, channels))
    return torch.einsum("nswc,ntw->ncst", shrunk, columns).clamp(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each image with its own Gaussian, mirrored at the border (without the edge pixel).

    images: float [N, C, S, S]; sigma: float [N] in pixels; the kernel has 2 radius + 1 taps.
    """
    size = images.shape[-1]
    radius = min(radius, size - 1)
    offset = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset[None, :] / sigma.float()[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    index = torch.arange(size, device=images.device)[:, None] + offset[None, :]
    index = index.abs()
    index = torch.where(index > size - 1, 2 * (size - 1) - index, index)
    matrix = images.new_zeros(len(images), size, size, dtype=torch.float32)
    matrix.scatter_add_(
        2, index.expand(len(images), -1, -1), kernel[:, None, :].expand(-1, size, -1)
    )
    return torch.einsum("nst,nctu,nvu->ncsv", matrix, images.float(), matrix)
