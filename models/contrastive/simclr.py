"""SimCLR: two augmented crops of one image attract, crops of other images repel."""

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
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.distributed import gather_rows, mean_over_ranks
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.instances import AlikeConfig, Moments, moments, partners, unlike
from marey.models.objectives.losses import info_nce_terms


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
    alike: AlikeConfig = AlikeConfig()
    """Frames that do not repel each other."""
    min_negatives: int = Field(default=1, ge=1)
    """Crops left with fewer negatives than this are skipped."""
    augment: AugmentConfig = SIMCLR
    """How each crop is varied (appendix A)."""


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
        crops = batch["images"].transpose(0, 1).flatten(0, 2)
        projected = functional.normalize(self.projector(self.encoder(crops)).float())
        positive, negative = crop_masks(moments(batch), self.config.alike)
        enough = negative.sum(dim=1) >= self.config.min_negatives
        terms, counted, hit = info_nce_terms(
            projected, gather_rows(projected), positive, negative, self.config.temperature
        )
        counted = counted & enough
        loss = mean_over_ranks(terms, counted)
        candidates = torch.log1p(negative.sum(dim=1).float())
        return {
            "loss": loss,
            "top1": mean_over_ranks(hit.float(), counted),
            "information": mean_over_ranks(candidates, counted) - loss.detach(),
            "embedding_std": projected.detach().std(dim=0).mean(),
            "valid": counted.float().mean(),
        }


def crop_masks(frames: Moments, alike: AlikeConfig) -> tuple[Tensor, Tensor]:
    """Which crops of all ranks attract and repel this rank's: (positive, negative).

    Both bool [2R, W 2R]. frames: the moments of this rank's R frames; crops are all first ones,
    then all second. A crop's partner attracts it; crops of something `alike`, among them itself,
    are neither.
    """
    rows = frames.repeat(2)
    columns = rows.gathered()
    partner = partners(rows.instance)
    place = torch.arange(len(columns.instance), device=partner.device)
    return place[None, :] == partner[:, None], unlike(rows, columns, alike)
