"""Sorting frames (OPN): in which order were the shuffled frames of a clip?

    L = CE( h( pair(f(x_i), f(x_j)) for all i < j ), k ),   k: class of the order

f is the encoder; an order and that of the video played backwards are one class. See
docs/methods/sort_frames.md.
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
from marey.models.augmentation.moving_window import moving_window
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, register
from marey.models.objectives.classification import guess
from marey.models.objectives.orders import Compare, PairwiseHead, draw_orders, orders, reorder


class SortFramesConfig(MethodConfig):
    """Order prediction network."""

    sampling: ClipsSampling = ClipsSampling(
        num_frames=4, spacing_s=0.4, per_video=8, motion_weighted=True
    )
    """One clip of the frames that are sorted, where it moves (section 3.2)."""
    pair_dim: int = Field(default=512, ge=1, le=16_384)
    """Width of the layer on each pair of frames (fc7)."""
    compare: Compare = "concatenation"
    """What that layer sees: both embeddings (as in the paper), or how they differ in each
    dimension, which a small network learns from much sooner."""
    least_difference: float = Field(default=0.5, ge=0, le=255)
    """Samples with two frames that differ by less than this on average, of 255, are left out: they
    have no order."""
    window: float = Field(default=0.5, gt=0, le=1)
    """Side of the square window that is cut out of the frames where most changes between them, as
    share of the frame's shorter side (section 3.2: 80 pixels); 1 takes the centre square."""
    changes: FrameChanges = FrameChanges(shift=5 / 80, channel_split=1.0)
    """Augmentation of each frame alone: spatial jitter and channel splitting (section 3.2)."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.7, 1.0), blur=0.3)
    """One crop of the window for the frames, blur (and colours) for each."""

    @model_validator(mode="after")
    def _sortable(self) -> SortFramesConfig:
        if self.sampling.clips != 1 or not 3 <= self.sampling.num_frames <= 6:
            raise ValueError(
                "sampling must be one clip of 3 to 6 frames, not "
                f"{self.sampling.clips} of {self.sampling.num_frames}"
            )
        return self


@register
class SortFrames(Method):
    """Order prediction: n frames, n!/2 classes, since a video may run either way.

    Batch: `frames` uint8 [B, n, H, W, 3] in temporal order.
    """

    name = "sort_frames"
    paper = (
        "Lee, Huang, Singh, Yang, Unsupervised Representation Learning by Sorting Sequences, "
        "ICCV 2017, arXiv 1708.01246"
    )
    Config = SortFramesConfig
    config: SortFramesConfig

    def __init__(self, encoder: Encoder, config: SortFramesConfig) -> None:
        super().__init__(encoder, config)
        count = config.sampling.num_frames
        self.orders = orders(count, either_way=True)
        self.head = PairwiseHead(
            encoder.out_dim, count, len(self.orders), config.pair_dim, config.compare
        )

    @property
    def chance(self) -> Mapping[str, float]:
        """One in n!/2."""
        return {"accuracy": 1 / len(self.orders)}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `images`, float32 [B, n, 3, S, S], shuffled; `label`, int64
        [B], the class of their order; `usable`, bool [B]: no two frames are alike."""
        frames = moving_window(batch["frames"], self.config.window)
        images = augmented_frames(self.encoder, frames, self.config.augment, self.config.changes)
        order, label = draw_orders(self.orders, len(frames), either_way=True)
        apart = frame_differences(frames)
        apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        return replace_frames(
            batch,
            images=reorder(images, order),
            label=label.to(frames.device, non_blocking=True),
            usable=apart.flatten(1).amin(dim=1) >= self.config.least_difference,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch["images"]
        vectors = self.encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return guess(self.head(vectors), batch["label"], batch["usable"])
