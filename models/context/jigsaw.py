"""Jigsaw: by which of K permutations were the tiles of an image shuffled?

    L = CE( MLP([g(f(tile perm(0))) .. g(f(tile perm(n-1)))]), k ),   k: number of the permutation

f is the encoder, g a shared layer on each tile. See docs/methods/jigsaw.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import random_boxes
from marey.models.augmentation.color import grayscale
from marey.models.augmentation.patch_grid import (
    cut,
    grid_corners,
    on_frame,
    project_colors,
    standardize,
    textured,
    whole_offsets,
)
from marey.models.augmentation.permutations import permutation_set
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.classification import guess


class JigsawConfig(MethodConfig):
    """Jigsaw puzzles; lengths are in pixels of the paper's 255 px board, which is laid over a crop
    of the frame."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images become puzzles."""
    grid: Literal[2, 3, 4] = 3
    """Tiles on each side of the board."""
    permutations: int = Field(default=504, ge=2, le=1512)
    """How many permutations there are to choose from: for 9 tiles at most 1512, for 4 tiles 24, for
    16 tiles 240."""
    puzzles: int = Field(default=1, ge=1, le=64)
    """Permutations of one cut of an image; the tiles are encoded once for all of them."""
    cell: int = Field(default=85, ge=4, le=512)
    """Side of the cell that each tile lies in."""
    tile: int = Field(default=64, ge=2, le=512)
    """Side of a tile, placed at random in its cell (section 3.4)."""
    channel_jitter: int = Field(default=2, ge=0, le=16)
    """Each colour channel of each tile is displaced by up to this, against chromatic aberration."""
    gray: float = Field(default=0.3, ge=0, le=1)
    """Share of puzzles without colour (section 3.4)."""
    project: float = Field(default=0.5, ge=0, le=1)
    """Share of the others whose green-magenta axis is removed (later released code)."""
    crop_scale: tuple[float, float] = (0.7, 1.0)
    """Area under the board as share of the frame, smallest and largest: the varying scale keeps
    tiles off the codec's block grid."""
    patch_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in pixels at which the trunk sees a tile; unset: the encoder's image size."""
    tile_dim: int = Field(default=1024, ge=1, le=16_384)
    """Width of each tile's layer before the tiles are joined (fc6)."""
    hidden: tuple[int, ...] = (4096,)
    """Widths of the classifier on the joined tiles (fc7)."""

    @model_validator(mode="after")
    def _fits(self) -> JigsawConfig:
        if self.room < 0:
            raise ValueError(
                f"tile ({self.tile}) and channel_jitter ({self.channel_jitter}) must fit into "
                f"cell ({self.cell})"
            )
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must be 0 < low <= high <= 1, not {self.crop_scale}")
        return self

    @property
    def room(self) -> int:
        """Largest offset of a tile: none of its channels leaves the cell."""
        return self.cell - self.tile - self.channel_jitter


@register
class Jigsaw(Method):
    """Jigsaw puzzles. Each tile goes through the trunk alone, those of all images in one pass.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own.
    """

    name = "jigsaw"
    paper = (
        "Noroozi, Favaro, Unsupervised Learning of Visual Representations by Solving Jigsaw "
        "Puzzles, ECCV 2016, arXiv 1603.09246"
    )
    Config = JigsawConfig
    config: JigsawConfig
    permutations: Tensor

    def __init__(self, encoder: Encoder, config: JigsawConfig) -> None:
        super().__init__(encoder, config)
        tiles = config.grid**2
        # in the checkpoint, since a class means nothing without its permutation
        self.register_buffer("permutations", permutation_set(tiles, config.permutations))
        self.tile_layer = nn.Sequential(
            nn.Linear(encoder.out_dim, config.tile_dim), nn.ReLU(inplace=True)
        )
        widths = (tiles * config.tile_dim, *config.hidden, config.permutations)
        self.classifier = mlp(*widths, norm=True)

    @property
    def chance(self) -> Mapping[str, float]:
        """One in K."""
        return {"accuracy": 1 / self.config.permutations}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `tiles`, float32 [B, F, P, 3, s, s] in their true order;
        `permutation`, int64 [B, F, puzzles], which permutation each puzzle shows; `solvable`, bool
        [B, F]: at most two tiles are flat."""
        frames = batch["frames"]
        shape = frames.shape[:2]
        tiles = self.cut(frames.flatten(0, 1))
        solvable = (~textured(tiles)).sum(dim=1) <= 2
        permutation = torch.randint(self.config.permutations, (*shape, self.config.puzzles))
        return replace_frames(
            batch,
            tiles=self.shield(tiles).unflatten(0, shape),
            permutation=permutation.to(frames.device, non_blocking=True),
            solvable=solvable.unflatten(0, shape),
        )

    def cut(self, frames: Tensor) -> Tensor:
        """Tiles of each frame, each channel at its place: uint8 [N, H, W, 3] -> [N, P, 3, s, s]."""
        config = self.config
        height, width = frames.shape[1:3]
        size = config.patch_size or self.encoder.config.image_size
        corners = grid_corners(config.grid, config.cell)
        count, tiles = len(frames), len(corners)
        offsets = whole_offsets(count, tiles, 1, 2, low=0, high=config.room)
        apart = whole_offsets(count, tiles, 3, 2, low=0, high=config.channel_jitter)
        crops = random_boxes(count, height, width, config.crop_scale, (1.0, 1.0))
        places = corners[None, :, None] + offsets + apart
        return cut(frames, on_frame(places, config.tile, config.grid * config.cell, crops), size)

    def shield(self, tiles: Tensor) -> Tensor:
        """Tiles in [0, 1] -> what the encoder sees: some without colour, each of mean 0 and
        deviation 1. The colour treatment is one for a puzzle, or it would tell tiles apart."""
        lot = torch.rand(len(tiles)).to(tiles.device, non_blocking=True)[:, None, None, None, None]
        config = self.config
        gray = grayscale(tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2])
        projected = lot < config.gray + (1 - config.gray) * config.project
        shown = torch.where(projected, project_colors(tiles), tiles)
        return standardize(torch.where(lot < config.gray, gray, shown))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        tiles = batch["tiles"].flatten(0, 1)
        features = self.tile_layer(self.encoder(tiles.flatten(0, 1))).unflatten(0, tiles.shape[:2])
        label = batch["permutation"].flatten(0, 1)
        # slot i shows tile permutation[i]; shuffling features is shuffling tiles, since each tile
        # is encoded alone
        image = torch.arange(len(features), device=label.device)[:, None, None]
        puzzles = features[image, self.permutations[label]]
        logits = self.classifier(puzzles.flatten(0, 1).flatten(1))
        counted = batch["solvable"].flatten().repeat_interleave(self.config.puzzles)
        return guess(logits, label.flatten(), counted)
