"""The encoder of the Atari table: the network of Mnih et al. 2015 with one more convolution, for
whole frames (Anand et al., arXiv 1906.08226, appendix A), as a backbone by its dotted name."""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 256


class NatureNetwork(nn.Module):
    """float [N, C, S, S], of which the first channel counts (frames are grey) -> [N, 256]."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, side = 1, image_size
        for width, kernel, stride in ((32, 8, 4), (64, 4, 2), (128, 4, 2), (64, 3, 1)):
            layers += [nn.Conv2d(before, width, kernel, stride), nn.ReLU()]
            before, side = width, (side - kernel) // stride + 1
        layers += [nn.Flatten(), nn.Linear(before * side**2, WIDTH)]
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images[:, :1].contiguous())


def nature(image_size: int = 210) -> NatureNetwork:
    """For `encoder.backbone=benchmarks.nature_network:nature`."""
    return NatureNetwork(image_size)
