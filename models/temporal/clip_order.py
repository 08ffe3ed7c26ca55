"""Clip order prediction (VCOP): in which order were the shuffled clips of a video?

    L = CE( h( pair(v_i, v_j) for all i < j ), k ),   k: number of the order

v_i is the encoder's vector of the clip in slot i. See docs/methods/clip_order.md.
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
from marey.models.method import Method, register
from marey.models.objectives.classification import guess
from marey.models.objectives.orders import PairwiseHead, draw_orders, orders, reorder


class ClipOrderConfig(MethodConfig):
    """Video clip order prediction."""

    sampling: ClipsSampling = ClipsSampling(
        num_frames=16, spacing_s=0.04, clips=3, placement="in_order", gap_s=0.32, per_video=2
    )
    """Clips in a row: three of 16 frames, 8 frames apart, at 25 frames/s (section 4.1)."""
    pair_dim: int = Field(default=512, ge=1, le=16_384)
    """Width of the layer on each pair of clips (section 3.3)."""
    least_difference: float = Field(default=0.5, ge=0, le=255)
    """Samples with two clips whose frames all differ by less than this on average, of 255, are left
    out: they have no order."""
    changes: FrameChanges = FrameChanges()
    """Augmentation of each frame alone."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.5, 1.0), flip=0.5, jitter=0.8, brightness=0.2, contrast=0.2, blur=0.3,
        colors="each_clip",
    )  # fmt: skip
    """One crop for all clips; colours and blur for each clip, whose own motion must stay seen."""

    @model_validator(mode="after")
    def _in_order(self) -> ClipOrderConfig:
        sampling = self.sampling
        if sampling.placement != "in_order" or not 2 <= sampling.clips <= 4:
            raise ValueError(
                "sampling must be two to four clips with placement in_order, not "
                f"{sampling.clips} placed {sampling.placement}"
            )
        return self


@register
class ClipOrder(Method):
    """n clips in a row, shuffled: which of the n! orders is it?

    Batch: `frames` uint8 [B, n T, H, W, 3], clip after clip in temporal order.
    """

    name = "clip_order"
    paper = (
        "Xu, Xiao, Zhao, Shao, Xie, Zhuang, Self-Supervised Spatiotemporal Learning via Video Clip "
        "Order Prediction, CVPR 2019"
    )
    Config = ClipOrderConfig
    config: ClipOrderConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: ClipOrderConfig) -> None:
        super().__init__(encoder, config)
        clips = config.sampling.clips
        width = clip_width(encoder, config.sampling, self.name)
        self.orders = orders(clips)
        self.head = PairwiseHead(width, clips, len(self.orders), config.pair_dim)

    @property
    def chance(self) -> Mapping[str, float]:
        """One in n!."""
        return {"accuracy": 1 / len(self.orders)}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `clips`, float32 [B, n, 3, T, S, S], shuffled; `label`, int64
        [B], the number of their order; `usable`, bool [B]: no two clips are alike."""
        frames = batch["frames"]
        config = self.config
        images = augmented_frames(
            self.encoder, frames, config.augment, config.changes, clip=config.sampling.num_frames
        )
        clips = images.unflatten(1, (config.sampling.clips, -1)).transpose(2, 3)
        order, label = draw_orders(self.orders, len(frames))
        return replace_frames(
            batch,
            clips=reorder(clips, order),
            label=label.to(frames.device, non_blocking=True),
            usable=self._different(frames),
        )

    def _different(self, frames: Tensor) -> Tensor:
        """Whether every two clips of a sample differ somewhere, bool [B]."""
        clips, length = self.config.sampling.clips, self.config.sampling.num_frames
        apart = frame_differences(frames).unflatten(2, (clips, length)).unflatten(1, (clips, -1))
        # of two clips, the frames in the same places: [B, clips, clips, length]
        same_place = apart.diagonal(dim1=2, dim2=4)
        largest = same_place.amax(dim=3)
        largest.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        return largest.flatten(1).amin(dim=1) >= self.config.least_difference

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clips = batch["clips"]
        vectors = clip_vectors(self.encoder, clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return guess(self.head(vectors), batch["label"], batch["usable"])
