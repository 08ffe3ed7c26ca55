"""Relative position: which of the eight neighbours of one patch is another?

    L = CE( MLP([f(first), f(second)]), y ),   y: one of eight positions

f is the encoder. See docs/methods/relative_position.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import random_boxes
from marey.models.augmentation.patch_grid import (
    cut,
    drop_colors,
    even_contrast,
    grid_corners,
    on_frame,
    pixelate,
    project_colors,
    textured,
    whole_offsets,
)
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.classification import guess

NEIGHBOURS = 8
_CODE_RMS = 50 / 255


class RelativePositionConfig(MethodConfig):
    """Context prediction; lengths are in pixels of the paper's images, whatever the frames' size:
    the whole grid is laid over a crop of the frame."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images patches are cut from."""
    grid: int = Field(default=3, ge=2, le=8)
    """Patches on each side of the grid; all pairs of neighbours are asked for."""
    patch: int = Field(default=96, ge=4, le=512)
    """Side of a patch (section 3)."""
    gap: int = Field(default=48, ge=1, le=512)
    """Gap between patches: half a patch, so that no line runs on into the next (section 3.1)."""
    jitter: int = Field(default=7, ge=0, le=255)
    """Each patch is displaced by up to this, both ways, on both axes (section 3.1)."""
    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Area under the grid as share of the frame, smallest and largest: the paper resizes images
    to 150,000-450,000 pixels, and the grid covers 158,000."""
    patch_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in pixels at which the trunk sees a patch; unset: the encoder's image size."""
    colors: Literal["drop", "project", "keep"] = "drop"
    """Against chromatic aberration: keep one channel and put noise for the others, or remove
    green against magenta (section 3.1); `keep` leaves the shortcut open."""
    pixelate: float = Field(default=0.33, ge=0, le=1)
    """Chance of a patch to be shown at a lower resolution (released code)."""
    hidden: tuple[int, ...] = (512,)
    """Widths of the classifier on two concatenated patches."""

    @model_validator(mode="after")
    def _apart(self) -> RelativePositionConfig:
        if self.gap <= 2 * self.jitter:
            raise ValueError(
                f"gap ({self.gap}) must exceed twice the jitter ({self.jitter}), or patches touch"
            )
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must be 0 < low <= high <= 1, not {self.crop_scale}")
        return self

    @property
    def board(self) -> int:
        """Side of the grid with room for its jitter."""
        return self.grid * self.patch + (self.grid - 1) * self.gap + 2 * self.jitter


def neighbour_pairs(side: int) -> tuple[Tensor, Tensor]:
    """All ordered pairs of neighbours of a square grid: (pairs int64 [Q, 2], label int64 [Q]).

    Patches are numbered row by row. The label says where the second lies around the first, row by
    row without the centre: 0 above left, 1 above, ... 7 below right. A pair and its reverse have
    labels that sum to 7.
    """
    around = [step for step in itertools.product((-1, 0, 1), repeat=2) if step != (0, 0)]
    pairs, labels = [], []
    for row, column in itertools.product(range(side), repeat=2):
        for label, (down, right) in enumerate(around):
            there = (row + down, column + right)
            if all(0 <= place < side for place in there):
                pairs.append((row * side + column, there[0] * side + there[1]))
                labels.append(label)
    return torch.tensor(pairs), torch.tensor(labels)


@register
class RelativePosition(Method):
    """Context prediction on all neighbours of a grid; every patch is encoded once, alone.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own.
    """

    name = "relative_position"
    paper = (
        "Doersch, Gupta, Efros, Unsupervised Visual Representation Learning by Context Prediction, "
        "ICCV 2015, arXiv 1505.05192"
    )
    Config = RelativePositionConfig
    config: RelativePositionConfig
    pairs: Tensor
    label: Tensor

    def __init__(self, encoder: Encoder, config: RelativePositionConfig) -> None:
        super().__init__(encoder, config)
        self.classifier = mlp(2 * encoder.out_dim, *config.hidden, NEIGHBOURS, norm=True)
        pairs, label = neighbour_pairs(config.grid)
        self.register_buffer("pairs", pairs, persistent=False)
        self.register_buffer("label", label, persistent=False)

    @property
    def chance(self) -> Mapping[str, float]:
        """Share of the commonest class: a grid has more pairs side by side than diagonal ones."""
        return {"accuracy": self.label.bincount().max().item() / len(self.label)}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `patches`, float32 [B, F, P, 3, s, s], and `textured`, bool
        [B, F, P], which of them show anything."""
        frames = batch["frames"]
        patches = self.cut(frames.flatten(0, 1))
        shown = textured(patches)
        shape = frames.shape[:2]
        return replace_frames(
            batch,
            patches=self.shield(patches).unflatten(0, shape),
            textured=shown.unflatten(0, shape),
        )

    def cut(self, frames: Tensor) -> Tensor:
        """The jittered grid of each frame: uint8 [N, H, W, 3] -> float32 [N, P, 3, s, s]."""
        config = self.config
        height, width = frames.shape[1:3]
        size = config.patch_size or self.encoder.config.image_size
        corners = grid_corners(config.grid, config.patch + config.gap, first=config.jitter)
        shape = (len(frames), len(corners), 1, 2)
        offsets = whole_offsets(*shape, low=-config.jitter, high=config.jitter)
        crops = random_boxes(len(frames), height, width, config.crop_scale, (1.0, 1.0))
        places = corners[None, :, None] + offsets
        return cut(frames, on_frame(places, config.patch, config.board, crops), size)

    def shield(self, patches: Tensor) -> Tensor:
        """Patches in [0, 1] -> what the encoder sees, in its range, without what betrays places."""
        if self.config.pixelate:
            patches = pixelate(patches, self.config.pixelate)
        if self.config.colors == "keep":
            return self.encoder.normalize(patches)
        patches = drop_colors(patches) if self.config.colors == "drop" else project_colors(patches)
        return even_contrast(patches, _CODE_RMS) / self.encoder.std.mean()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        patches = batch["patches"]
        embeddings = self.encoder(patches.flatten(0, 2)).unflatten(0, (-1, patches.shape[2]))
        shown = batch["textured"].flatten(0, 1)
        first, second = self.pairs.unbind(1)
        joined = torch.cat([embeddings[:, first], embeddings[:, second]], dim=2)
        logits = self.classifier(joined.flatten(0, 1))
        label = self.label.repeat(len(embeddings))
        counted = (shown[:, first] & shown[:, second]).flatten()
        metrics = guess(logits, label, counted)
        return {**metrics, "embedding_std": embeddings.detach().std(dim=(0, 1)).mean()}
