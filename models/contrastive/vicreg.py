"""VICReg: crops of one image agree; each dimension varies and none covaries with another.

    L = lambda |z - z'|^2 + mu sum over branches of v(z) + nu sum over branches of c(z)
    v(z) = mean_j max(0, 1 - sqrt(var(z_j) + eps)),   c(z) = sum over i != j of cov(z)_ij^2 / D

z and z' are the embeddings of both crops; |.|^2 and v are means here, as in the released code. See
docs/methods/vicreg.md.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from marey.models.augmentation.multi_crop import BYOL_CROPS, TwoCrops
from marey.models.batch import Batch
from marey.models.contrastive.joint_embedding import TwoCropConfig, TwoCropMethod
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import expander
from marey.models.method import register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import gather_rows
from marey.models.objectives.variance import squared_covariances, variance_hinge


class VICRegConfig(TwoCropConfig):
    """Variance-invariance-covariance regularisation."""

    projection_dim: int = Field(default=8192, ge=2, le=65_536)
    """Width of the projector, all three layers (section 4.2)."""
    invariance: float = Field(default=25.0, ge=0, le=1e4)
    """Weight of the squared difference of two crops (section 4.2)."""
    variance: float = Field(default=25.0, ge=0, le=1e4)
    """Weight of the hinge that keeps each dimension's deviation at 1 (section 4.2)."""
    covariance: float = Field(default=1.0, ge=0, le=1e4)
    """Weight of the squared covariances of different dimensions (section 4.2)."""
    crops: TwoCrops = BYOL_CROPS
    """How the two crops are augmented (appendix C)."""


@register
class VICReg(TwoCropMethod):
    """Two branches held together by distance and apart by statistics; no negatives.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `instance` int64 [B].
    What is exported is the representation before the projector. Statistics are over the whole
    batch of all processes. The squared difference is averaged over dimensions, and the variance
    term over branches, as in the released code (the paper sums both).
    """

    name = "vicreg"
    paper = (
        "Bardes, Ponce, LeCun, VICReg: Variance-Invariance-Covariance Regularization for "
        "Self-Supervised Learning, ICLR 2022, arXiv 2105.04906"
    )
    Config = VICRegConfig
    config: VICRegConfig

    def __init__(self, encoder: Encoder, config: VICRegConfig) -> None:
        super().__init__(encoder, config)
        self.projector = expander(encoder.out_dim, config.projection_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        projected = full_precision(self.projector(self.encoder(self.rows(batch))))
        mine, partners = projected.chunk(2)
        first, second = gather_rows(mine), gather_rows(partners)
        invariance = (first - second).square().mean()
        variance = (variance_hinge(first) + variance_hinge(second)) / 2
        covariance = squared_covariances(first) + squared_covariances(second)
        loss = (
            config.invariance * invariance
            + config.variance * variance
            + config.covariance * covariance
        )
        return {
            "loss": loss,
            "invariance": invariance.detach(),
            "variance": variance.detach(),
            "covariance": covariance.detach(),
            "embedding_std": first.detach().std(dim=0, correction=0).mean(),
            **self.monitors(mine, partners, batch),
        }
