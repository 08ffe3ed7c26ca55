"""A ResNet's first layers for small pictures: a 3x3 convolution of stride 1, and no pooling.

As papers have it for CIFAR (SimCLR, arXiv 2002.05709, appendix B.9): the maps of a ResNet are four
times as fine along each side, so that 32 px still make a last map of 4x4 places.
"""

from __future__ import annotations

import torch
from torch import nn

from marey.configs.errors import SettingError
from marey.models.encoders.modes import evaluating
from marey.models.encoders.trunk import Level, Trunk


def with_small_stem(trunk: Trunk, name: str, image_size: int) -> Trunk:
    """The same trunk with such a first convolution, and its levels as they are now.

    Raises SettingError for a network that does not begin with one convolution of stride 2.
    """
    model = getattr(trunk, "model", None)
    first, pool = (getattr(model, part, None) for part in ("conv1", "maxpool"))
    if model is None or not isinstance(first, nn.Conv2d) or first.stride != (2, 2):
        raise SettingError(
            f"encoder.stem=small is for ResNets, which begin with one convolution of stride 2, not "
            f"{name!r}: set encoder.stem=own"
        )
    model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if pool is not None:  # a trunk of one stage ends before it
        model.maxpool = nn.Identity()
    with torch.no_grad(), evaluating(trunk):
        maps = trunk.pyramid(torch.zeros(1, first.in_channels, image_size, image_size))
    trunk.levels = tuple(Level(one.shape[1], round(image_size / one.shape[-1])) for one in maps)
    return trunk
