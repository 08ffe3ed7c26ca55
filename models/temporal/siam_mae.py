"""SiamMAE and CropMAE: reconstruct nearly all of a picture from a related one.

    L = mean over masked patches of  mean (x2^ - x2)^2,    x2^ = D(E(x2 visible), E(x1))

E is the encoder of both pictures, D a decoder whose patches of the second look at the first; the
target is normalised patch by patch. See docs/methods/siam_mae.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import ByKind, FramePairsSampling, FramesSampling, Sampling
from marey.models.augmentation.augment import AugmentConfig, augment_frames
from marey.models.augmentation.masking import random_mask
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.cross_decoder import CrossDecoder
from marey.models.encoders.dense_heads import require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import normalize_patches, patchify
from marey.models.encoders.sines import Positions, patch_places
from marey.models.encoders.trunk import PatchTrunk
from marey.models.method import Method, register
from marey.models.objectives.distributed import mean_over_ranks
from marey.models.objectives.reconstruction import patch_errors, reconstruction


class SiamMAEConfig(MethodConfig):
    """Masked prediction from a second picture."""

    sampling: Annotated[FramePairsSampling | FramesSampling, ByKind()] = FramePairsSampling()
    """Which pictures: two frames of a video (SiamMAE), or one, of which `inner` takes a crop
    (CropMAE)."""
    mask_ratio: float = Field(default=0.95, gt=0, lt=1)
    """Share of the second picture's patches that is hidden (SiamMAE; CropMAE has 0.985)."""
    decoder_width: int = Field(default=256, ge=16, le=4096)
    """Width of the decoder (CropMAE's released code)."""
    decoder_depth: int = Field(default=4, ge=1, le=64)
    """Blocks of the decoder (CropMAE's released code)."""
    decoder_heads: int = Field(default=8, ge=1, le=64)
    """Attention heads of the decoder; they divide its width."""
    decoder_hidden: int = Field(default=2048, ge=16, le=65_536)
    """Width of the MLPs of the decoder (CropMAE's released code)."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.5, 1.0), flip=0.5)
    """One crop and flip for both frames; with `inner`, of the first picture."""
    inner: AugmentConfig | None = None
    """CropMAE: how the second picture is cut from the first one; unset for two frames."""

    @model_validator(mode="after")
    def _pictures(self) -> SiamMAEConfig:
        if (self.inner is None) == isinstance(self.sampling, FramesSampling):
            raise ValueError(
                "sampling.kind=frame_pairs gives both pictures, and sampling.kind=frames one, of "
                "which `inner` must say how the second is cut"
            )
        return self


@register
class SiamMAE(Method):
    """Siamese masked autoencoder over two frames (SiamMAE), or over two crops of one (CropMAE,
    Eymaël et al., ECCV 2024, arXiv 2403.17823).

    Batch: `frames` uint8 [B, 2, H, W, 3], the earlier frame first; or [B, F, H, W, 3], each frame
    an image of its own.
    """

    name = "siam_mae"
    paper = "Gupta, Wu, Deng, Fei-Fei, Siamese Masked Autoencoders, NeurIPS 2023, arXiv 2305.14344"
    Config = SiamMAEConfig
    config: SiamMAEConfig

    def __init__(self, encoder: Encoder, config: SiamMAEConfig) -> None:
        super().__init__(encoder, config)
        require_map(encoder, self.name)
        if not isinstance(encoder.trunk, PatchTrunk):
            raise SettingError(
                "siam_mae needs a plain transformer that can leave patches out, not "
                f"{encoder.config.backbone}: set encoder.backbone=tiny_vit, or one of timm's vit_*"
            )
        self.patch = encoder.trunk.levels[-1].reduction
        size = encoder.config.image_size
        if size % self.patch:
            raise SettingError(f"encoder.image_size={size} must be a multiple of {self.patch}")
        self.side = size // self.patch
        own = encoder.config.positions == "own"
        self.positions: Positions = "standard" if own else "axes"
        self.decoder = CrossDecoder(
            encoder.feature_dim,
            config.decoder_width,
            config.decoder_depth,
            config.decoder_heads,
            hidden=config.decoder_hidden,
            values=3 * self.patch**2,
            positions=self.positions,
        )

    @classmethod
    def samples(cls, config: MethodConfig) -> Sampling:
        return cast(SiamMAEConfig, config).sampling

    @property
    def chance(self) -> Mapping[str, float]:
        """The errors of a blind answer, and of the first picture itself, as shares of
        themselves."""
        return {"relative_error": 1.0, "error_over_copy": 1.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `first` and `second`, float32 [B, P, 3, S, S], the pictures of
        P pairs; `mask`, bool [B, P, L], True where the second is hidden, and `keep`, int64
        [B, P, K], its visible patches."""
        frames, config = batch["frames"], self.config
        if config.inner is None:
            images = self.images(frames, config.augment, shared=2)
            first, second = images[:, :1], images[:, 1:]
        else:
            size = self.encoder.config.image_size
            cut = augment_frames(frames.flatten(0, 1), size, config.augment)
            # as pictures of eight bits, as released code crops them
            pictures = (cut * 255).round().byte().permute(0, 2, 3, 1).unflatten(0, frames.shape[:2])
            first = self.encoder.normalize(cut).unflatten(0, frames.shape[:2])
            second = self.images(pictures, config.inner)
        shape = first.shape[:2]
        drawn = random_mask(shape.numel(), self.side**2, config.mask_ratio)
        mask, keep = (
            part.unflatten(0, shape).to(first.device, non_blocking=True) for part in drawn
        )
        return replace_frames(batch, first=first, second=second, mask=mask, keep=keep)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        first, second, mask, keep = (
            batch[name].flatten(0, 1) for name in ("first", "second", "mask", "keep")
        )
        trunk = cast(PatchTrunk, self.encoder.trunk)
        every = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        known = trunk.visible(first, every)
        seen = trunk.visible(second, keep)
        places = patch_places(self.positions, (self.side, self.side), mask.device)
        predicted = self.decoder(seen, keep, known, places)
        patches = patchify(second, self.patch)
        metrics = reconstruction(predicted, patches, mask, norm_pix=True, squared=True)
        target = normalize_patches(patches.float())
        copied = normalize_patches(patchify(first, self.patch).float())
        copy_error = mean_over_ranks(patch_errors(copied, target, squared=True), mask)
        metrics["error_over_copy"] = metrics["loss"].detach() / (copy_error + 1e-6)
        return metrics
