"""Which crops of one image a method compares: two, each by its own recipe, or a few small ones too.

Every frame gives crops of its own. A stack of crops is [B, V, F, 3, S, S]: V crops of each of the F
frames of B samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from marey.configs.base import Settings
from marey.models.augmentation.augment import AugmentConfig


class TwoCrops(Settings):
    """The two crops that are compared, as large as the encoder's input."""

    first: AugmentConfig = AugmentConfig()
    """How the first crop is augmented."""
    second: AugmentConfig | None = None
    """How the second one is; what is not said of it, as the first."""
    others: ClassVar[tuple[str, ...]] = ("second",)
    """The crops that are as the first but for what is said of them."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_first(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        first = given.get("first", {})
        first = first.model_dump() if isinstance(first, AugmentConfig) else first
        if not isinstance(first, dict):
            return given
        said = {name: given[name] for name in cls.others if isinstance(given.get(name), dict)}
        return given | {name: first | part for name, part in said.items()}


_BYOL_FIRST = AugmentConfig(
    crop_scale=(0.08, 1.0),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grayscale=0.2,
    blur=1.0,
)
BYOL_CROPS = TwoCrops(
    first=_BYOL_FIRST, second=_BYOL_FIRST.model_copy(update={"blur": 0.1, "solarize": 0.2})
)
"""The asymmetric recipe of BYOL (arXiv 2006.07733, appendix B), which others took over."""


class MultiCrop(TwoCrops):
    """Two large crops, and small ones of small parts (SwAV, arXiv 2006.09882, section 3.2)."""

    others: ClassVar[tuple[str, ...]] = ("second", "small")
    small: AugmentConfig | None = None
    """How the small crops are augmented; what is not said of them, as the first."""
    small_crops: int = Field(default=6, ge=0, le=32)
    """Small crops of each image; 0 leaves the two large ones."""
    small_size: int = Field(default=96, ge=8, le=1024)
    """Side of the small crops in pixels."""


def two_crops(images: Callable[..., Tensor], frames: Tensor, config: TwoCrops) -> Tensor:
    """frames: uint8 [B, F, H, W, 3] -> float32 [B, 2, F, 3, S, S], drawn independently.

    images: the method's `images`, which crops, augments and normalises.
    """
    recipes = (config.first, config.second or config.first)
    return torch.stack([images(frames, recipe) for recipe in recipes], dim=1)


def small_crops(images: Callable[..., Tensor], frames: Tensor, config: MultiCrop) -> Tensor:
    """frames: uint8 [B, F, H, W, 3] -> float32 [B, n, F, 3, s, s], n small crops of each frame."""
    copies = frames[:, None].expand(-1, config.small_crops, *frames.shape[1:])
    return images(copies, config.small or config.first, size=config.small_size)


def multi_crops(
    images: Callable[..., Tensor], frames: Tensor, config: MultiCrop
) -> dict[str, Tensor]:
    """All crops of each frame, by their size; for `encode_crops`.

    frames: uint8 [B, F, H, W, 3] -> `images`, float32 [B, 2, F, 3, S, S], of `two_crops`, and
    `small`, float32 [B, n, F, 3, s, s], of `small_crops`.
    """
    return {
        "images": two_crops(images, frames, config),
        "small": small_crops(images, frames, config),
    }


def as_rows(crops: Tensor) -> Tensor:
    """[B, V, F, 3, S, S] -> [V B F, 3, S, S]: all first crops, then all second ones, and so on."""
    return crops.transpose(0, 1).flatten(0, 2)


def encode_crops(encoder: Callable[[Tensor], Tensor], images: Tensor, small: Tensor) -> Tensor:
    """Representations of crops of two sizes, one pass a size: [(V + n) B F, D].

    images: float32 [B, V, F, 3, S, S]; small: float32 [B, n, F, 3, s, s], n may be 0. Rows are in
    the order of `as_rows`, the small crops' after the large ones'.
    """
    sizes = [crops for crops in (images, small) if crops.shape[1]]
    return torch.cat([encoder(as_rows(crops)) for crops in sizes])
