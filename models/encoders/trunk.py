"""What a trunk is: images in, feature maps out, at one resolution or several."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from marey.configs.errors import SettingError


class Level(NamedTuple):
    """One resolution of a trunk's feature maps."""

    channels: int
    reduction: int
    """Pixels of the image, along each side, that one place of the map stands for."""


class Trunk(nn.Module):
    """Images to feature maps. Input: float [N, 3, S, S]; output: the last map, [N, C, h, w]."""

    keeps_layout = False
    """Whether its tensors must stay as they are laid out in memory: see `channels_last`."""
    levels: tuple[Level, ...]
    """The maps of `pyramid`, finest first; the last is what the trunk returns."""

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The last map of every resolution, finest first: float [N, C_k, S / r_k, S / r_k]."""
        raise TypeError(f"{type(self).__name__} must implement pyramid(images)")

    def forward(self, images: Tensor) -> Tensor:
        return self.pyramid(images)[-1]


class PatchTrunk(Trunk):
    """A plain transformer, which can look at some patches of its input and leave out the rest."""

    def visible(self, images: Tensor, keep: Tensor) -> Tensor:
        """Tokens of the kept patches, which see nothing else: [N, K, C].

        keep: int64 [N, K], numbers of patches, row by row.
        """
        raise TypeError(f"{type(self).__name__} must implement visible(images, keep)")


def channels_last(trunk: nn.Module) -> nn.Module:
    """The trunk with channels last in memory, if it can be: a fifth faster, on CPU and GPU."""
    if any(getattr(part, "keeps_layout", False) for part in trunk.modules()):
        return trunk
    return trunk.to(memory_format=torch.channels_last)  # pyright: ignore


def kept_stages(name: str, stages: int | None, count: int) -> int:
    """How many of its `count` stages a backbone keeps. Raises SettingError for too many."""
    if stages is not None and stages > count:
        raise SettingError(f"backbone {name!r} has {count} stages, asked for the first {stages}")
    return count if stages is None else stages
