"""What the methods share that hold the clips of one video together (clip_simclr, -moco, -byol).

Temporally persistent embeddings (Feichtenhofer et al., CVPR 2021, section 3): of each video rho
clips are drawn, and each is the positive of the others:

    L = mean over ordered pairs (i, j), i != j, of the rho clips of  l(z_i, z_j)

The three methods differ in l alone. With clips of one frame and an encoder of images, the same for
frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, model_validator
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.clip_inputs import require_clips
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import FrameIds, NearDuplicates
from marey.models.objectives.monitors import joint_embedding_metrics, over_pixels


class ClipPairsConfig(MethodConfig):
    """rho clips of a video are each other's positives."""

    sampling: ClipsSampling = ClipsSampling(num_frames=8, spacing_s=0.27, clips=2)
    """The rho clips of a video: drawn uniformly from its whole length (section 3); nearer ones by
    `interval_power` (CVRL)."""
    head_dim: int = Field(default=2048, ge=1, le=65_536)
    """Width of the hidden layers of projector and predictor."""
    projection_dim: int = Field(default=128, ge=2, le=65_536)
    """Width of the space in which clips are compared."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.2, 0.77), flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4,
        hue=0.1, grayscale=0.2, blur=0.5, colors="shared",
    )  # fmt: skip
    """How each clip is augmented: one draw for all of its frames, or motion would no longer be that
    of things (CVRL, section 3.2)."""

    @model_validator(mode="after")
    def _several(self) -> ClipPairsConfig:
        if self.sampling.clips < 2:
            raise ValueError(f"sampling.clips must be 2 or more, not {self.sampling.clips}")
        return self


class ClipInstancesConfig(ClipPairsConfig):
    """Of the two that also hold the clips of different videos apart."""

    temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of the softmax."""
    alike: NearDuplicates = NearDuplicates(within_s=3600.0, bits=None)
    """Clips, by their first frames, that are no negatives of each other; by default those of one
    video. Clips of two videos may begin with one picture and differ in what happens."""
    min_negatives: int = Field(default=1, ge=1)
    """Clips left with fewer negatives than this are skipped."""


class ClipPairs(Method):
    """Base of the three methods: their batch, its rows and its monitors.

    Batch: `frames` uint8 [B, rho T, H, W, 3], clip after clip; `time_s` float32 [B, rho T];
    `instance` int64 [B]. Rows count clips first: all first clips, then all second ones, and so on.
    """

    sees_clips = True

    def __init__(self, encoder: Encoder, config: ClipPairsConfig) -> None:
        super().__init__(encoder, config)
        require_clips(encoder, config.sampling, self.name)
        self.rho = config.sampling.clips
        self.recipe = config.augment

    @property
    def chance(self) -> Mapping[str, float]:
        """What colours in 4x4 cells tell of which clips belong together, without any learning, and
        clips that say nothing of their video."""
        return {"auc_over_pixels": 0.0, "pair_auc": 0.5}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `clips`, float32 [B, rho, 3, T, S, S], each with a crop of its
        own."""
        return replace_frames(batch, clips=self.clips(self._clips(batch), self.recipe))

    def _clips(self, batch: Batch) -> Tensor:
        """The frames, uint8 [B, rho, T, H, W, 3]."""
        return batch["frames"].unflatten(1, (self.rho, -1))

    def first_hashes(self, batch: Batch) -> Tensor:
        """Difference hashes of the clips' first frames, before `augment`: int64 [B, rho]."""
        return dhash(self._clips(batch)[:, :, 0])

    def rows(self, batch: Batch) -> Tensor:
        """What the encoder gets: float32 [rho B, 3, T, S, S], of one frame [rho B, 3, S, S]."""
        clips = batch["clips"].transpose(0, 1).flatten(0, 1)
        return clips[:, :, 0] if self.encoder.config.clip_frames == 1 else clips

    def clip_ids(self, batch: Batch) -> FrameIds:
        """Where each row comes from, [rho B]: that of its first frame. Needs `dhash`."""
        time_s = batch["time_s"].unflatten(1, (self.rho, -1))[:, :, 0]
        instance = batch["instance"].repeat(time_s.shape[1])
        return FrameIds(instance, time_s.T.flatten(), batch["dhash"].T.flatten())

    def others(self, rows: Tensor) -> list[Tensor]:
        """The rows rolled by 1 to rho - 1 clips: every clip meets each other one of its sample."""
        return [
            rows.roll(number * (len(rows) // self.rho), dims=0) for number in range(1, self.rho)
        ]

    def monitors(self, projected: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`spread` and `pair_auc` of the first two clips, and how far that is above the `pair_auc`
        of their colours. projected: [rho B, D]."""
        first, second = projected.detach().unflatten(0, (self.rho, -1))[:2]
        metrics = joint_embedding_metrics(first, second, batch["instance"])
        here, there = batch["clips"][:, :2].unbind(1)
        return metrics | over_pixels(metrics["pair_auc"], here, there, batch["instance"])
