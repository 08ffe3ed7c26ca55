"""MAE: reconstruct three quarters of the patches from the others.

    L = mean over masked patches of  mean (x^ - y)^2

x^ are the small decoder's pixels, y the patch, normalised by itself. See
docs/methods/masked_pixels.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.masking import random_mask
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.dense_heads import require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import patchify, spread
from marey.models.encoders.sines import Positions, patch_places
from marey.models.encoders.transformer import PatchDecoder
from marey.models.encoders.trunk import PatchTrunk
from marey.models.method import Method, register
from marey.models.objectives.content_free import filled_from_around
from marey.models.objectives.reconstruction import reconstruction


class MAEConfig(MethodConfig):
    """Masked autoencoder."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are drawn."""
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    """Share of the patches that the encoder does not see (section 4.1)."""
    decoder_width: int = Field(default=512, ge=16, le=4096)
    """Width of the decoder (section 4.1)."""
    decoder_depth: int = Field(default=8, ge=1, le=64)
    """Blocks of the decoder (section 4.1)."""
    decoder_heads: int = Field(default=16, ge=1, le=64)
    """Attention heads of the decoder; they divide its width."""
    norm_pix: bool = True
    """Predict each patch's pixels less their mean and over their deviation (section 4.1)."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.2, 1.0), flip=0.5)
    """How pictures are augmented: crop and flip alone (section 4.1)."""


@register
class MAE(Method):
    """Masked autoencoder with a plain transformer, without a class token: patches are averaged.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own.
    """

    name = "mae"
    paper = (
        "He, Chen, Xie, Li, Dollár, Girshick, Masked Autoencoders Are Scalable Vision Learners, "
        "CVPR 2022, arXiv 2111.06377"
    )
    Config = MAEConfig
    config: MAEConfig

    def __init__(self, encoder: Encoder, config: MAEConfig) -> None:
        super().__init__(encoder, config)
        require_map(encoder, self.name)
        if not isinstance(encoder.trunk, PatchTrunk):
            raise SettingError(
                f"mae needs a plain transformer that can leave patches out, not "
                f"{encoder.config.backbone}: set encoder.backbone=tiny_vit, or one of timm's vit_*"
            )
        self.patch = encoder.trunk.levels[-1].reduction
        size = encoder.config.image_size
        if size % self.patch:
            raise SettingError(f"encoder.image_size={size} must be a multiple of {self.patch}")
        self.side = size // self.patch
        # beside fixed sines of row and column, those of the decoder are the same
        own = encoder.config.positions == "own"
        self.positions: Positions = "standard" if own else "axes"
        self.decoder = PatchDecoder(
            encoder.feature_dim,
            config.decoder_width,
            config.decoder_depth,
            config.decoder_heads,
            values=3 * self.patch**2,
            positions=self.positions,
        )

    @property
    def chance(self) -> Mapping[str, float]:
        """The errors of smooth interpolation and of a blind answer, as shares of themselves."""
        return {"error_over_fill": 1.0, "relative_error": 1.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], `mask`, bool [B, F, L], True where hidden, and
        `keep`, int64 [B, F, K], the visible patches, in place of `frames`."""
        images = self.images(batch["frames"], self.config.augment)
        drawn = random_mask(images.shape[0] * images.shape[1], self.side**2, self.config.mask_ratio)
        mask, keep = (
            part.unflatten(0, images.shape[:2]).to(images.device, non_blocking=True)
            for part in drawn
        )
        return replace_frames(batch, images=images, mask=mask, keep=keep)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, mask, keep = (batch[name].flatten(0, 1) for name in ("images", "mask", "keep"))
        trunk = cast(PatchTrunk, self.encoder.trunk)
        positions = patch_places(self.positions, (self.side, self.side), images.device)
        predicted = self.decoder(trunk.visible(images, keep), keep, positions)
        hidden = spread(mask.unflatten(1, (self.side, self.side)), *images.shape[2:])
        return reconstruction(
            predicted,
            patchify(images, self.patch),
            mask,
            norm_pix=self.config.norm_pix,
            squared=True,
            filled=patchify(filled_from_around(images, hidden[:, None]), self.patch),
        )
