"""SwAV: predict the prototypes assigned to one crop from the other crops of the image.

    Q = sinkhorn(Z C / epsilon)
    L = mean over (large crop v, other crop w) of  -sum Q_v log softmax(z_w C / tau)

C are unit prototypes, Q codes without gradient that use all prototypes equally. See
docs/methods/swav.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.models.augmentation.augment import SIMCLR
from marey.models.augmentation.multi_crop import MultiCrop, encode_crops
from marey.models.batch import Batch
from marey.models.contrastive.joint_embedding import MultiCropConfig, MultiCropMethod
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Progress, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import gather_rows, own_rows
from marey.models.objectives.prototypes import Prototypes, cross_prediction, sinkhorn, usage

_LARGE = SIMCLR.model_copy(update={"crop_scale": (0.14, 1.0)})


class SwAVConfig(MultiCropConfig):
    """Swapping assignments between views."""

    head_dim: int = Field(default=2048, ge=1, le=65_536)
    """Width of the projector's hidden layer (section 4)."""
    projection_dim: int = Field(default=128, ge=2, le=65_536)
    """Width of the space of prototypes (section 4)."""
    prototypes: int = Field(default=3000, ge=2, le=1_000_000)
    """Number of prototypes (section 4)."""
    temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of the prediction (section 4)."""
    epsilon: float = Field(default=0.05, gt=0, le=10)
    """Smoothness of the codes: small is sharp (appendix A)."""
    iterations: int = Field(default=3, ge=1, le=100)
    """Sinkhorn-Knopp iterations (appendix A)."""
    frozen_epochs: int = Field(default=1, ge=0)
    """Epochs at the start in which prototypes stay as drawn (appendix A)."""
    queue: int = Field(default=0, ge=0, le=1_000_000)
    """Earlier embeddings of each large crop that codes are shared out with, for batches smaller
    than `prototypes` (3840 at batch 256, section 4.2); 0: none."""
    queue_from: int = Field(default=15, ge=0)
    """First epoch in which the queue takes part (section 4.2)."""
    crops: MultiCrop = MultiCrop(
        first=_LARGE, small=_LARGE.model_copy(update={"crop_scale": (0.05, 0.14)})
    )
    """How the large and small crops are augmented (appendix A)."""


@register
class SwAV(MultiCropMethod):
    """Online clustering of crops, its codes swapped between them; no negatives.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `instance` int64 [B].
    What is exported is the representation before the projector. Codes come from the two large
    crops of the whole batch of all processes; every other crop predicts them.
    """

    name = "swav"
    paper = (
        "Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster "
        "Assignments, NeurIPS 2020, arXiv 2006.09882"
    )
    Config = SwAVConfig
    config: SwAVConfig
    queue: Tensor
    queued: Tensor

    def __init__(self, encoder: Encoder, config: SwAVConfig) -> None:
        super().__init__(encoder, config)
        width = config.projection_dim
        self.projector = mlp(encoder.out_dim, config.head_dim, width, norm=True)
        self.prototypes = Prototypes(width, config.prototypes)
        self.prototypes.frozen = config.frozen_epochs > 0
        # Latest embeddings first; a row that was never filled takes no part.
        self.register_buffer("queue", torch.zeros(2, config.queue, width))
        self.register_buffer("queued", torch.zeros(config.queue, dtype=torch.bool))
        self.queue_used = config.queue > 0 and config.queue_from == 0
        self._arrived: list[Tensor] = []

    @property
    def chance(self) -> Mapping[str, float]:
        """Embeddings that say nothing of the image: every prototype is as likely."""
        return {**super().chance, "loss": math.log(self.config.prototypes)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = encode_crops(self.encoder, batch["images"], batch["small"])
        units = functional.normalize(full_precision(self.projector(features)), dim=1)
        places = (2 + batch["small"].shape[1], -1)
        scores = self.prototypes(units).unflatten(0, places)
        large = units.detach().unflatten(0, places)[:2]
        codes = self._codes(large, scores[:2].detach())
        loss = cross_prediction(codes, (scores / self.config.temperature).log_softmax(dim=2))
        return {
            "loss": loss,
            "usage": usage(scores[0].detach()),
            **self.monitors(large[0], large[1], batch),
        }

    @torch.no_grad()
    def _codes(self, units: Tensor, scores: Tensor) -> Tensor:
        """Codes of this process's large crops, [2, N, K]; units: [2, N, D], scores: [2, N, K]."""
        config = self.config
        if config.queue and self.training:
            self._arrived.append(torch.stack([gather_rows(rows) for rows in units]))
        codes = []
        for place, mine in enumerate(scores):
            every, valid = gather_rows(mine), None
            if self.queue_used:
                valid = torch.cat([self.queued.new_ones(len(every)), self.queued])
                every = torch.cat([every, self.prototypes(self.queue[place].to(every.dtype))])
            shared = sinkhorn(every, config.epsilon, config.iterations, valid)
            codes.append(shared[own_rows(mine)])
        return torch.stack(codes)

    def before_epoch(self, progress: Progress) -> None:
        config = self.config
        self.prototypes.frozen = progress.epoch < config.frozen_epochs
        self.queue_used = config.queue > 0 and progress.epoch >= config.queue_from

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        self.prototypes.to_unit_length()
        for units in self._arrived:
            latest = torch.cat([units.to(self.queue.dtype), self.queue], dim=1)
            self.queue.copy_(latest[:, : self.config.queue])
            known = torch.cat([self.queued.new_ones(units.shape[1]), self.queued])
            self.queued.copy_(known[: self.config.queue])
        self._arrived.clear()
