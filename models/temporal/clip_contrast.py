"""Contrast of clips: clips of one video attract each other, however far apart they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.clip_inputs import require_clips
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.encoders.momentum import MomentumCopy, momentum_at
from marey.models.encoders.norms import in_groups
from marey.models.method import Method, Progress, register
from marey.models.objectives.contrast import queue_terms, summary
from marey.models.objectives.distributed import (
    gather_rows,
    mean_over_ranks,
    own_rows,
    shuffle_rows,
    unshuffle_rows,
)
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.instances import AlikeConfig, Moments, unlike
from marey.models.objectives.losses import info_nce_terms, paired_cosine
from marey.models.objectives.memory import Queue
from marey.models.objectives.monitors import joint_embedding_metrics


class ClipContrastConfig(MethodConfig):
    """Temporally persistent contrast: rho clips of a video are each other's positives."""

    sampling: ClipsSampling = ClipsSampling(num_frames=8, spacing_s=0.27, clips=2)
    """The rho clips of a video: drawn uniformly from its whole length (section 3); nearer ones by
    `interval_power` (CVRL)."""
    objective: Literal["simclr", "moco", "byol"] = "moco"
    """What holds two clips together: InfoNCE within the batch, InfoNCE against a queue of keys of a
    slow copy, or the prediction of that copy's embedding without negatives."""
    head_dim: int = Field(default=2048, ge=1, le=65_536)
    """Width of the hidden layers of projector and predictor."""
    projection_dim: int = Field(default=128, ge=2, le=65_536)
    """Width of the space in which clips are compared (256 for byol)."""
    temperature: float = Field(default=0.1, gt=0, le=10)
    """simclr, moco: temperature of the softmax."""
    momentum: float = Field(default=0.994, ge=0, le=1)
    """moco, byol: share of its weights that the copy keeps in a step; with byol it rises to 1 along
    half a cosine (the paper starts that at 0.996)."""
    queue: int = Field(default=65_536, ge=1, le=10_000_000)
    """moco: keys that are held."""
    norm_groups: int = Field(default=1, ge=1, le=64)
    """moco: parts of a process's batch with batch statistics of their own, keys dealt to them at
    random, or the statistics tell a query its key (MoCo, section 3.3); as on so many GPUs."""
    alike: AlikeConfig = AlikeConfig(within_s=3600.0, bits=None)
    """simclr, moco: clips, by their first frames, that never repel each other; by default those of
    one video. Clips of two videos may begin with one picture and differ in what happens."""
    min_negatives: int = Field(default=1, ge=1)
    """simclr, moco: clips left with fewer negatives than this are skipped."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.2, 0.77), flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4,
        hue=0.1, grayscale=0.2, blur=0.5, colors="shared",
    )  # fmt: skip
    """How each clip is varied: one draw for all of its frames, or motion would no longer be that of
    things (CVRL, section 3.2)."""

    @model_validator(mode="after")
    def _several(self) -> ClipContrastConfig:
        if self.sampling.clips < 2:
            raise ValueError(f"sampling.clips must be 2 or more, not {self.sampling.clips}")
        return self


@register
class ClipContrast(Method):
    """rho-SimCLR, rho-MoCo and rho-BYOL; the mean over all ordered pairs of clips of a sample. With
    clips of one frame and an encoder of images, the same for frames.

    Batch: `frames` uint8 [B, rho T, H, W, 3], clip after clip; `time_s` float32 [B, rho T];
    `instance` int64 [B]. What is exported is the trained encoder, the representation before the
    projector. Rows count clips first: all first clips, then all second ones, and so on.
    """

    name = "clip_contrast"
    paper = (
        "Feichtenhofer, Fan, Xiong, Girshick, He, A Large-Scale Study on Unsupervised "
        "Spatiotemporal Representation Learning, CVPR 2021, arXiv 2104.14558 (and CVRL: Qian et "
        "al., CVPR 2021, arXiv 2008.03800)"
    )
    Config = ClipContrastConfig
    config: ClipContrastConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: ClipContrastConfig) -> None:
        super().__init__(encoder, config)
        require_clips(encoder, config.sampling, self.name)
        hidden, width = config.head_dim, config.projection_dim
        # MoCo's keys are normalised in other company than queries only without batch norm here
        self.projector = mlp(encoder.out_dim, hidden, width, norm=config.objective != "moco")
        if config.objective == "byol":
            self.predictor = mlp(width, hidden, width, norm=True)
        if config.objective != "simclr":
            self.target = MomentumCopy(encoder, self.projector)
        if config.objective == "moco":
            self.queue = Queue(config.queue, width)

    @property
    def chance(self) -> Mapping[str, float]:
        """Clips that say nothing of their video."""
        return {"pair_auc": 0.5}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `clips`, float32 [B, rho, 3, T, S, S], each with a crop of its
        own; `draws`, float32 [B, rho], by which keys are shuffled; `dhash`, int64 [B, rho], of
        first frames."""
        frames = batch["frames"].unflatten(1, (self.config.sampling.clips, -1))
        draws = torch.rand(frames.shape[:2]).to(frames.device, non_blocking=True)
        return replace_frames(
            batch,
            clips=self.clips(frames, self.config.augment),
            draws=draws,
            dhash=dhash(frames[:, :, 0]),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clips = batch["clips"].transpose(0, 1).flatten(0, 1)
        if self.encoder.config.clip_frames == 1:
            clips = clips[:, :, 0]
        projected = self._in_groups(nn.Sequential(self.encoder, self.projector), clips)
        objective = {"simclr": self._simclr, "moco": self._moco, "byol": self._byol}
        metrics = objective[self.config.objective](batch, clips, projected)
        first, second = projected.detach().unflatten(0, (self.config.sampling.clips, -1))[:2]
        return {**metrics, **joint_embedding_metrics(first, second, batch["instance"])}

    def _where(self, batch: Batch) -> Moments:
        """What each row shows: [rho B]; its time is that of its first frame."""
        time_s = batch["time_s"].unflatten(1, (self.config.sampling.clips, -1))[:, :, 0]
        instance = batch["instance"].repeat(time_s.shape[1])
        return Moments(instance, time_s.T.flatten(), batch["dhash"].T.flatten())

    def _simclr(self, batch: Batch, clips: Tensor, projected: Tensor) -> dict[str, Tensor]:
        config, where = self.config, self._where(batch)
        rows = functional.normalize(projected.float())
        sample = own_rows(batch["instance"]).repeat(config.sampling.clips)
        positive, negative = clip_masks(sample, where, config.alike)
        terms, counted, _ = info_nce_terms(
            rows, gather_rows(rows), positive, negative, config.temperature
        )
        counted = counted & (negative.sum(dim=1) >= config.min_negatives)
        return {"loss": mean_over_ranks(terms, counted), "valid": counted.float().mean()}

    def _moco(self, batch: Batch, clips: Tensor, projected: Tensor) -> dict[str, Tensor]:
        config, where = self.config, self._where(batch)
        queries = functional.normalize(projected.float())
        with torch.no_grad():
            mixed, order = shuffle_rows(clips, batch["draws"].T.flatten())
            keys = functional.normalize(
                unshuffle_rows(self._in_groups(self.target, mixed).float(), order)
            )
        repels = self.queue.repels(where, config.alike)
        terms = [
            queue_terms(
                queries, other, self.queue.rows, repels, config.temperature, config.min_negatives
            )
            for other in _others(keys, config.sampling.clips)
        ]
        self.queue.hold(keys, where)
        metrics = summary(*terms)
        return {**metrics, "loss": metrics["loss"] / len(terms)}

    def _byol(self, batch: Batch, clips: Tensor, projected: Tensor) -> dict[str, Tensor]:
        predicted, wanted = self.predictor(projected), self.target(clips)
        terms = [
            2 - 2 * paired_cosine(predicted, other)
            for other in _others(wanted, self.config.sampling.clips)
        ]
        return {"loss": torch.cat(terms).mean()}

    def _in_groups(self, network: nn.Module, clips: Tensor) -> Tensor:
        groups = self.config.norm_groups if self.config.objective == "moco" else 1
        return in_groups(network, clips, groups)

    def after_step(self, progress: Progress) -> None:
        """The copy follows; keys of the step join the queue."""
        config = self.config
        if config.objective == "simclr":
            return
        keep = config.momentum
        if config.objective == "byol":
            keep = momentum_at(progress.fraction, keep)
        self.target.update(self.encoder, self.projector, keep=keep)
        if config.objective == "moco":
            self.queue.write()


def clip_masks(sample: Tensor, where: Moments, alike: AlikeConfig) -> tuple[Tensor, Tensor]:
    """(positive, negative), bool [R, W R]: which rows of all ranks attract and repel this rank's.

    sample: int64 [R], each row's sample in the whole batch; where: what it shows. Other clips of
    the sample attract; clips of something not `alike` repel.
    """
    columns = gather_rows(sample)
    same = sample[:, None] == columns
    itself = own_rows(sample)[:, None] == torch.arange(len(columns), device=sample.device)
    return same & ~itself, ~same & unlike(where, where.gathered(), alike)


def _others(rows: Tensor, clips: int) -> list[Tensor]:
    """The rows rolled by 1 to rho - 1 clips: every clip meets each other one of its sample."""
    return [rows.roll(offset * (len(rows) // clips), dims=0) for offset in range(1, clips)]
