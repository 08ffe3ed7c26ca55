"""SimCLR: two crops of one image are positives, crops of other images negatives.

    L = mean over 2N crops i of  -log  exp(z_i z_j / tau) / sum over k != i of exp(z_i z_k / tau)

z are unit projections, j is the other crop of i's image (`nt_xent`, equation 1). See
docs/methods/simclr.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import SIMCLR, AugmentConfig
from marey.models.augmentation.multi_crop import as_rows
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import (
    NearDuplicates,
    frame_ids,
    negative_mask,
    nt_xent,
    summary,
)


class SimCLRConfig(MethodConfig):
    """SimCLR, versions 1 and 2."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are contrasted."""
    head: Literal["v1", "v2"] = "v1"
    """Projector of two layers (v1) or three (v2)."""
    head_dim: int | None = Field(default=None, ge=1, le=16_384)
    """Width of the projector's hidden layers; unset: that of the representation."""
    projection_dim: int = Field(default=128, ge=2, le=8192)
    """Width of the space in which crops are compared."""
    temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of the softmax (0.5 for CIFAR, appendix B.9)."""
    alike: NearDuplicates = NearDuplicates()
    """Near-duplicate frames, which are no negatives of each other."""
    min_negatives: int = Field(default=1, ge=1)
    """Crops left with fewer negatives than this are skipped."""
    augment: AugmentConfig = SIMCLR
    """How each crop is augmented (appendix A)."""


@register
class SimCLR(Method):
    """Contrastive learning of crops; what is exported is the representation before the projector.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `time_s` float32
    [B, F]; `instance` int64 [B].
    """

    name = "simclr"
    paper = (
        "Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual "
        "Representations, ICML 2020, arXiv 2002.05709 (v2: arXiv 2006.10029)"
    )
    Config = SimCLRConfig
    config: SimCLRConfig

    def __init__(self, encoder: Encoder, config: SimCLRConfig) -> None:
        super().__init__(encoder, config)
        hidden = [config.head_dim or encoder.out_dim] * (1 if config.head == "v1" else 2)
        self.projector = mlp(
            encoder.out_dim, *hidden, config.projection_dim, norm=True, norm_out=True
        )

    @property
    def chance(self) -> Mapping[str, float]:
        """Crops that say nothing of each other: log(candidates) nats of loss, 0 of information."""
        return {"information": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 2, F, 3, S, S], two crops of every frame, and `dhash`, int64
        [B, F], in place of `frames`."""
        twice = torch.stack([batch["frames"]] * 2, dim=1)
        images = self.images(twice, self.config.augment)
        return replace_frames(batch, images=images, dhash=dhash(batch["frames"]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        crops = as_rows(batch["images"])
        z = functional.normalize(self.projector(self.encoder(crops)).float())
        frames = frame_ids(batch).repeat(2)
        negative = negative_mask(frames, frames.gathered(), config.alike)
        first, second = z.chunk(2)
        terms = nt_xent(first, second, config.temperature, negative, config.min_negatives)
        return {**summary(terms), "embedding_std": z.detach().std(dim=0).mean()}
