"""How are gradients of small maps kept right in bfloat16 on CPUs?

oneDNN (as in torch 2.15, on processors with AVX-512 BF16) reads memory that nobody wrote when it
works out the weight gradient of a padded bfloat16 convolution along an axis of two places (in time,
three dimensions, stride 1) or one (width, two dimensions, stride 2): the gradient is NaN, or
plausible and wrong. With the zeros laid around the map beforehand it is right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LONGEST = 2
"""Axes of no more places than this have their padding laid out."""


def guard_small_maps(network: nn.Module) -> None:
    """Make every convolution of a network lay its padding out where oneDNN must not be asked to.

    The class of a convolution alone is exchanged: its parameters, and what it computes in float32
    or on other devices, stay the same to the bit.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and type(module) in _GUARDED:
            padding = module.padding
            if module.padding_mode == "zeros" and not isinstance(padding, str) and any(padding):
                module.__class__ = _GUARDED[type(module)]


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        if not _is_small(self, input):
            return super().forward(input)
        return functional.conv2d(_laid_out(self, input), self.weight, self.bias, self.stride,
                                 0, self.dilation, self.groups)  # fmt: skip


class _Conv3d(nn.Conv3d):
    def forward(self, input: Tensor) -> Tensor:
        if not _is_small(self, input):
            return super().forward(input)
        return functional.conv3d(_laid_out(self, input), self.weight, self.bias, self.stride,
                                 0, self.dilation, self.groups)  # fmt: skip


_GUARDED: dict[type, type] = {nn.Conv2d: _Conv2d, nn.Conv3d: _Conv3d}


def _is_small(convolution: nn.Conv2d | nn.Conv3d, maps: Tensor) -> bool:
    if maps.device.type != "cpu":
        return False
    autocast = torch.is_autocast_enabled("cpu")
    kind = torch.get_autocast_dtype("cpu") if autocast else maps.dtype
    if kind != torch.bfloat16:
        return False
    padding = convolution.padding
    lengths = maps.shape[-len(padding) :]  # of a batch, or of one picture
    return any(side and length <= LONGEST for side, length in zip(padding, lengths, strict=True))


def _laid_out(convolution: nn.Conv2d | nn.Conv3d, maps: Tensor) -> Tensor:
    sides = [int(side) for padding in reversed(convolution.padding) for side in (padding, padding)]
    return functional.pad(maps, sides)
