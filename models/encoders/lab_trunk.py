"""How an encoder sees lightness and colour apart: two trunks on the parts of a Lab image."""

from __future__ import annotations

import torch
from torch import Tensor

from marey.models.encoders.trunk import Level, Trunk


class LabTrunk(Trunk):
    """One trunk for L, one for a and b; their maps are stacked, those of L first.

    Input: scaled L, a and b, float [N, 3, S, S]; output: float [N, 2C, h, w]. (CMC, arXiv
    1906.05849, section 3.)
    """

    def __init__(self, lightness: Trunk, color: Trunk) -> None:
        super().__init__()
        self.lightness = lightness
        self.color = color
        self.levels = tuple(
            Level(a.channels + b.channels, a.reduction)
            for a, b in zip(lightness.levels, color.levels, strict=True)
        )

    def pyramid(self, images: Tensor) -> list[Tensor]:
        both = zip(
            self.lightness.pyramid(images[:, :1]), self.color.pyramid(images[:, 1:]), strict=True
        )
        return [torch.cat(maps, dim=1) for maps in both]
