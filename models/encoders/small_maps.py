"""How are convolutions of small maps trained on CPUs?

Off unless training on a CPU asks for it (`suit_small_maps`): an encoder that is loaded or exported
has the convolutions of torch. Where oneDNN (as in torch 2.15) would do worse on its own:

- A tap of the kernel that meets nothing but padding is left out. Of a 3x3 kernel on a map of one
  place, as the last maps of a stride of 32 are for pictures of 32 px, one tap of nine counts.
- In float32 a map of few places is convolved with channels first where it has many of them: up to
  twice as fast.
- In bfloat16 padding is laid around the map beforehand. On processors with AVX-512 BF16 oneDNN
  reads memory that nobody wrote when it works out the weight gradient of a padded convolution along
  an axis of two places (in time, three dimensions, stride 1) or one (width, two dimensions,
  stride 2): the gradient is NaN, or plausible and wrong.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW = 4
"""Axes of no more places than this make a map small."""
WIDE = 256
"""From this many channels on, before and after, small maps in float32 have channels first."""
LAID_OUT = 2
"""Axes of no more places than this have their padding laid out."""


def suit_small_maps(network: nn.Module) -> None:
    """Make every convolution of a network that is to be trained on a CPU treat small maps so.

    The class of a convolution alone is exchanged: its parameters stay, and so does what it computes
    on other devices; on CPUs sums are taken in another order.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and type(module) in _SUITED:
            padding = module.padding
            if module.padding_mode == "zeros" and not isinstance(padding, str) and any(padding):
                module.__class__ = _SUITED[type(module)]


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return _convolved(self, input) if _is_small(self, input) else super().forward(input)


class _Conv3d(nn.Conv3d):
    def forward(self, input: Tensor) -> Tensor:
        return _convolved(self, input) if _is_small(self, input) else super().forward(input)


_SUITED: dict[type, type] = {nn.Conv2d: _Conv2d, nn.Conv3d: _Conv3d}


def _lengths(convolution: nn.Conv2d | nn.Conv3d, maps: Tensor) -> list[int]:
    """Places along the axes of a batch of maps, or of one map."""
    return list(maps.shape[-len(convolution.padding) :])


def _is_small(convolution: nn.Conv2d | nn.Conv3d, maps: Tensor) -> bool:
    return maps.device.type == "cpu" and min(_lengths(convolution, maps)) <= FEW


def _convolved(convolution: nn.Conv2d | nn.Conv3d, maps: Tensor) -> Tensor:
    lengths = _lengths(convolution, maps)
    weight, padding = _met(convolution, lengths)
    autocast = torch.is_autocast_enabled("cpu")
    kind = torch.get_autocast_dtype("cpu") if autocast else maps.dtype
    if kind == torch.bfloat16:
        tiny = (p and n <= LAID_OUT for p, n in zip(padding, lengths, strict=True))
        if any(tiny):
            sides = [side for p in reversed(padding) for side in (p, p)]
            maps, padding = functional.pad(maps, sides), [0] * len(padding)
    elif weight.ndim == maps.ndim == 4 and max(lengths) <= FEW and min(weight.shape[:2]) >= WIDE:
        maps, weight = maps.contiguous(), weight.contiguous()
    convolve = functional.conv2d if weight.ndim == 4 else functional.conv3d
    return convolve(
        maps,
        weight,
        convolution.bias,
        convolution.stride,  # pyright: ignore[reportArgumentType]
        padding,
        convolution.dilation,  # pyright: ignore[reportArgumentType]
        convolution.groups,
    )


def _met(convolution: nn.Conv2d | nn.Conv3d, lengths: list[int]) -> tuple[Tensor, list[int]]:
    """The taps of the kernel that meet the map, and the padding that is left with them."""
    weight, paddings = convolution.weight, []
    axes = zip(lengths, convolution.kernel_size, convolution.stride, convolution.padding,
               convolution.dilation, strict=True)  # fmt: skip
    for axis, (length, kernel, stride, padding, dilation) in enumerate(axes, start=2):
        first, last = 0, kernel
        if dilation == 1:
            first, last = taps_met(length, kernel, stride, int(padding))
        if last - first < kernel:
            weight = weight.narrow(axis, first, last - first)
        paddings.append(int(padding) - first)
    return weight, paddings


@cache
def taps_met(length: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """The first tap of a kernel that meets any place of an axis, and the one after the last.

    All of them where a padding that is as wide on both sides could not make up for those left out.
    """
    places = range((length + 2 * padding - kernel) // stride + 1)
    places_met = ({i * stride + tap - padding for i in places} for tap in range(kernel))
    met = [tap for tap, seen in enumerate(places_met) if not seen.isdisjoint(range(length))]
    if not met:
        return 0, kernel
    first, last = met[0], met[-1] + 1
    left = (length + 2 * (padding - first) - (last - first)) // stride + 1
    return (first, last) if left == len(places) else (0, kernel)
