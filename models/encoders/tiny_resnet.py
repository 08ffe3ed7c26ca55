"""A ResNet small enough to learn on two CPU cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marey.models.encoders.trunk import Level, Trunk, kept_stages

STAGES = ((32, 1), (64, 1), (128, 2), (128, 1))
"""Width and stride of each; the first is the stem, which already reduces by 4."""


class _TinyTrunk(Trunk):
    """A ResNet-18 at a fifth of its cost: 64 px in, 8x8 out."""

    def __init__(self, stages: tuple[tuple[int, int], ...], in_channels: int) -> None:
        super().__init__()
        before, reduction = stages[0][0], 4
        # The wide stem and the maximum make features that follow an object before any training;
        # with 3x3 convolutions alone, temporal contrast took many times the steps to start.
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, before, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        ]
        # Place of the last layer at each reduction, and the channels there.
        last = {2: (2, before), 4: (3, before)}
        for width, stride in stages[1:]:
            layers.append(_ResidualBlock(before, width, stride))
            before, reduction = width, reduction * stride
            last[reduction] = (len(layers) - 1, width)
        for place, layer in enumerate(layers):
            self.add_module(str(place), layer)
        self.levels = tuple(Level(channels, size) for size, (_, channels) in last.items())
        self._places = {place for place, _ in last.values()}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        maps = []
        for place, layer in enumerate(self.children()):
            images = layer(images)
            if place in self._places:
                maps.append(images)
        return maps


def tiny(*, stages: int | None = None, in_channels: int = 3) -> Trunk:
    """The trunk, or its first stages. Raises SettingError for too many."""
    trunk = _TinyTrunk(STAGES[: kept_stages("tiny", stages, len(STAGES))], in_channels)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, _ResidualBlock):
            # Blocks begin as their shortcuts.
            nn.init.zeros_(module.norm.weight)
    return trunk


def _convolution(before: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, as in ResNet-18; 64 px in, 8x8 out after four."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, width, stride)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.norm(self.second(self.first(features))) + self.shortcut(features))
