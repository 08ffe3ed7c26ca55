"""Barlow Twins: the cross-correlation of two crops' embeddings is drawn to the identity.

    C_ij = sum_b z_b,i z'_b,j / N,   L = sum_i (1 - C_ii)^2 + lambda sum_i sum_j!=i C_ij^2

z and z' are the embeddings of both crops, standardised over the batch. See
docs/methods/barlow_twins.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
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


class BarlowTwinsConfig(TwoCropConfig):
    """Barlow Twins."""

    projection_dim: int = Field(default=8192, ge=2, le=65_536)
    """Width of the projector, all three layers (section 2.2)."""
    redundancy: float = Field(default=0.0051, ge=0, le=100)
    """Weight of the squared correlations of different dimensions (section 2.2)."""
    crops: TwoCrops = BYOL_CROPS
    """How the two crops are augmented (section 2.2, that of BYOL)."""


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlation over the batch of every dimension of `first` with every one of `second`: [D, D].

    first, second: [N, D]. A dimension that does not vary correlates with nothing: 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        return _standardized(first).T @ _standardized(second) / len(first)


def _standardized(embeddings: Tensor) -> Tensor:
    """Mean 0 and variance 1 of each dimension over the batch, as batch norm does it."""
    rows = full_precision(embeddings)
    centred = rows - rows.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + 1e-5).sqrt()


def barlow_twins_terms(correlation: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of equation 1: (1 - C_ii)^2, and C_ij^2 for i != j. correlation: [D, D]."""
    diagonal = correlation.diagonal()
    squares = correlation.square()
    return (1 - diagonal).square().sum(), squares.sum() - diagonal.square().sum()


@register
class BarlowTwins(TwoCropMethod):
    """Cross-correlation of two crops' embeddings drawn to the identity; no negatives.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `instance` int64 [B].
    What is exported is the representation before the projector. The correlation is over the whole
    batch of all processes.
    """

    name = "barlow_twins"
    paper = (
        "Zbontar, Jing, Misra, LeCun, Deny, Barlow Twins: Self-Supervised Learning via Redundancy "
        "Reduction, ICML 2021, arXiv 2103.03230"
    )
    Config = BarlowTwinsConfig
    config: BarlowTwinsConfig

    def __init__(self, encoder: Encoder, config: BarlowTwinsConfig) -> None:
        super().__init__(encoder, config)
        self.projector = expander(encoder.out_dim, config.projection_dim)

    @property
    def chance(self) -> Mapping[str, float]:
        """Embeddings that say nothing of the image, and so nothing of the other crop."""
        return {**super().chance, "correlation": 0.0}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        projected = full_precision(self.projector(self.encoder(self.rows(batch))))
        first, second = projected.chunk(2)
        correlation = cross_correlation(gather_rows(first), gather_rows(second))
        alignment, redundancy = barlow_twins_terms(correlation)
        return {
            "loss": alignment + self.config.redundancy * redundancy,
            "correlation": correlation.detach().diagonal().mean(),
            "redundancy": redundancy.detach() / (len(correlation) * (len(correlation) - 1)),
            **self.monitors(first, second, batch),
        }
