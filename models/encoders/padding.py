"""What stands around a map where a convolution reaches over its border?"""

from __future__ import annotations

from torch import nn


def replicate_borders(network: nn.Module) -> None:
    """Let every padded convolution of a network repeat the border in place of zeros.

    Zeros are a mark of where the border is. A network that is trained on small patches, which
    are border for the most part, and applied to whole frames, sees another input there.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            module.padding_mode = "replicate"
