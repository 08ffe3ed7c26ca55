"""Where the patches of a grid are, and how a transformer is told: fixed sines, or rotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

GRID = 8
"""Patches along each side of a picture of the tiny trunks: the standard grid."""
Positions = Literal["standard", "axes", "sequence", "rotary"]
"""What a patch's sines tell: its place on a standard grid (the tiny trunks), its place along each
axis (V-JEPA), or its number (VideoMAE). rotary: none are added; queries and keys are turned by the
place along each axis (V-JEPA 2)."""


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
    """The sines and cosines of such places: [L, width]; of numbers, each sine beside its cosine.

    Zero where places turn queries and keys instead.
    """
    if kind == "rotary":
        return places.new_zeros(len(places), width)
    waves = sincos(places, width)
    if kind != "sequence":
        return waves
    half = width // 2
    pairs = torch.stack([waves[:, :half], waves[:, half : 2 * half]], dim=-1).flatten(1)
    return functional.pad(pairs, (0, width - 2 * half))


def rotations(places: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which `rotate` turns queries and keys of `width` numbers.

    places: float [..., A], along time, row and column; returns two float32 [..., width]. Each axis
    has a third of the width, rounded down to a whole number of pairs; what is left is not turned
    (V-JEPA 2, arXiv 2506.09985, section 2.1). As in the released code, whose weights depend on it,
    the pairs of an axis have its frequencies in turn twice over, and so the two numbers of a pair
    different ones.
    """
    axes = places.shape[-1]
    count = width // axes // 2
    frequencies = 10_000.0 ** -(torch.arange(count, device=places.device) / count)
    angles = places.float()[..., None] * frequencies
    angles = torch.cat([angles, angles], dim=-1).flatten(-2)
    angles = functional.pad(angles, (0, width - angles.shape[-1]))  # by nothing
    return angles.cos(), angles.sin()


def rotate(values: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys, [N, heads, L, width], turned by `rotations` of their places, [N, L, width]
    or [L, width]."""
    cosine, sine = (turn.unsqueeze(-3).to(values.dtype) for turn in turns)
    first, second = values.unflatten(-1, (-1, 2)).unbind(-1)
    return values * cosine + torch.stack([-second, first], dim=-1).flatten(-2) * sine
