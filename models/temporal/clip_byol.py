"""BYOL over clips (rho-BYOL): a clip predicts the momentum encoder's embedding of the others.

    L = mean over (i, j) of  2 - 2 cos( predictor(z_i), z'_j )

over ordered pairs (i, j) of the rho clips of a video; z' are the momentum encoder's projections,
behind a stop-gradient. No negatives. See docs/methods/clip_pairs.md.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.encoders.momentum import MomentumCopy, momentum_at
from marey.models.method import Progress, register
from marey.models.objectives.arithmetic import paired_cosine
from marey.models.temporal.clip_pairs import ClipPairs, ClipPairsConfig


class ClipBYOLConfig(ClipPairsConfig):
    """Prediction of a momentum encoder's embeddings of the other clips."""

    projection_dim: int = Field(default=256, ge=2, le=65_536)
    """Width of the space in which clips are compared."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Share of its weights that the momentum encoder keeps in the first step; it rises to 1 along
    half a cosine."""


@register
class ClipBYOL(ClipPairs):
    """rho-BYOL; what is exported is the online encoder, before the projector."""

    name = "clip_byol"
    paper = (
        "Feichtenhofer, Fan, Xiong, Girshick, He, A Large-Scale Study on Unsupervised "
        "Spatiotemporal Representation Learning, CVPR 2021, arXiv 2104.14558"
    )
    Config = ClipBYOLConfig
    config: ClipBYOLConfig

    def __init__(self, encoder: Encoder, config: ClipBYOLConfig) -> None:
        super().__init__(encoder, config)
        hidden, width = config.head_dim, config.projection_dim
        self.projector = mlp(encoder.out_dim, hidden, width, norm=True)
        self.predictor = mlp(width, hidden, width, norm=True)
        self.target = MomentumCopy(encoder, self.projector)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clips = self.rows(batch)
        projected = self.projector(self.encoder(clips))
        predicted, targets = self.predictor(projected), self.target(clips)
        terms = [2 - 2 * paired_cosine(predicted, other) for other in self.others(targets)]
        return {"loss": torch.cat(terms).mean(), **self.monitors(projected, batch)}

    def after_step(self, progress: Progress) -> None:
        """The momentum encoder follows."""
        keep = momentum_at(progress.fraction, self.config.momentum)
        self.target.update(self.encoder, self.projector, keep=keep)
