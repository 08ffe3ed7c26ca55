"""Playback speed (SpeedNet): does a clip play at its speed, or twice as fast?

    s = w . mean over t of max over space of f(x)
    L = ( softplus(s_normal) + softplus(-s_double) ) / 2

f is the encoder's map of a clip. See docs/methods/playback_speed.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_changes import without_border_noise
from marey.models.augmentation.frame_differences import frame_differences
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.clip_inputs import require_spacing
from marey.models.encoders.dense_heads import require_map
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import mean_over_ranks


class PlaybackSpeedConfig(MethodConfig):
    """SpeedNet."""

    sampling: ClipsSampling = ClipsSampling(
        num_frames=31, spacing_s=0.04, per_video=2, motion_weighted=True
    )
    """One clip of 2 T - 1 frames, T those of the encoder: all of its time twice as fast, or T
    frames of it as they are (16 of 25 frames/s, section 3.1)."""
    least_difference: float = Field(default=0.5, ge=0, le=255)
    """Clips in which no frame differs by this on average, of 255, from the second after it are left
    out: nothing moves."""
    repeated: float = Field(default=0.1, ge=0, lt=1)
    """Clips with two frames in a row that differ by less than this share of what such frames differ
    on average are left out: a repeated frame (film shown at 30 frames/s) is seen at normal speed
    only."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.3, 1.0), flip=0.5, jitter=0.8, brightness=0.2, contrast=0.2, blur=0.3,
        colors="shared",
    )  # fmt: skip
    """How each of the two versions is augmented, alone: they differ in size (the paper's random
    resizing, section 3.2), so that how far things move in pixels does not tell the speed."""

    @model_validator(mode="after")
    def _twice(self) -> PlaybackSpeedConfig:
        frames = self.sampling.num_frames
        if self.sampling.clips != 1 or frames < 3 or frames % 2 == 0:
            raise ValueError(
                "sampling must be one clip of an odd number of frames from 3, not "
                f"{self.sampling.clips} of {frames}"
            )
        return self


@register
class PlaybackSpeed(Method):
    """Normal or double speed, both versions of every video in the batch, of equally many frames.

    Batch: `frames` uint8 [B, 2T - 1, H, W, 3] in temporal order. What is classified is the last
    map, its maximum over space and then its mean over time (section 3.1): the order that lets a
    thing that moves in one place speak for the clip.
    """

    name = "playback_speed"
    paper = (
        "Benaim, Ephrat, Lang, Mosseri, Freeman, Rubinstein, Irani, Dekel, SpeedNet: Learning the "
        "Speediness in Videos, CVPR 2020, arXiv 2004.06130"
    )
    Config = PlaybackSpeedConfig
    config: PlaybackSpeedConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: PlaybackSpeedConfig) -> None:
        super().__init__(encoder, config)
        require_map(encoder, self.name)
        _require_twice(encoder.config, config.sampling)
        self.length = encoder.config.clip_frames
        self.classifier = nn.Linear(encoder.feature_dim, 1)

    @property
    def chance(self) -> Mapping[str, float]:
        """One in two: for a clip alone, and for which of two is the faster."""
        return {"accuracy": 0.5, "ordered": 0.5}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `clips`, float32 [B, 2, 3, T, S, S], at normal and at double
        speed; `usable`, bool [B]: something moves, and no frame is a repetition."""
        frames, length = batch["frames"], self.length
        start = torch.randint(length, (len(frames), 1))
        slow = (start + torch.arange(length)).to(frames.device, non_blocking=True)
        sample = torch.arange(len(frames), device=frames.device)[:, None]
        clean = without_border_noise(frames)
        both = torch.stack([clean[sample, slow], clean[:, ::2]], dim=1)
        apart = frame_differences(frames)
        moved = apart.diagonal(offset=2, dim1=1, dim2=2).amax(dim=1)
        step = apart.diagonal(offset=1, dim1=1, dim2=2)
        even = step.amin(dim=1) >= self.config.repeated * step.mean(dim=1)
        return replace_frames(
            batch,
            clips=self.clips(both, self.config.augment),
            usable=even & (moved >= self.config.least_difference),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clips, usable = batch["clips"], batch["usable"]
        features = self.encoder.features(clips.flatten(0, 1))
        pooled = features.amax(dim=(3, 4)).mean(dim=2)
        score = self.classifier(pooled).view(-1, 2)  # normal, double
        right = ((score[:, 0] < 0).float() + (score[:, 1] > 0).float()) / 2
        return {
            "loss": mean_over_ranks(speed_terms(score), usable),
            "accuracy": mean_over_ranks(right.detach(), usable),
            "ordered": mean_over_ranks((score[:, 1] > score[:, 0]).float(), usable),
            "valid": usable.float().mean(),
        }


def speed_terms(score: Tensor) -> Tensor:
    """Binary cross entropy of both versions of each video, their mean: [B].

    score: [B, 2], log odds that the version at normal and the one at double speed are fast.
    """
    score = full_precision(score)
    return (functional.softplus(score[:, 0]) + functional.softplus(-score[:, 1])) / 2


def _require_twice(encoder: EncoderConfig, sampling: ClipsSampling) -> None:
    """Raises SettingError unless clips are of twice the encoder's time, at its spacing."""
    if 2 * encoder.clip_frames - 1 != sampling.num_frames:
        raise SettingError(
            f"playback_speed needs method.sampling.num_frames = 2 x encoder.clip_frames - 1, got "
            f"{sampling.num_frames} and {encoder.clip_frames}"
        )
    require_spacing(encoder, sampling.spacing_s)
