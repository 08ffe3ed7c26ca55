"""LeJEPA: crops of one image agree, and embeddings are drawn to a standard Gaussian.

    L = (1 - lambda)  mean_v |z_v - (z_1 + z_2) / 2|^2  +  lambda  mean_v SIGReg(z_v)
    SIGReg(Z) = mean over a of  N int |mean_n exp(i t a z_n) - exp(-t^2/2)|^2 exp(-t^2/2) dt

z_v are the projections of crop v; a are random directions. See docs/methods/lejepa.md.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from marey.models.augmentation.multi_crop import BYOL_CROPS, MultiCrop, encode_crops
from marey.models.batch import Batch
from marey.models.contrastive.joint_embedding import MultiCropConfig, MultiCropMethod
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Progress, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.gaussian import drawn_directions, sigreg

_LARGE = BYOL_CROPS.first.model_copy(
    update={"crop_scale": (0.3, 1.0), "blur": 0.5, "solarize": 0.2}
)


class LeJEPAConfig(MultiCropConfig):
    """LeJEPA: a joint embedding with sketched isotropic Gaussian regularisation."""

    head_dim: int = Field(default=2048, ge=1, le=65_536)
    """Width of the projector's two hidden layers."""
    projection_dim: int = Field(default=64, ge=2, le=65_536)
    """Width of the space that is made Gaussian."""
    weight: float = Field(default=0.05, ge=0, le=1)
    """Share of the Gaussian regularisation in the loss, lambda (section 5)."""
    directions: int = Field(default=256, ge=1, le=65_536)
    """Random directions along which embeddings are tested, new ones each step (section 4)."""
    crops: MultiCrop = MultiCrop(
        first=_LARGE, small=_LARGE.model_copy(update={"crop_scale": (0.05, 0.3)})
    )
    """How the large and small crops are augmented."""


@register
class LeJEPA(MultiCropMethod):
    """Agreeing crops and Gaussian embeddings: no stop-gradient, teacher or schedule.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `instance` int64 [B].
    What is exported is the representation before the projector. Every crop is drawn to the mean of
    the two large ones. Gaussianity is tested over the whole batch of all processes, for each
    crop's place apart.
    """

    name = "lejepa"
    paper = (
        "Balestriero, LeCun, LeJEPA: Provable and Scalable Self-Supervised Learning Without the "
        "Heuristics, 2025, arXiv 2511.08544"
    )
    Config = LeJEPAConfig
    config: LeJEPAConfig
    directions: Tensor

    def __init__(self, encoder: Encoder, config: LeJEPAConfig) -> None:
        super().__init__(encoder, config)
        hidden, width = config.head_dim, config.projection_dim
        self.projector = mlp(encoder.out_dim, hidden, hidden, width, norm=True)
        self._seed = torch.initial_seed()
        self.register_buffer("directions", self._drawn(0))

    def _drawn(self, step: int) -> Tensor:
        shape = (self.config.directions, self.config.projection_dim)
        return drawn_directions(*shape, self._seed + step)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = encode_crops(self.encoder, batch["images"], batch["small"])
        places = (2 + batch["small"].shape[1], -1)
        projected = full_precision(self.projector(features)).unflatten(0, places)
        centres = projected[:2].mean(dim=0)
        invariance = (projected - centres).square().mean()
        statistics = torch.stack([sigreg(crops, self.directions) for crops in projected])
        gaussianity = statistics.mean()
        weight = self.config.weight
        first, second = projected[:2].detach()
        return {
            "loss": (1 - weight) * invariance + weight * gaussianity,
            "invariance": invariance.detach(),
            "sigreg": gaussianity.detach(),
            **self.monitors(first, second, batch),
        }

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        self.directions.copy_(self._drawn(progress.step))
