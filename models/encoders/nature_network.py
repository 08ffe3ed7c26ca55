"""The network of game-playing agents (Mnih et al., Nature 2015) for whole frames, as AtariARI has
it: one more convolution, a vector of 256 numbers (Anand et al. 2019, arXiv 1906.08226, appendix A).
"""

from __future__ import annotations

from torch import Tensor, nn

from marey.configs.errors import SettingError
from marey.models.encoders.trunk import Level, Trunk, kept_stages

WIDTH = 256
LAYERS = ((32, 8, 4), (64, 4, 2), (128, 4, 2), (64, 3, 1))
"""Channels, kernel and stride of each convolution; none is padded."""
LOCAL = 3
"""The convolution whose map is the local one (released code)."""
FRAME = (210, 160)
"""Height and width of the console's frames."""
LEAST_SIDE = 121
"""Side in pixels below which a convolution would have nothing to see."""


class NatureNetwork(Trunk):
    """float [N, C, S, S] -> a map [N, 128, h, w], and the vector as a map of one place,
    [N, 256, 1, 1].

    Only the first channel counts, since frames are grey, and of its columns the middle 16 in 21:
    frames of 210 x 160 stand in the middle of a square. Of these, h, w are 11, 8.
    """

    keeps_layout = True  # the vector's weights stand for places in one order

    def __init__(self, image_size: int) -> None:
        super().__init__()
        if image_size < LEAST_SIDE:
            raise SettingError(
                f"backbone 'nature' takes images of {LEAST_SIDE} px or more, not {image_size}: "
                "set encoder.image_size (210 for frames of the console)"
            )
        high, wide = image_size, image_size * FRAME[1] // FRAME[0]
        self.columns = slice((high - wide) // 2, (high - wide) // 2 + wide)
        layers: list[nn.Module] = []
        before, reduction = 1, 1
        for number, (width, kernel, stride) in enumerate(LAYERS, 1):
            layers += [nn.Conv2d(before, width, kernel, stride), nn.ReLU()]
            before = width
            high, wide = ((side - kernel) // stride + 1 for side in (high, wide))
            reduction *= stride if number <= LOCAL else 1
        layers += [nn.Flatten(), nn.Linear(before * high * wide, WIDTH)]
        self.local = nn.Sequential(*layers[: 2 * LOCAL])
        self.last = nn.Sequential(*layers[2 * LOCAL :])
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        local = Level(LAYERS[LOCAL - 1][0], reduction)
        self.levels = (local, Level(WIDTH, image_size))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`."""
        local = self.local(images[:, :1, :, self.columns].contiguous())
        if len(self.levels) == 1:
            return [local]
        return [local, self.last(local)[:, :, None, None]]


def nature(image_size: int, *, stages: int | None = None) -> NatureNetwork:
    """For `encoder.backbone=nature`; with `stages=1` the local map alone."""
    network = NatureNetwork(image_size)
    network.levels = network.levels[: kept_stages("nature", stages, len(network.levels))]
    return network
