"""MoCo v3: a query predicts the momentum encoder's key of the other crop.

    ctr(q, k) = -log  exp(q k+ / tau) / sum over keys k of the batch of exp(q k / tau)
    L = 2 tau ( ctr(q_1, k_2) + ctr(q_2, k_1) )

q = predictor(projector(f(x))); k comes from the momentum encoder, behind a stop-gradient. See
docs/methods/moco.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.multi_crop import BYOL_CROPS, TwoCrops, two_crops
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.encoders.momentum import MomentumCopy, momentum_at
from marey.models.method import Method, Progress, register
from marey.models.objectives.distributed import gather_rows, own_rows
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import (
    FrameIds,
    NearDuplicates,
    Terms,
    frame_ids,
    info_nce,
    negative_mask,
    similarity,
    summary,
)
from marey.models.objectives.monitors import spread


class MoCoV3Config(MethodConfig):
    """Momentum contrast, version 3."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are contrasted."""
    layers: Literal[2, 3] = 2
    """Layers of the projector: 2 for residual networks, 3 for transformers, whose predictor ends in
    batch norm too (section 5, released code)."""
    head_dim: int = Field(default=4096, ge=1, le=65_536)
    """Width of the hidden layers of projector and predictor."""
    projection_dim: int = Field(default=256, ge=2, le=8192)
    """Width of queries and keys."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Share of its weights that the key encoder keeps at the first step; it rises to 1 along half
    a cosine (released code; 0.99 for runs of 300 epochs or fewer)."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Temperature of the softmax: 1 for residual networks, 0.2 for transformers."""
    frozen_patches: bool = False
    """Leave a transformer's patch projection as it was initialised, against instability
    (section 4.1)."""
    alike: NearDuplicates = NearDuplicates()
    """Near-duplicate frames, which are no negatives of each other."""
    min_negatives: int = Field(default=1, ge=1)
    """Crops left with fewer negatives than this are skipped."""
    crops: TwoCrops = BYOL_CROPS
    """How the two crops are augmented (section 5; there with crop_scale from 0.2 for ResNet)."""


@register
class MoCoV3(Method):
    """Symmetric contrast within the batch; what is exported is the encoder, without projector.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `time_s` float32
    [B, F]; `instance` int64 [B].
    """

    name = "moco_v3"
    paper = (
        "Chen, Xie, He, An Empirical Study of Training Self-Supervised Vision Transformers, "
        "ICCV 2021, arXiv 2104.02057"
    )
    Config = MoCoV3Config
    config: MoCoV3Config

    def __init__(self, encoder: Encoder, config: MoCoV3Config) -> None:
        super().__init__(encoder, config)
        hidden, width = config.head_dim, config.projection_dim
        if config.frozen_patches:
            freeze_patches(encoder)
        deep = config.layers == 3
        widths = (encoder.out_dim, *[hidden] * (config.layers - 1), width)
        self.projector = mlp(*widths, norm=True, norm_out=True, affine_out=False)
        self.predictor = mlp(width, hidden, width, norm=True, norm_out=deep, affine_out=False)
        self.key_encoder = MomentumCopy(encoder, self.projector)

    @property
    def chance(self) -> Mapping[str, float]:
        """Crops that say nothing of each other: 0 nats of information."""
        return {"information": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 2, F, 3, S, S], two crops of every frame, and `dhash`, int64
        [B, F], in place of `frames`."""
        crops = two_crops(self.images, batch["frames"], self.config.crops)
        return replace_frames(batch, images=crops, dhash=dhash(batch["frames"]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config, frames = self.config, frame_ids(batch)
        crops = [crop.flatten(0, 1) for crop in batch["images"].unbind(1)]
        queries = [functional.normalize(self._query(crop).float()) for crop in crops]
        keys = [functional.normalize(self.key_encoder(crop).float()) for crop in crops]
        settings = (frames, config.temperature, config.alike, config.min_negatives)
        metrics = summary(
            batch_terms(queries[0], keys[1], *settings), batch_terms(queries[1], keys[0], *settings)
        )
        # So scaled, the rate need not follow the temperature (section 3).
        loss = 2 * config.temperature * metrics["loss"]
        return {**metrics, "loss": loss, "spread": spread(queries[0])}

    def _query(self, images: Tensor) -> Tensor:
        return self.predictor(self.projector(self.encoder(images)))

    def after_step(self, progress: Progress) -> None:
        keep = momentum_at(progress.fraction, self.config.momentum)
        self.key_encoder.update(self.encoder, self.projector, keep=keep)


def batch_terms(
    queries: Tensor,
    keys: Tensor,
    frames: FrameIds,
    temperature: float,
    near_duplicates: NearDuplicates,
    min_negatives: int = 1,
) -> Terms:
    """Each query against the key of its own image and those of all other images of all ranks.

    queries, keys: [R, D] of length 1, of the other crop; frames: the R frames.
    """
    scores = similarity(queries, gather_rows(keys), temperature)
    negative = negative_mask(frames, frames.gathered(), near_duplicates)
    return info_nce(scores, own_rows(queries), negative, min_negatives)


def freeze_patches(encoder: Encoder) -> None:
    """Train all but the patch projection. Raises SettingError for a trunk without one."""
    # `tiny_vit` has its own as `embed`, timm's transformers as `patch_embed`
    found = [
        module for name, module in encoder.named_modules()
        if name == "trunk.embed" or name.endswith("patch_embed")
    ]  # fmt: skip
    if not found:
        raise SettingError(
            f"method.frozen_patches needs a transformer: backbone {encoder.config.backbone!r} has "
            "no patch projection"
        )
    for module in found:
        module.requires_grad_(False)
