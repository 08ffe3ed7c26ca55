"""How a method predicts something at every place of a picture from the encoder's last map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.errors import SettingError
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.modes import evaluating
from marey.models.encoders.trunk import Trunk


def require_map(encoder: Encoder, method: str) -> None:
    """Raises SettingError if the encoder has weights behind its map, which the method would not
    train: a pooling that learns, batch norm behind it, or an embedding."""
    parts = {"pool": encoder.pool, "pool_norm": encoder.pool_norm, "head": encoder.head}
    extra = [name for name, part in parts.items() if any(True for _ in part.parameters())]
    if extra:
        raise SettingError(
            f"{method} trains the encoder's map: encoder.pool must be average, pool_norm false and "
            f"embedding_dim unset, or {', '.join(extra)} would never be trained "
            "(encoder.pool=average encoder.pool_norm=false encoder.embedding_dim=null)"
        )


def image_trunk(encoder: Encoder) -> Trunk:
    """The encoder's trunk. Raises SettingError if it gives no maps of single images."""
    if not isinstance(encoder.trunk, Trunk):
        raise SettingError(f"{encoder.config.backbone} gives no maps of single images")
    return encoder.trunk


def map_side(encoder: Encoder) -> int:
    """Places along each side of the map that the encoder's trunk makes of its images."""
    with evaluating(encoder):
        side = encoder.config.image_size
        device = next(encoder.parameters()).device
        blank = torch.zeros(1, 3, side, side, device=device)
        return int(encoder.features(blank).shape[-1])


class PlaceHead(nn.Module):
    """One linear layer from the encoder's map to `values` numbers at each place of a grid.

    Where the grid is finer than the map, one place of the map answers for several (a convolution
    of 1x1 and a pixel shuffle, SimMIM, arXiv 2111.09886, section 3.4); where it is coarser, the
    map is averaged first.
    """

    def __init__(self, encoder: Encoder, side: int, values: int) -> None:
        """side: places of the grid along each side of the picture.

        Raises SettingError when map and grid do not divide each other, or the map does not cover
        the images in whole places.
        """
        super().__init__()
        config = encoder.config
        self.side = side
        places = map_side(encoder)
        stride = image_trunk(encoder).levels[-1].reduction
        if places * stride != config.image_size:
            # the places would not lie over the cells that they answer for
            near = config.image_size // stride * stride
            raise SettingError(
                f"{config.backbone} makes one place of a map of every {stride} px, and "
                f"{config.image_size} px are {config.image_size / stride:g} of them: set "
                f"encoder.image_size to a multiple of {stride}, such as "
                f"{' or '.join(str(size) for size in (near, near + stride) if size)}"
            )
        if side % places and places % side:
            raise SettingError(
                f"{config.backbone} makes {config.image_size} px into a map of {places} places a "
                f"side, which does not fit {side} places: change encoder.image_size or the "
                "method's grid"
            )
        self.finer = max(1, side // places)
        self.layer = nn.Conv2d(encoder.feature_dim, values * self.finer**2, 1)

    def forward(self, features: Tensor) -> Tensor:
        """float [N, C, h, w] -> float32 [N, side x side, values], row by row."""
        if features.shape[-1] > self.side:
            features = functional.adaptive_avg_pool2d(features, self.side)
        answers = functional.pixel_shuffle(self.layer(features).float(), self.finer)
        return answers.flatten(2).transpose(1, 2)
