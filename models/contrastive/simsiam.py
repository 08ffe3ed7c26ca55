"""SimSiam: a predictor of one crop's embedding matches the other's, behind a stop-gradient.

    L = - cos( h(z), stop(z') ),   both ways

z = projector(f(x)), h is the predictor. See docs/methods/simsiam.md.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.multi_crop import TwoCrops
from marey.models.batch import Batch
from marey.models.contrastive.joint_embedding import TwoCropConfig, TwoCropMethod
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import register
from marey.models.objectives.arithmetic import paired_cosine


class SimSiamConfig(TwoCropConfig):
    """SimSiam."""

    projection_dim: int = Field(default=2048, ge=2, le=65_536)
    """Width of the projector, all three layers (section 3)."""
    predictor_dim: int = Field(default=512, ge=1, le=65_536)
    """Width of the predictor's hidden layer: a quarter of the projection (section 3)."""
    crops: TwoCrops = TwoCrops(
        first=AugmentConfig(
            crop_scale=(0.2, 1.0),
            flip=0.5,
            jitter=0.8,
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            hue=0.1,
            grayscale=0.2,
            blur=0.5,
        )
    )
    """How the two crops are augmented (that of MoCo v2, section 3)."""


@register
class SimSiam(TwoCropMethod):
    """Siamese network with a predictor and a stop-gradient; no negatives, no momentum encoder.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `instance` int64 [B].
    What is exported is the representation before the projector. The loss is the negative cosine,
    mean of both directions, in [-1, 1].
    """

    name = "simsiam"
    paper = (
        "Chen, He, Exploring Simple Siamese Representation Learning, CVPR 2021, arXiv 2011.10566"
    )
    Config = SimSiamConfig
    config: SimSiamConfig
    constant_lr = ("predictor",)

    def __init__(self, encoder: Encoder, config: SimSiamConfig) -> None:
        super().__init__(encoder, config)
        width = config.projection_dim
        self.projector = mlp(
            encoder.out_dim, width, width, width, norm=True, norm_out=True, affine_out=False
        )
        self.predictor = mlp(width, config.predictor_dim, width, norm=True)

    def targets(self, projected: Tensor) -> Tensor:
        """What the predictor must reach: the projections themselves, without their gradient."""
        return projected.detach()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        projected = self.projector(self.encoder(self.rows(batch)))
        first, second = projected.detach().chunk(2)
        # rows are first crops, then second ones: each is held against the other
        other = self.targets(projected).roll(len(first), dims=0)
        loss = -paired_cosine(self.predictor(projected), other).mean()
        return {"loss": loss, **self.monitors(first, second, batch)}
