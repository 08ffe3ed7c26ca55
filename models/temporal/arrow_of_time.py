"""The arrow of time: does a clip run forwards or backwards?

    L = CE( g(v(x)), y ),   x: the clip (y = 0) or its reversal (y = 1)

v is the encoder's vector of a clip, g the classifier. See docs/methods/arrow_of_time.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, model_validator
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_changes import FrameChanges, augmented_frames
from marey.models.augmentation.frame_differences import frame_differences
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.clip_vectors import clip_vectors, clip_width
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.classification import guess
from marey.models.objectives.orders import reorder, shows


class ArrowOfTimeConfig(MethodConfig):
    """Arrow of time, on frames where the paper takes optical flow."""

    sampling: ClipsSampling = ClipsSampling(
        num_frames=8, spacing_s=0.2, per_video=8, motion_weighted=True
    )
    """The clips that are judged."""
    hidden: tuple[int, ...] = (128,)
    """Widths of the classifier on a clip's vector."""
    least_difference: float = Field(default=0.5, ge=0, le=255)
    """Clips in which no frame differs by this on average, of 255, from the frame in its place when
    the clip runs backwards are left out: they are still, or symmetric in time."""
    changes: FrameChanges = FrameChanges()
    """Augmentation of each frame alone."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.6, 0.9), flip=0.5, jitter=0.8, brightness=0.2, contrast=0.2, blur=0.3
    )
    """One crop for the clip, which leaves out part of the border (black there is coded so that it
    tells the direction, section 4.1); colours and blur for each frame."""

    @model_validator(mode="after")
    def _one_clip(self) -> ArrowOfTimeConfig:
        if self.sampling.clips != 1 or self.sampling.num_frames < 2:
            raise ValueError(
                "sampling must be one clip of two frames or more, not "
                f"{self.sampling.clips} of {self.sampling.num_frames}"
            )
        return self


@register
class ArrowOfTime(Method):
    """Forwards or backwards, for an encoder of clips or of single frames.

    Batch: `frames` uint8 [B, T, H, W, 3] in temporal order.
    """

    name = "arrow_of_time"
    paper = "Wei, Lim, Zisserman, Freeman, Learning and Using the Arrow of Time, CVPR 2018"
    Config = ArrowOfTimeConfig
    config: ArrowOfTimeConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: ArrowOfTimeConfig) -> None:
        super().__init__(encoder, config)
        width = clip_width(encoder, config.sampling, self.name)
        self.classifier = mlp(width, *config.hidden, 2, norm=True)

    @property
    def chance(self) -> Mapping[str, float]:
        """One in two."""
        return {"accuracy": 0.5}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `clips`, float32 [B, 3, T, S, S]; `label`, int64 [B], 1 for
        those that run backwards; `usable`, bool [B]: the direction shows."""
        frames = batch["frames"]
        count, length = frames.shape[:2]
        images = augmented_frames(self.encoder, frames, self.config.augment, self.config.changes)
        label = torch.randint(2, (count,))
        forward = torch.arange(length).expand(count, -1)
        backward = forward.flip(1)
        order = torch.where(label[:, None] == 1, backward, forward)
        return replace_frames(
            batch,
            clips=reorder(images, order).transpose(1, 2),
            label=label.to(frames.device, non_blocking=True),
            usable=shows(frame_differences(frames), backward, self.config.least_difference),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        vectors = clip_vectors(self.encoder, batch["clips"])
        return guess(self.classifier(vectors), batch["label"], batch["usable"])
