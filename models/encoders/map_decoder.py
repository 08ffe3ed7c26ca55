"""What predicts a picture from the encoder's last map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class MapDecoder(nn.Module):
    """Map to picture: float [N, `channels`, h, h] -> [N, `out`, `side`, `side`].

    Doublings by transposed convolution, half as wide each time, as many as fit below `side`; then
    bilinear resizing for the rest, and a 3x3 convolution to the outputs.
    """

    def __init__(self, channels: int, small: int, side: int, width: int, out: int) -> None:
        """small: the side h of the map; width: of the first layer, halved down to 32."""
        super().__init__()
        self.side = side
        layers: list[nn.Module] = [*_normed(nn.Conv2d(channels, width, 3, padding=1, bias=False))]
        while 2 * small <= side:
            after = max(min(32, width), width // 2)
            layers += _normed(nn.ConvTranspose2d(width, after, 4, 2, padding=1, bias=False))
            small, width = 2 * small, after
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        grown = self.layers(features)
        if grown.shape[-1] != self.side:
            grown = functional.interpolate(
                grown, (self.side, self.side), mode="bilinear", align_corners=False
            )
        return self.last(grown)


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


class ChannelwiseLinear(nn.Module):
    """Each channel's map through a matrix of its own, then channels mixed by a 1x1 convolution.

    Float [N, C, n, n] -> the same shape; information crosses the map with C n^4 weights where a
    full layer would take C^2 n^4 (context encoders, section 3.1).
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        places = side**2
        self.weight = nn.Parameter(torch.randn(channels, places, places) / places**0.5)
        self.bias = nn.Parameter(torch.zeros(channels, places))
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(2)
        spread = torch.einsum("ncp,cqp->ncq", flat, self.weight) + self.bias
        return self.mix(functional.relu(spread).unflatten(2, features.shape[2:]))
