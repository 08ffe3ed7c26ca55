"""SimMIM: reconstruct the pixels of the masked cells of a picture.

    L = sum |x^ - y| m / sum m

m is the mask, x^ the prediction of a linear head, y the pixels. See docs/methods/masked_pixels.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.masking import cell_mask
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.dense_heads import PlaceHead, require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import cell_side, hide, learned_tile, patchify, spread
from marey.models.method import Method, register
from marey.models.objectives.content_free import filled_from_around
from marey.models.objectives.reconstruction import reconstruction


class MaskedPixelsConfig(MethodConfig):
    """Masked image modelling with the whole picture in the encoder."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are drawn."""
    cells: int = Field(default=7, ge=2, le=64)
    """Cells that are hidden or not along each side: 32 px of 224 (section 3.2)."""
    mask_ratio: float = Field(default=0.6, gt=0, lt=1)
    """Share of the cells that are hidden (section 4.1.2)."""
    norm_pix: bool = False
    """Predict each cell's pixels less their mean and over their deviation (as MAE), so that flat
    cells say nothing; for frames of compressed video."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.67, 1.0), flip=0.5)
    """How pictures are augmented (section 4.1.1)."""


@register
class MaskedPixels(Method):
    """Masked pixels, with any trunk.

    Hidden cells are replaced in the picture itself, by one learned tile: the same as replacing
    the embeddings of non-overlapping patches, and possible for convolutions.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own.
    """

    name = "masked_pixels"
    paper = (
        "Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu, SimMIM: A Simple Framework for Masked Image "
        "Modeling, CVPR 2022, arXiv 2111.09886"
    )
    Config = MaskedPixelsConfig
    config: MaskedPixelsConfig

    def __init__(self, encoder: Encoder, config: MaskedPixelsConfig) -> None:
        super().__init__(encoder, config)
        require_map(encoder, self.name)
        size = encoder.config.image_size
        self.cell = cell_side(size, config.cells, "cells")
        self.head = PlaceHead(encoder, side=size, values=3)
        self.tile = learned_tile(self.cell)

    @property
    def chance(self) -> Mapping[str, float]:
        """The errors of smooth interpolation and of a blind answer, as shares of themselves."""
        return {"error_over_fill": 1.0, "relative_error": 1.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], and `mask`, bool [B, F, cells, cells], True
        where hidden, in place of `frames`."""
        images = self.images(batch["frames"], self.config.augment)
        cells = self.config.cells
        mask = cell_mask(images.shape[0] * images.shape[1], cells, cells, self.config.mask_ratio)
        mask = mask.unflatten(0, images.shape[:2]).to(images.device, non_blocking=True)
        return replace_frames(batch, images=images, mask=mask)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, mask = batch["images"].flatten(0, 1), batch["mask"].flatten(0, 1)
        features = self.encoder.features(hide(images, mask, self.tile))
        pixels = self.head(features).transpose(1, 2).unflatten(2, images.shape[2:])
        return reconstruction(
            patchify(pixels, self.cell),
            patchify(images, self.cell),
            mask.flatten(1),
            norm_pix=self.config.norm_pix,
            squared=False,
            filled=patchify(
                filled_from_around(images, spread(mask, *images.shape[2:])[:, None]), self.cell
            ),
        )
