"""The slow pathway of SlowFast as a trunk of clips: a ResNet-50 that sees time in its last stages.

Feichtenhofer, Fan, Malik, He, SlowFast Networks for Video Recognition, ICCV 2019, arXiv 1812.03982,
table 1 (slow pathway). Frames are never dropped on the way: the map is as long as the clip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEPTHS = (3, 4, 6, 3)
"""Blocks of each stage."""
WIDTHS = (64, 128, 256, 512)
"""Width inside the blocks of each stage; its map has four times as many channels."""
TIMES = (1, 1, 3, 3)
"""Frames that the first convolution of a stage's blocks sees."""
EXPANSION = 4


def slow_stages() -> tuple[list[nn.Module], list[int]]:
    """Stem and four stages, and the channels after each: float [N, 3, T, S, S] to
    [N, 2048, T, S / 32, S / 32]."""
    stem = nn.Sequential(
        nn.Conv3d(3, 64, (1, 7, 7), (1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
    )
    layers: list[nn.Module] = [stem]
    before = 64
    for number, (depth, width, time) in enumerate(zip(DEPTHS, WIDTHS, TIMES, strict=True)):
        blocks = []
        for place in range(depth):
            stride = 2 if number and place == 0 else 1
            blocks.append(Bottleneck(before, width, time, stride))
            before = EXPANSION * width
        layers.append(nn.Sequential(*blocks))
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layers, [64, *(EXPANSION * width for width in WIDTHS)]


class Bottleneck(nn.Module):
    """Convolutions of T x 1 x 1, 1 x 3 x 3 and 1 x 1 x 1 beside a shortcut."""

    def __init__(self, before: int, width: int, time: int, stride: int) -> None:
        super().__init__()
        after = EXPANSION * width
        self.convolutions = nn.Sequential(
            nn.Conv3d(before, width, (time, 1, 1), padding=(time // 2, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, after, 1, bias=False),
        )
        self.last_norm = nn.BatchNorm3d(after)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv3d(before, after, 1, (1, stride, stride), bias=False),
                nn.BatchNorm3d(after),
            )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.last_norm(self.convolutions(features)) + self.shortcut(features))
