"""BYOL: one crop predicts the embedding that a slow copy of the network has of the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.multi_crop import BYOL_CROPS, TwoCrops, as_rows, two_crops
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.encoders.momentum import MomentumCopy, momentum_at
from marey.models.method import Method, Progress, register
from marey.models.objectives.losses import paired_cosine
from marey.models.objectives.monitors import joint_embedding_metrics


class BYOLConfig(MethodConfig):
    """Bootstrap your own latent."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images crops are taken from."""
    head_dim: int = Field(default=4096, ge=1, le=65_536)
    """Width of the hidden layer of projector and predictor (section 3.3)."""
    projection_dim: int = Field(default=256, ge=2, le=65_536)
    """Width of the space in which crops are compared (section 3.3)."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Share of the target's weights that the first step keeps; it rises to 1 along half a cosine
    (section 3.3; 0.99 for runs of 300 epochs or fewer)."""
    crops: TwoCrops = BYOL_CROPS
    """How the two crops are varied (appendix B)."""


@register
class BYOL(Method):
    """Online network with a predictor, target network that follows it; no negatives.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `instance` int64 [B].
    What is exported is the online encoder, the representation before the projector. The loss
    is the squared distance of unit vectors (equation 2), in [0, 4], mean of both directions (the
    paper's sum is twice that).
    """

    name = "byol"
    paper = (
        "Grill et al., Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, "
        "NeurIPS 2020, arXiv 2006.07733"
    )
    Config = BYOLConfig
    config: BYOLConfig

    def __init__(self, encoder: Encoder, config: BYOLConfig) -> None:
        super().__init__(encoder, config)
        hidden, width = config.head_dim, config.projection_dim
        self.projector = mlp(encoder.out_dim, hidden, width, norm=True)
        self.predictor = mlp(width, hidden, width, norm=True)
        self.target = MomentumCopy(encoder, self.projector)

    @property
    def chance(self) -> Mapping[str, float]:
        """Embeddings that say nothing of the image."""
        return {"pair_auc": 0.5}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 2, F, 3, S, S], two crops of every frame, in place of
        `frames`."""
        return replace_frames(
            batch, images=two_crops(self.images, batch["frames"], self.config.crops)
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        crops = as_rows(batch["images"])
        projected = self.projector(self.encoder(crops))
        first, second = projected.detach().chunk(2)
        # rows are first crops, then second ones: each is held against the other
        other = self.target(crops).roll(len(first), dims=0)
        loss = (2 - 2 * paired_cosine(self.predictor(projected), other)).mean()
        return {"loss": loss, **joint_embedding_metrics(first, second, batch["instance"])}

    def after_step(self, progress: Progress) -> None:
        keep = momentum_at(progress.fraction, self.config.momentum)
        self.target.update(self.encoder, self.projector, keep=keep)
