"""Dense CPC (DPC): contrastive prediction of the maps of a clip's next blocks, place by place.

    h = ConvGRU(relu(z_1) .. relu(z_s)),   z^_s+1 = phi(h),   h = ConvGRU(relu(z^_s+1), h), ..
    L = -log  exp(z^_p z_p) / ( exp(z^_p z_p) + sum over n in N of exp(z^_p z_n) )

p is one place of one predicted block; N are other places, times and clips. See
docs/methods/dense_cpc.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.sampling import ClipsSampling
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.dense_heads import require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.frame_stacks import as_stacks
from marey.models.method import Method, register
from marey.models.objectives.distributed import gather_rows, own_rows
from marey.models.objectives.prediction import (
    Origins,
    PredictionConfig,
    block_inputs,
    block_origins,
    chance_level,
    check_blocks,
    contrast_predictions,
    negatives_of,
)

FLAT = 2 / 255
"""Cells whose pixels deviate less than this from their mean hold nothing to predict."""


class DenseCPCConfig(PredictionConfig):
    """Dense predictive coding."""

    sampling: ClipsSampling = ClipsSampling(num_frames=40, spacing_s=0.1)
    """Clips; their frames are parted into blocks (8 of 5 frames in the paper)."""
    block_frames: int = Field(default=5, ge=1, le=64)
    """Frames of one block: maps averaged after an encoder of images, made at once by one of
    clips."""
    predicted: int = Field(default=3, ge=1, le=64)
    """Blocks at the end of a clip that are predicted, each from the prediction before it."""
    grid: int = Field(default=4, ge=1, le=64)
    """Cells along each side of the map that is predicted."""
    dim: int = Field(default=256, ge=8, le=4096)
    """Channels of the map, of the context and of the prediction."""
    places: Literal["all", "own"] = "all"
    """Which places of other blocks are negatives: all (as in the paper), or the predicted one's own
    alone, so that nothing but time, and with it clip and video, is to be told."""
    memory: int | None = Field(default=None, ge=2, le=65_536)
    """Slots of a learned memory of which predictions are convex mixtures (MemDPC, 1024 there);
    unset predicts freely."""

    @model_validator(mode="after")
    def _fits(self) -> DenseCPCConfig:
        if self.blocks <= self.predicted:
            raise ValueError(
                f"a clip of {self.blocks} blocks is too short to see one and predict "
                f"{self.predicted}"
            )
        if self.grid == 1 and self.predicted == 1 and self.negatives == ("same_clip",):
            raise ValueError("one cell of one block has no negative in its clip")
        return self


@register
class DenseCPC(Method):
    """Dense predictive coding; what is exported is the trunk.

    Batch: `frames` uint8 [B, F, H, W, 3], the clips of a sample one after another; `time_s`
    float32 [B, F]; `instance` int64 [B].
    """

    name = "dense_cpc"
    paper = (
        "Han, Xie, Zisserman, Video Representation Learning by Dense Predictive Coding, "
        "ICCV Workshops 2019, arXiv 1909.04656 (memory: MemDPC, ECCV 2020, arXiv 2008.01065)"
    )
    Config = DenseCPCConfig
    config: DenseCPCConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: DenseCPCConfig) -> None:
        super().__init__(encoder, config)
        require_map(encoder, self.name)
        if encoder.config.clip_frames > 1:
            check_blocks(encoder, config)
        dim = config.dim
        self.project = nn.Conv2d(encoder.feature_dim, dim, 1)
        self.cell = ConvGRUCell(dim)
        out = dim if config.memory is None else config.memory
        self.predictor = nn.Sequential(
            nn.Conv2d(dim, dim, 1), nn.ReLU(inplace=True), nn.Conv2d(dim, out, 1)
        )
        if config.memory is not None:
            self.slots = nn.Conv2d(config.memory, dim, 1, bias=False)

    @property
    def chance(self) -> Mapping[str, float]:
        """Predictions that say nothing: no information, and a guess among the clip's cells."""
        # the other cells of the very block are always negatives
        blocks = range(self.config.predicted)
        cells = self.config.grid**2 if self.config.places == "all" else 1
        guesses = [
            1 / (cells * (1 + self.config.negatives_in_clip(block, blocks))) for block in blocks
        ]
        return chance_level(self.config, guesses)

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], and `twins`, bool [B, clips, blocks, blocks], in
        place of `frames`."""
        return replace_frames(batch, **block_inputs(self.images, batch["frames"], self.config))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        maps = self._maps(batch["images"])
        seen = config.blocks - config.predicted
        predicted = self._predict(maps[:, :seen])
        # [clips, blocks, D, g, g] -> a row for each cell of each block of each clip
        rows, targets = (
            values.float().flatten(3).transpose(2, 3).flatten(0, 2)
            for values in (predicted, maps[:, seen:])
        )
        if config.similarity == "cosine":
            rows, targets = functional.normalize(rows, dim=1), functional.normalize(targets, dim=1)
        origins = self._origins(batch)
        own = origins.cell[:, None] == gather_rows(origins.cell)
        negatives = negatives_of(batch, origins, origins, config)
        if config.places == "own":
            negatives = {kind: mask & own for kind, mask in negatives.items()}
        metrics = contrast_predictions(
            rows,
            gather_rows(targets),
            own_rows(targets),
            negatives,
            config.temperature,
            wanted=self._textured(batch["images"]),
            same_cell=own,
        )
        return {**metrics, "feature_std": targets.detach().std(dim=0).mean()}

    def _maps(self, images: Tensor) -> Tensor:
        """[clips, blocks, D, g, g]: the map of every block."""
        config = self.config
        if self.encoder.config.clip_frames > 1:
            maps = self.encoder.features(as_stacks(images, config.block_frames)).mean(dim=2)
            maps = functional.adaptive_avg_pool2d(maps, config.grid)
        else:
            maps = self.encoder.features(images.flatten(0, 1))
            maps = functional.adaptive_avg_pool2d(maps, config.grid)
            maps = maps.unflatten(0, (-1, config.block_frames)).mean(dim=1)
        return self.project(maps).unflatten(0, (-1, config.blocks))

    def _predict(self, seen: Tensor) -> Tensor:
        """[clips, seen, D, g, g] -> [clips, predicted, D, g, g]: block after block."""
        state = torch.zeros_like(seen[:, 0])
        for block in seen.unbind(dim=1):
            state = self.cell(torch.relu(block), state)
        predictions = []
        for position in range(self.config.predicted):
            if position:
                state = self.cell(torch.relu(predictions[-1]), state)
            prediction = self.predictor(state)
            if self.config.memory is not None:
                prediction = self.slots(prediction.softmax(dim=1))
            predictions.append(prediction)
        return torch.stack(predictions, dim=1)

    def _origins(self, batch: Batch) -> Origins:
        """Of every predicted cell of this rank: [clips predicted g g]."""
        config = self.config
        cells = config.grid**2
        late = slice(config.blocks - config.predicted, None)
        kept = Origins(
            *(
                key.unflatten(0, (-1, config.blocks))[:, late].flatten().repeat_interleave(cells)
                for key in block_origins(batch, config)
            )
        )
        cell = torch.arange(cells, device=kept.block.device)
        return kept._replace(cell=cell.repeat(len(kept.block) // cells))

    @torch.no_grad()
    def _textured(self, images: Tensor) -> Tensor:
        """bool [clips predicted g g]: the cell's pixels vary, in some frame of its block."""
        config = self.config
        pixels = (images * self.encoder.std).float()
        late = pixels.unflatten(1, (config.sampling.clips, config.blocks, -1))
        late = late[:, :, config.blocks - config.predicted :].flatten(0, 3)
        mean, square = (
            functional.adaptive_avg_pool2d(values, config.grid) for values in (late, late.square())
        )
        varies = (square - mean.square()).amax(dim=1) > FLAT**2
        return varies.unflatten(0, (-1, config.block_frames)).any(dim=1).flatten()


class ConvGRUCell(nn.Module):
    """A gated recurrent unit at every place of a map, with 1x1 kernels: [N, D, h, w] twice."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.candidate = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, entering: Tensor, state: Tensor) -> Tensor:
        reset, update = self.gates(torch.cat([entering, state], 1)).sigmoid().chunk(2, dim=1)
        fresh = self.candidate(torch.cat([entering, reset * state], 1)).tanh()
        return (1 - update) * state + update * fresh
