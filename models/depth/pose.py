"""How did the camera move between two frames? A network of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marey.configs.encoder import EncoderConfig
from marey.models.encoders.backbones import build_trunk

SCALE = 0.01
"""Motions between neighbouring frames are small: the network starts near standing still."""


class PoseNetwork(nn.Module):
    """Two frames in temporal order to the motion from the first's coordinates to the second's.

    Input: float [N, 6, S, S], both normalised. Output: float32 [N, 6], axis-angle (radians) and
    translation (in the unit of depth). A trunk like the encoder's, not shared with it, and four
    convolutions. (Monodepth2, appendix.)
    """

    def __init__(self, encoder: EncoderConfig, width: int) -> None:
        super().__init__()
        self.trunk, channels = build_trunk(
            encoder.backbone,
            stages=encoder.stages,
            pretrained=encoder.pretrained,
            in_channels=6,
        )
        self.head = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 6, 1),
        )

    def forward(self, pairs: Tensor) -> Tensor:
        features = self.trunk(pairs.contiguous(memory_format=torch.channels_last))
        return SCALE * self.head(features).float().mean(dim=(2, 3))
