"""DINO: a student predicts the output distribution of its EMA teacher for other crops.

    P_t(x) = softmax( (g_t(x) - c) / tau_t ),   P_s(x) = softmax( g_s(x) / tau_s )
    L = mean over pairs (large crop x, other crop x') of  -sum P_t(x) log P_s(x')
    t <- m t + (1 - m) s

c is a running mean of the teacher's outputs (centring); the teacher is behind a stop-gradient. See
docs/methods/dino.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.multi_crop import (
    BYOL_CROPS,
    MultiCrop,
    as_rows,
    encode_crops,
)
from marey.models.batch import Batch
from marey.models.contrastive.joint_embedding import MultiCropConfig, MultiCropMethod
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.encoders.momentum import MomentumCopy, momentum_at
from marey.models.method import Progress, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import gather_rows
from marey.models.objectives.prototypes import Prototypes, cross_prediction, usage

_FIRST = BYOL_CROPS.first.model_copy(update={"crop_scale": (0.4, 1.0)})


def _varied(**changes: object) -> AugmentConfig:
    return _FIRST.model_copy(update=changes)


class DINOConfig(MultiCropConfig):
    """Self-distillation without labels."""

    head_dim: int = Field(default=2048, ge=1, le=65_536)
    """Width of the head's two hidden layers (appendix C)."""
    head_norm: bool = False
    """Batch norm in the head: for convolutional trunks; the paper's transformers have none."""
    bottleneck_dim: int = Field(default=256, ge=2, le=65_536)
    """Width of the unit vectors before the last layer (appendix C)."""
    outputs: int = Field(default=65_536, ge=2, le=1_000_000)
    """Dimensions of the distributions that are compared (section 3.2)."""
    student_temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of the student (section 3.2)."""
    teacher_temperature: float = Field(default=0.07, gt=0, le=10)
    """Temperature of the teacher after its warm-up (section 3.2)."""
    warm_temperature: float = Field(default=0.04, gt=0, le=10)
    """Temperature of the teacher in the first epoch (section 3.2)."""
    warm_epochs: int = Field(default=30, ge=0)
    """Epochs over which the teacher's temperature changes linearly (section 3.2)."""
    center_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the old centre that a step keeps (equation 4)."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Share of the teacher's weights that the first step keeps; it rises to 1 along half a cosine
    (section 3.1)."""
    frozen_epochs: int = Field(default=1, ge=0)
    """Epochs at the start in which the last layer stays as drawn (appendix C)."""
    crops: MultiCrop = MultiCrop(
        first=_FIRST,
        second=_varied(blur=0.1, solarize=0.2),
        small=_varied(blur=0.5, crop_scale=(0.05, 0.4)),
        small_crops=8,
    )
    """How large and small crops are augmented (section 3.1; released code: eight small ones)."""


class _Head(nn.Module):
    """From representations to unit vectors and on to the scores of K outputs."""

    def __init__(self, dim: int, config: DINOConfig) -> None:
        super().__init__()
        hidden = config.head_dim
        self.layers = mlp(dim, hidden, hidden, config.bottleneck_dim, norm=config.head_norm)
        self.last = Prototypes(config.bottleneck_dim, config.outputs)

    def units(self, representations: Tensor) -> Tensor:
        """[N, D] -> unit vectors, at least float32 [N, bottleneck]."""
        return functional.normalize(full_precision(self.layers(representations)), dim=1)

    def forward(self, representations: Tensor) -> Tensor:
        return self.last(self.units(representations))


@register
class DINO(MultiCropMethod):
    """Student and momentum teacher; centring and sharpening keep the teacher from collapse.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `instance` int64 [B].
    What is exported is the teacher's encoder, the representation before the head. The centre is
    that of the teacher's outputs for the whole batch of all processes.
    """

    name = "dino"
    paper = (
        "Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021, "
        "arXiv 2104.14294"
    )
    Config = DINOConfig
    config: DINOConfig
    center: Tensor

    def __init__(self, encoder: Encoder, config: DINOConfig) -> None:
        super().__init__(encoder, config)
        self.head = _Head(encoder.out_dim, config)
        self.head.last.frozen = config.frozen_epochs > 0
        self.teacher = MomentumCopy(encoder, self.head)
        self.register_buffer("center", torch.zeros(config.outputs))
        self.temperature = self._temperature_in(0)
        self._seen: list[Tensor] = []

    @property
    def chance(self) -> Mapping[str, float]:
        """A student that finds every output as likely, whatever the image."""
        return {**super().chance, "loss": math.log(self.config.outputs)}

    @property
    def exported(self) -> Encoder:
        """The teacher's encoder, which is the better one throughout training (section 5.2)."""
        return cast(Encoder, self.teacher[0])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, small = batch["images"], batch["small"]
        units = self.head.units(encode_crops(self.encoder, images, small))
        student = (self.head.last(units) / self.config.student_temperature).log_softmax(dim=1)
        raw = self.teacher(as_rows(images))
        if self.training:
            self._seen.append(gather_rows(raw.mean(dim=0, keepdim=True)).mean(dim=0))
        sharpened = (raw - self.center) / self.temperature
        teacher = sharpened.softmax(dim=1)
        loss = cross_prediction(
            teacher.unflatten(0, (2, -1)), student.unflatten(0, (2 + small.shape[1], -1))
        )
        entropy = torch.special.entr(teacher).sum(dim=1).mean() / math.log(self.config.outputs)
        first, second = units[: len(raw)].detach().chunk(2)
        return {
            "loss": loss,
            "teacher_entropy": entropy,
            "usage": usage(sharpened),
            **self.monitors(first, second, batch),
        }

    def before_epoch(self, progress: Progress) -> None:
        self.head.last.frozen = progress.epoch < self.config.frozen_epochs
        self.temperature = self._temperature_in(progress.epoch)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        self.teacher.update(
            self.encoder, self.head, keep=momentum_at(progress.fraction, self.config.momentum)
        )
        if self._seen:
            mean = torch.stack(self._seen).mean(dim=0).to(self.center.dtype)
            self.center.lerp_(mean, 1 - self.config.center_momentum)
            self._seen.clear()

    def _temperature_in(self, epoch: int) -> float:
        """The teacher's temperature: from the warm one in epoch 0 to the final one."""
        config = self.config
        done = min(1.0, epoch / (config.warm_epochs - 1)) if config.warm_epochs > 1 else 1.0
        return config.warm_temperature + done * (
            config.teacher_temperature - config.warm_temperature
        )
