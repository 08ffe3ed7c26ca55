"""BYOL: one crop predicts the momentum encoder's embedding of the other.

    L = 2 - 2 cos( q(g(f(x))), g'(f'(x')) ),   both ways
    f', g' <- m f', g' + (1 - m) f, g

f is the encoder, g the projector, q the predictor; f', g' stand behind a stop-gradient. See
docs/methods/byol.md.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from marey.models.augmentation.multi_crop import BYOL_CROPS, TwoCrops
from marey.models.batch import Batch
from marey.models.contrastive.joint_embedding import TwoCropConfig, TwoCropMethod
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.encoders.momentum import MomentumCopy, momentum_at
from marey.models.method import Progress, register
from marey.models.objectives.arithmetic import paired_cosine


class BYOLConfig(TwoCropConfig):
    """Bootstrap your own latent."""

    head_dim: int = Field(default=4096, ge=1, le=65_536)
    """Width of the hidden layer of projector and predictor (section 3.3)."""
    projection_dim: int = Field(default=256, ge=2, le=65_536)
    """Width of the space in which crops are compared (section 3.3)."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Share of the target's weights that the first step keeps; it rises to 1 along half a cosine
    (section 3.3; 0.99 for runs of 300 epochs or fewer)."""
    crops: TwoCrops = BYOL_CROPS
    """How the two crops are augmented (appendix B)."""


@register
class BYOL(TwoCropMethod):
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

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        crops = self.rows(batch)
        projected = self.projector(self.encoder(crops))
        first, second = projected.detach().chunk(2)
        # rows are first crops, then second ones: each is held against the other
        other = self.target(crops).roll(len(first), dims=0)
        loss = (2 - 2 * paired_cosine(self.predictor(projected), other)).mean()
        return {"loss": loss, **self.monitors(first, second, batch)}

    def after_step(self, progress: Progress) -> None:
        keep = momentum_at(progress.fraction, self.config.momentum)
        self.target.update(self.encoder, self.projector, keep=keep)
