"""CPC: contrastive prediction of the next frames of a clip.

    z_t = encoder(x_t),   c_t = context(z_1 .. z_t)
    L = -log  exp(z_t+k W_k c_t / tau) / ( exp(z_t+k W_k c_t / tau) + sum over n in N of
        exp(z_n W_k c_t / tau) )

N are the negatives: other times of the clip, other clips of the video, other videos. See
docs/methods/cpc.md.
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


class CPCConfig(PredictionConfig):
    """Contrastive predictive coding on sequences of blocks of frames."""

    sampling: ClipsSampling = ClipsSampling(num_frames=10, spacing_s=0.4)
    """Clips to predict along: 8 to 16 frames, 0.25 to 0.5 s apart."""
    context: Literal["gru", "transformer"] = "gru"
    """What summarises the past."""
    context_dim: int = Field(default=256, ge=8, le=4096)
    """Width of the summary; a multiple of 4 for the transformer, which has 4 heads."""
    layers: int = Field(default=1, ge=1, le=24)
    """Layers of the context network."""
    min_context: int = Field(default=3, ge=1, le=256)
    """Fewest steps that a prediction has seen."""
    first_step: int = Field(default=1, ge=1, le=64)
    """Nearest step that is predicted; above 1 where steps are closer than 0.2 s, since copying
    solves those."""
    last_step: int = Field(default=4, ge=1, le=64)
    """Farthest step that is predicted, each by a matrix of its own (K of the paper)."""

    @model_validator(mode="after")
    def _fits(self) -> CPCConfig:
        if self.last_step < self.first_step:
            raise ValueError(
                f"last_step ({self.last_step}) must not be below first_step ({self.first_step})"
            )
        if self.blocks < self.min_context + self.last_step:
            raise ValueError(
                f"a clip of {self.blocks} blocks is too short for min_context {self.min_context} + "
                f"last_step {self.last_step}"
            )
        if self.context == "transformer" and self.context_dim % 4:
            raise ValueError(f"context_dim must be a multiple of 4, got {self.context_dim}")
        return self

    @property
    def predictions(self) -> list[tuple[int, int]]:
        """(last step seen, steps ahead) of every prediction in a clip."""
        return [
            (seen, ahead)
            for ahead in range(self.first_step, self.last_step + 1)
            for seen in range(self.min_context - 1, self.blocks - ahead)
        ]


@register
class CPC(Method):
    """Contrastive predictive coding.

    Batch: `frames` uint8 [B, F, H, W, 3], the clips of a sample one after another; `time_s`
    float32 [B, F]; `instance` int64 [B].
    """

    name = "cpc"
    paper = (
        "van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive Coding, "
        "2018, arXiv 1807.03748"
    )
    Config = CPCConfig
    config: CPCConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: CPCConfig) -> None:
        super().__init__(encoder, config)
        if encoder.config.clip_frames > 1:
            check_blocks(encoder, config)
        width = config.context_dim
        if config.context == "gru":
            self.context: nn.Module = nn.GRU(
                encoder.out_dim, width, config.layers, batch_first=True
            )
        else:
            self.context = CausalTransformer(encoder.out_dim, width, config.layers, config.blocks)
        ahead = config.last_step - config.first_step + 1
        # One matrix per step ahead, side by side.
        self.predict = nn.Linear(width, ahead * encoder.out_dim, bias=False)

    @property
    def chance(self) -> Mapping[str, float]:
        """Predictions that say nothing: no information, and a guess among the steps of the clip."""
        blocks = range(self.config.blocks)
        guesses = [
            1 / (1 + self.config.negatives_in_clip(seen + ahead, blocks))
            for seen, ahead in self.config.predictions
        ]
        return chance_level(self.config, guesses)

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], and `twins`, bool [B, clips, blocks, blocks], in
        place of `frames`."""
        return replace_frames(batch, **block_inputs(self.images, batch["frames"], self.config))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        steps = self._steps(batch["images"])
        clips = len(steps)
        summary = self.context(steps)
        summary = summary[0] if isinstance(summary, tuple) else summary
        ahead = self.predict(summary).float().unflatten(2, (-1, self.encoder.out_dim))
        seen, step = torch.tensor(config.predictions, device=steps.device).T
        predicted = ahead[:, seen, step - config.first_step].flatten(0, 1)
        targets = steps.flatten(0, 1)
        if config.similarity == "cosine":
            predicted = functional.normalize(predicted, dim=1)
            targets = functional.normalize(targets, dim=1)
        origins = block_origins(batch, config)
        wanted = torch.arange(clips, device=seen.device)[:, None] * config.blocks + seen + step
        wanted = wanted.flatten()
        rows = Origins(*(key[wanted] for key in origins))
        metrics = contrast_predictions(
            predicted,
            gather_rows(targets),
            own_rows(targets)[wanted],
            negatives_of(batch, rows, origins, config),
            config.temperature,
        )
        return {**metrics, "embedding_std": targets.detach().std(dim=0).mean()}

    def _steps(self, images: Tensor) -> Tensor:
        """float32 [clips, steps, D]: the embedding of every step."""
        if self.encoder.config.clip_frames > 1:
            embeddings = self.encoder(as_stacks(images, self.config.block_frames))
            return embeddings.float().unflatten(0, (-1, self.config.blocks))
        embeddings = self.encoder(images.flatten(0, 1)).float()
        blocks = (-1, self.config.blocks, self.config.block_frames)
        return embeddings.unflatten(0, blocks).mean(dim=2)


class CausalTransformer(nn.Module):
    """A transformer in which no step sees later ones: [N, T, D] -> [N, T, width]."""

    mask: Tensor

    def __init__(self, dim: int, width: int, layers: int, length: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, steps: Tensor) -> Tensor:
        length = steps.shape[1]
        return self.layers(
            self.enter(steps) + self.position[:length], mask=self.mask[:length, :length]
        )
