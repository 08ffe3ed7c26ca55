"""SLA: one joint label of the class and the transformation of an image.

    L_SLA = - 1/M  sum_j log rho(y, j | t_j(x))
    L = L_SLA + KL( stop(P_agg) || student(f(x)) ) + CE( student(f(x)), y )

t_j are M transformations, P_agg aggregates the joint predictions over them. See
docs/methods/sla.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig, augment_frames
from marey.models.augmentation.transformations import COLOR_ORDERS, color_orders, quarter_turns
from marey.models.batch import Batch, replace_frames
from marey.models.method import Corpus, Method, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import mean_over_ranks


class SLAConfig(MethodConfig):
    """Self-supervised label augmentation. Needs labels."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are classified."""
    turns: Literal[1, 2, 4] = 4
    """Rotations: none, by half a turn, by each quarter."""
    colors: Literal[1, 3, 6] = 1
    """Orders of the colour channels: none but their own, the cyclic ones, all."""
    distillation: float = Field(default=1.0, ge=0, le=100)
    """Weight of the student that learns the aggregated prediction from the upright image alone; 0
    trains no student."""
    student_labels: float = Field(default=1.0, ge=0, le=100)
    """Weight of the labels beside the teacher in the student's loss (beta, equation 8)."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Temperature of the distillation."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.08, 1.0), flip=0.5)
    """How the crop is drawn before it is transformed; all copies show the same crop."""

    @model_validator(mode="after")
    def _several(self) -> SLAConfig:
        if self.transformations == 1 and self.distillation:
            raise ValueError("with turns=1 and colors=1 there is nothing to distil: distillation=0")
        return self

    @property
    def transformations(self) -> int:
        """Number M of transformations, the first of which changes nothing."""
        return self.turns * self.colors


@register
class SLA(Method):
    """Self-supervised label augmentation with aggregation and self-distillation.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `class_id` int64 [B],
    of which -1 is left out.
    """

    name = "sla"
    paper = (
        "Lee, Hwang, Shin, Self-supervised Label Augmentation via Input Transformations, "
        "ICML 2020, arXiv 1910.05872"
    )
    Config = SLAConfig
    config: SLAConfig
    classes = 0

    def prepare(self, corpus: Corpus) -> None:
        """Make the heads for the corpus's classes. Raises SettingError where it has none."""
        if corpus.classes < 1:
            raise SettingError(
                "sla learns from labels, and the data have none: give a table of images a column "
                "`label`, or an index of videos labels with `marey index --views '(?P<label>...)'`"
            )
        self.classes = corpus.classes
        width = self.encoder.out_dim
        self.joint = nn.Linear(width, self.classes * self.config.transformations)
        if self.config.distillation:
            self.student = nn.Linear(width, self.classes)

    @property
    def chance(self) -> Mapping[str, float]:
        """One in N classes, and one in N M joint ones, for classes of equal size; nothing is known
        before `prepare`."""
        if not self.classes:
            return {}
        share = 1 / self.classes
        return {"accuracy": share, "joint_accuracy": share / self.config.transformations}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, M, 3, S, S], all transformations of each crop, in place of
        `frames`."""
        frames = batch["frames"]
        size = self.encoder.config.image_size
        crops = augment_frames(frames.flatten(0, 1), size, self.config.augment)
        return replace_frames(batch, images=self.transformed(crops).unflatten(0, frames.shape[:2]))

    def transformed(self, images: Tensor) -> Tensor:
        """All M transformations: RGB in [0, 1] [N, 3, S, S] -> normalised [N, M, 3, S, S].

        Transformation j exchanges colours j % `colors` and turns j // `colors`; 0 changes nothing.
        """
        step = 4 // self.config.turns
        copies = quarter_turns(images, range(0, 4, step))
        copies = color_orders(copies, COLOR_ORDERS[self.config.colors]).flatten(1, 2)
        return self.encoder.normalize(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        images = batch["images"].flatten(0, 1)
        label = batch["class_id"].repeat_interleave(batch["images"].shape[1])
        known = label >= 0
        label = label.clamp_min(0)
        embeddings = self.encoder(images.flatten(0, 1))
        joint = self.joint(embeddings).float().unflatten(0, images.shape[:2])
        teacher = aggregate(joint)

        def share(hits: Tensor) -> Tensor:
            return mean_over_ranks(hits.float(), known)

        count = config.transformations
        wanted = joint_labels(label, count)
        loss = mean_over_ranks(joint_terms(joint, label), known)
        metrics = {
            "accuracy": share(teacher.argmax(dim=1) == label),
            "single_accuracy": share(joint[:, 0, ::count].argmax(dim=1) == label),
            "joint_accuracy": share((joint.argmax(dim=2) == wanted).float().mean(dim=1)),
            "valid": known.float().mean(),
        }
        if config.distillation:
            student = self.student(embeddings.unflatten(0, images.shape[:2])[:, 0]).float()
            terms = distillation_terms(student, teacher, config.temperature)
            terms = terms + config.student_labels * functional.cross_entropy(
                student, label, reduction="none"
            )
            loss = loss + config.distillation * mean_over_ranks(terms, known)
            metrics["student_accuracy"] = share(student.argmax(dim=1) == label)
        return {"loss": loss, **{name: value.detach() for name, value in metrics.items()}}

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """Aggregated class logits of images as evaluation sees them (SLA+AG): float32 [N, classes].

        frames: uint8 [N, H, W, 3]. Costs M passes; the student (`self.student` on the encoder's
        output) costs one.
        """
        encoder = self.encoder
        crops = encoder.preprocess(frames) * encoder.std + encoder.mean
        copies = self.transformed(crops)
        joint = self.joint(encoder(copies.flatten(0, 1))).float()
        return aggregate(joint.unflatten(0, copies.shape[:2]))


def joint_labels(label: Tensor, transformations: int) -> Tensor:
    """Joint class of every copy, `label * M + j`: int64 [N, M]. label: int64 [N]."""
    return label[:, None] * transformations + torch.arange(transformations, device=label.device)


def joint_terms(joint: Tensor, label: Tensor) -> Tensor:
    """The objective of each image, float [N]: mean cross entropy of its M copies (equation 4).

    joint: [N, M, classes * M], the joint logits of each copy; label: int64 [N].
    """
    logits = full_precision(joint).flatten(0, 1)
    wanted = joint_labels(label, joint.shape[1]).flatten()
    terms = functional.cross_entropy(logits, wanted, reduction="none")
    return terms.unflatten(0, joint.shape[:2]).mean(dim=1)


def aggregate(joint: Tensor) -> Tensor:
    """Class logits averaged over the transformations, [N, classes] (equation 5).

    joint: [N, M, classes * M]. Of each copy only the logits of its own transformation count; it is
    logits that are averaged, not probabilities.
    """
    count = joint.shape[1]
    by_class = full_precision(joint).unflatten(2, (-1, count))
    return by_class.diagonal(dim1=1, dim2=3).mean(dim=2)


def distillation_terms(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Divergence of the student from the teacher, float [N], times the squared temperature.

    student, teacher: logits [N, classes]. The teacher gets no gradient.
    """
    target = (full_precision(teacher).detach() / temperature).log_softmax(dim=1)
    answer = (full_precision(student) / temperature).log_softmax(dim=1)
    terms = functional.kl_div(answer, target, reduction="none", log_target=True)
    return terms.sum(dim=1) * temperature**2
