"""V-JEPA: predict the EMA encoder's features of masked space-time blocks.

    L = mean over masked patches of  | P(E(x visible)) - norm(E'(x)) |

E is the encoder, P the predictor, E' the EMA of E, behind a stop-gradient. See
docs/methods/masked_clips.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.masking import tube_blocks, visible_places
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.clip_inputs import clip_grid, clip_transformer
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.momentum import MomentumCopy, momentum_at
from marey.models.encoders.transformer import PatchDecoder
from marey.models.method import Method, Progress, register
from marey.models.objectives.distributed import mean_over_ranks
from marey.models.objectives.reconstruction import patch_errors

RANGES = ("short", "long")


class VJEPAConfig(MethodConfig):
    """Prediction of features of masked space-time blocks."""

    sampling: ClipsSampling = ClipsSampling(num_frames=16, spacing_s=0.13)
    """Which clips are drawn: 16 frames, four apart at 30 fps (section 3.3)."""
    short_blocks: int = Field(default=8, ge=1, le=64)
    """Blocks of the short-range mask, whose union is hidden at all times (section 3.2)."""
    short_area: float = Field(default=0.15, gt=0, lt=1)
    """Share of the picture of each of them."""
    long_blocks: int = Field(default=2, ge=1, le=64)
    """Blocks of the long-range mask."""
    long_area: float = Field(default=0.7, gt=0, lt=1)
    """Share of the picture of each of them."""
    predictor_width: int = Field(default=384, ge=16, le=4096)
    """Width of the predictor (released configurations)."""
    predictor_depth: int = Field(default=12, ge=1, le=64)
    """Blocks of the predictor (released configurations)."""
    predictor_heads: int = Field(default=12, ge=1, le=64)
    """Attention heads of the predictor; they divide its width."""
    mask_tokens: int = Field(default=1, ge=1, le=64)
    """Learned vectors that stand for hidden patches: 1, or one of their own for each of the two
    masks with 2 (released code; more are for files that have more)."""
    momentum: float = Field(default=0.998, ge=0, lt=1)
    """Share of the target encoder that a step keeps at first (section 3.3)."""
    momentum_end: float = Field(default=1.0, ge=0, le=1)
    """The share that it rises to."""
    momentum_rise: Literal["cosine", "linear"] = "cosine"
    """How it rises: along half a cosine, or linearly (released code)."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.3, 1.0), crop_ratio=(0.75, 1.35), flip=0.5)
    """One crop and flip for a whole clip."""


@register
class VJEPA(Method):
    """Joint-embedding prediction over clips; its encoder is a `video_vit_...`, or
    `tiny_video_vit`.

    Each clip is masked in two ways, by many small and by few large blocks of space through all of
    its time. What is exported is the target encoder.

    Batch: `frames` uint8 [B, C x T, H, W, 3], C clips of T frames.
    """

    name = "v_jepa"
    paper = (
        "Bardes, Garrido, Ponce, Chen, Rabbat, LeCun, Assran, Ballas, Revisiting Feature "
        "Prediction for Learning Visual Representations from Video, TMLR 2024, arXiv 2404.08471"
    )
    Config = VJEPAConfig
    config: VJEPAConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: VJEPAConfig) -> None:
        super().__init__(encoder, config)
        self.grid = clip_grid(encoder, config.sampling, self.name)
        self.target = MomentumCopy(encoder)
        self.predictor = PatchDecoder(
            encoder.feature_dim,
            config.predictor_width,
            config.predictor_depth,
            config.predictor_heads,
            values=encoder.feature_dim,
            positions=clip_transformer(encoder, self.name).positions,
            vectors=config.mask_tokens,
        )

    @property
    def chance(self) -> Mapping[str, float]:
        """The error of answering with the batch's mean feature everywhere, as share of itself."""
        return {"relative_error": 1.0}

    @property
    def exported(self) -> Encoder:
        """The target encoder."""
        return cast(Encoder, self.target[0])

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `clips`, float32 [B, C, 3, T, S, S]; and for each of the two
        ranges `mask_*`, bool [B, C, L], True where hidden, `keep_*`, int64 [B, C, K], the visible
        patches, and `present_*`, bool [B, C, K], False where `keep_*` is filled up."""
        config = self.config
        frames = batch["frames"].unflatten(1, (-1, config.sampling.num_frames))
        clips = self.clips(frames, config.augment)
        shape = clips.shape[:2]
        times, rows, columns = self.grid
        drawn: dict[str, Tensor] = {}
        for name, blocks, area in zip(
            RANGES,
            (config.short_blocks, config.long_blocks),
            (config.short_area, config.long_area),
            strict=True,
        ):
            still = tube_blocks(shape.numel(), rows, columns, blocks=blocks, area=area)
            mask = still.flatten(1).repeat(1, times)
            keep, present = visible_places(mask)
            drawn |= {f"mask_{name}": mask, f"keep_{name}": keep, f"present_{name}": present}
        placed = {
            name: part.unflatten(0, shape).to(clips.device, non_blocking=True)
            for name, part in drawn.items()
        }
        return replace_frames(batch, clips=clips, **placed)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clips = batch["clips"].flatten(0, 1)
        target = self._targets(clips)
        blind = target.mean(dim=(0, 1), keepdim=True)
        trunk = clip_transformer(self.encoder, self.name)
        positions = trunk.places(clips.shape[2:], clips.device)
        losses, floors = [], []
        for which, name in enumerate(RANGES):
            mask, keep, present = (
                batch[f"{part}_{name}"].flatten(0, 1) for part in ("mask", "keep", "present")
            )
            tokens = trunk.visible(clips, keep, present)
            predicted = self.predictor(tokens, keep, positions, present, which).float()
            losses.append(mean_over_ranks(patch_errors(predicted, target, squared=False), mask))
            floors.append(mean_over_ranks(patch_errors(blind, target, squared=False), mask))
        loss = torch.stack(losses).mean()
        hidden = torch.cat([batch[f"mask_{name}"] for name in RANGES])
        return {
            "loss": loss,
            "relative_error": loss.detach() / (torch.stack(floors).mean() + 1e-6),
            "target_std": target.flatten(0, 1).std(dim=0).mean(),
            "hidden": hidden.float().mean(),
        }

    @torch.no_grad()
    def _targets(self, clips: Tensor) -> Tensor:
        """The target encoder's features of all patches, each to mean 0 and variance 1: [N, L, D].

        The normalisation is the released code's; it takes away a way to shrink the loss.
        """
        features = self.exported.features(clips).flatten(2).transpose(1, 2).float()
        return functional.layer_norm(features, features.shape[-1:])

    def after_step(self, progress: Progress) -> None:
        start, end = self.config.momentum, self.config.momentum_end
        if self.config.momentum_rise == "linear":
            keep = start + (end - start) * min(1.0, progress.fraction)
        else:
            keep = momentum_at(progress.fraction, start, end)
        self.target.update(self.encoder, keep=keep)
