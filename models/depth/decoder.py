"""How the maps of a trunk become disparities: a decoder with skips, and who may use it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.errors import SettingError
from marey.models.encoders.dense_heads import image_trunk, require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.trunk import Level

WIDTHS = (16, 32, 64, 128, 256)
"""Channels of the decoder, from full resolution to a sixteenth (Monodepth2, appendix)."""
SCALES = 4
"""Resolutions at which a disparity is given, if the trunk reaches them."""


class DisparityDecoder(nn.Module):
    """Maps of a trunk in, disparities in (0, 1) at several resolutions out.

    From the coarsest map on: convolution, nearest upsampling by 2, the trunk's map of that
    resolution beside it where there is one, convolution. All 3x3, mirrored at the border, ELU.

    Input: the maps that `levels` describes. Output: float32 [N, channels, S / 2^s, S / 2^s] for
    s = 0, 1, ..., finest first: four, or as many as there are below the coarsest map.
    Raises SettingError for a trunk of a single level.
    """

    def __init__(self, levels: Sequence[Level], channels: int) -> None:
        super().__init__()
        steps = round(math.log2(levels[-1].reduction))
        skips = {level.reduction: level.channels for level in levels[:-1]}
        if not skips or levels[-1].reduction != 2**steps or steps > len(WIDTHS):
            raise SettingError(
                "depth needs a trunk with several resolutions, each half the one before and the "
                f"coarsest at most {2 ** len(WIDTHS)} times below the image; this one has "
                f"reductions {[level.reduction for level in levels]}: take tiny or a ResNet"
            )
        self.before = nn.ModuleList()
        self.after = nn.ModuleList()
        self.heads = nn.ModuleList()
        depth = levels[-1].channels
        for step in reversed(range(steps)):
            width = WIDTHS[step]
            self.before.append(_convolution(depth, width))
            self.after.append(_convolution(width + skips.get(2**step, 0), width))
            head = nn.Conv2d(width, channels, 3, padding=1, padding_mode="reflect")
            self.heads.append(head if step < SCALES else nn.Identity())
            depth = width

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        *finer, features = maps
        skips = {skip.shape[-1]: skip for skip in finer}
        disparities = []
        for before, after, head in zip(self.before, self.after, self.heads, strict=True):
            features = functional.interpolate(before(features), scale_factor=2, mode="nearest")
            skip = skips.get(features.shape[-1])
            features = after(features if skip is None else torch.cat([features, skip], dim=1))
            if isinstance(head, nn.Conv2d):
                disparities.append(torch.sigmoid(head(features).float()))
        return disparities[::-1]


def _convolution(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, width, 3, padding=1, padding_mode="reflect"), nn.ELU())


def build_decoder(encoder: Encoder, channels: int) -> DisparityDecoder:
    """The decoder of an encoder's trunk.

    Raises SettingError when the encoder has parts that depth would leave untrained, when its trunk
    has one resolution only, or when the image is no multiple of the coarsest map or too small.
    """
    require_map(encoder, "depth")
    trunk, config = image_trunk(encoder), encoder.config
    decoder = DisparityDecoder(trunk.levels, channels)
    coarsest = trunk.levels[-1].reduction
    if config.image_size % coarsest or config.image_size < 2 * coarsest:
        raise SettingError(
            f"encoder.image_size={config.image_size} must be a multiple of {coarsest}, at least "
            f"{2 * coarsest}, for {config.backbone}"
        )
    return decoder


def trunk_maps(encoder: Encoder, images: Tensor) -> list[Tensor]:
    """The maps of the encoder's trunk, finest first, for `DisparityDecoder`."""
    return image_trunk(encoder).pyramid(images.contiguous(memory_format=torch.channels_last))
