"""How the colours of a batch are changed, each image by its own amounts, and expressed in CIE Lab.

The changes take RGB float [N, 3, H, W] in [0, 1] and a float [N] of amounts, and stay in [0, 1].
They compute what the operations of the same name in torchvision compute for one image.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)

_XYZ_OF_RGB = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""Linear sRGB to CIE XYZ (IEC 61966-2-1); the rows' sums are the white point D65."""


def grayscale(images: Tensor) -> Tensor:
    """Luminance (ITU-R 601), float [N, 1, H, W]."""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def _blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards black (0), unchanged (1), brighter (> 1)."""
    return _blend(images, 0.0, factor)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards the image's mean luminance (0), unchanged (1), away from it (> 1)."""
    return _blend(images, grayscale(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Towards grey (0), unchanged (1), more vivid (> 1)."""
    return _blend(images, grayscale(images), factor)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by this share of the colour circle, in [-0.5, 0.5]."""
    value, brightest = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    red, green, blue = images.unbind(1)
    safe = chroma.clamp_min(1e-8)
    sixths = torch.where(
        brightest == 0,
        (green - blue) / safe,
        torch.where(brightest == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sixths + 6 * turn.view(-1, 1, 1)
    # Back to RGB: each channel is the value less the chroma, by how far its hue is away.
    shift = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    position = (hue.unsqueeze(1) + shift) % 6
    lack = torch.minimum(position, 4 - position).clamp(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * lack


def solarize(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Values from the threshold upwards are inverted; the same for every image."""
    return torch.where(images >= threshold, 1 - images, images)


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB in [0, 1], float [N, 3, H, W] -> CIE L*a*b* under D65, float32 [N, 3, H, W].

    L lies in [0, 100]; for sRGB a lies in [-86.2, 98.3] and b in [-107.9, 94.5]; both are 0 for
    greys. float64 stays float64.
    """
    with torch.autocast(images.device.type, enabled=False):
        coded = images if images.dtype == torch.float64 else images.float()
        # Each branch of a choice needs a finite gradient, chosen or not.
        power = ((coded.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
        linear = torch.where(coded <= 0.04045, coded / 12.92, power)
        matrix = coded.new_tensor(_XYZ_OF_RGB)
        matrix = matrix / matrix.sum(dim=1, keepdim=True)
        relative = torch.einsum("nchw,kc->nkhw", linear, matrix)
        edge = 6 / 29
        root = relative.clamp_min(edge**3) ** (1 / 3)
        bent = torch.where(relative > edge**3, root, relative / (3 * edge**2) + 4 / 29)
        x, y, z = bent.unbind(1)
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
