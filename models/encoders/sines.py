"""Where the patches of a grid are, and the fixed sines and cosines that tell a transformer so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

GRID = 8
"""Patches along each side of a picture of the tiny trunks: the standard grid."""
Positions = Literal["standard", "axes", "sequence"]
"""What a patch's sines tell: its place on a standard grid (the tiny trunks), its place along each
axis (V-JEPA), or its number (VideoMAE)."""


def sincos(positions: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Sines and cosines of positions on one or several axes: float [..., A] -> [..., width].

    Every axis has an equal part of the width, half of it sines; what does not divide stays 0.
    Wavelengths run from 2 pi to 2 pi `longest` (Vaswani et al. 2017, section 3.5).
    """
    axes = positions.shape[-1]
    count = width // (2 * axes)
    places = torch.arange(count, device=positions.device, dtype=torch.float32) / count
    angles = positions.float()[..., None] * longest**-places
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return functional.pad(waves, (0, width - waves.shape[-1]))


def grid_positions(*sides: int, device: torch.device | None = None) -> Tensor:
    """Places of a grid, the last axis fastest: float32 [product of sides, A].

    The last two sides count in units of a standard grid of `GRID` places, so that a smaller crop
    spans the same range; an axis of time before them counts its own places.
    """
    axes = []
    for axis, side in enumerate(sides):
        places = torch.arange(side, device=device, dtype=torch.float32)
        in_space = axis >= len(sides) - 2
        axes.append((places + 0.5) * GRID / side - 0.5 if in_space else places)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def patch_places(kind: Positions, sides: Sequence[int], device: torch.device) -> Tensor:
    """Where the patches of a grid are: float32 [L, A], for `patch_sines`."""
    if kind == "standard":
        return grid_positions(*sides, device=device)
    if kind == "sequence":
        count = torch.Size(sides).numel()
        return torch.arange(count, device=device, dtype=torch.float32)[:, None]
    axes = [torch.arange(side, device=device, dtype=torch.float32) for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def patch_sines(kind: Positions, places: Tensor, width: int) -> Tensor:
    """The sines and cosines of such places: [L, width]; of numbers, each sine beside its cosine."""
    waves = sincos(places, width)
    if kind != "sequence":
        return waves
    half = width // 2
    pairs = torch.stack([waves[:, :half], waves[:, half : 2 * half]], dim=-1).flatten(1)
    return functional.pad(pairs, (0, width - 2 * half))
