"""Latent prediction without a momentum encoder: predict a frame's embedding, held off collapse.

    L = 1/H sum over h of  mean_t |p(z^h_t) - p(z_t)|^2  +  R(p(z))
    R = mu v(p(z)) + nu c(p(z))        or        lambda mean_t SIGReg(p(z_t))

z_t is the embedding of frame t, z^h_t what h steps of the predictor make of the frames before it, p
a projector. There is no stop-gradient. v and c are VICReg's terms (EB-JEPA), SIGReg is LeJEPA's
(LeWorldModel). See docs/methods/latent_prediction.md.
"""

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
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, Progress, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import gather_rows
from marey.models.objectives.gaussian import drawn_directions, sigreg
from marey.models.objectives.variance import mean_squared_covariance, variance_hinge


class LatentPredictionConfig(MethodConfig):
    """Prediction of the embeddings of later frames."""

    sampling: ClipsSampling = ClipsSampling(num_frames=8, spacing_s=0.2)
    """Which runs of frames are drawn."""
    context: int = Field(default=2, ge=1, le=16)
    """Frames that the predictor sees at a time (EB-JEPA, released code: 2)."""
    horizon: int = Field(default=4, ge=1, le=64)
    """Times that the predictor is applied to its own answers (EB-JEPA, released code: 4)."""
    predictor_dim: int = Field(default=512, ge=1, le=65_536)
    """Width of the predictor's two hidden layers."""
    projector_dim: int | None = Field(default=None, ge=2, le=65_536)
    """Width of the space in which predictions are compared and R is taken; unset: the embedding
    itself. EB-JEPA: four times the embedding."""
    regularizer: Literal["variance_covariance", "sigreg"] = "variance_covariance"
    """What keeps embeddings from collapse: variances of 1 without covariances, or a Gaussian."""
    variance: float = Field(default=10.0, ge=0, le=1e4)
    """Weight mu of the hinge on deviations (EB-JEPA, released code: std_coeff)."""
    covariance: float = Field(default=100.0, ge=0, le=1e5)
    """Weight nu of the mean squared covariance of two dimensions (EB-JEPA, released code:
    cov_coeff)."""
    weight: float = Field(default=0.1, ge=0, le=1e4)
    """Weight lambda of SIGReg."""
    directions: int = Field(default=1024, ge=1, le=65_536)
    """Random directions of SIGReg, new ones each step."""
    augment: AugmentConfig = AugmentConfig()
    """One crop, flip and draw of colours for all frames of a sample; by default none."""

    @model_validator(mode="after")
    def _fits(self) -> LatentPredictionConfig:
        if self.sampling.num_frames < self.context + 1:
            raise ValueError(
                f"sampling.num_frames ({self.sampling.num_frames}) must exceed context "
                f"({self.context}): a frame is left to predict"
            )
        if self.sampling.num_frames < self.context + self.horizon:
            raise ValueError(
                f"sampling.num_frames ({self.sampling.num_frames}) must be at least context + "
                f"horizon ({self.context} + {self.horizon}), or the last steps predict nothing"
            )
        return self


@register
class LatentPrediction(Method):
    """A world model of embeddings, without actions, teacher or stop-gradient (EB-JEPA's video
    example; LeWorldModel, Maes et al. 2026, arXiv 2603.19312, with `regularizer=sigreg`).

    Batch: `frames` uint8 [B, C x T, H, W, 3], C clips of T frames.
    """

    name = "latent_prediction"
    paper = (
        "Terver, Balestriero, Dervishi, Fan, Garrido, Nagarajan, Sinha, Zhang, Rabbat, LeCun, Bar, "
        "EB-JEPA, 2026, arXiv 2602.03604"
    )
    Config = LatentPredictionConfig
    config: LatentPredictionConfig
    directions: Tensor

    def __init__(self, encoder: Encoder, config: LatentPredictionConfig) -> None:
        super().__init__(encoder, config)
        dim, hidden = encoder.out_dim, config.predictor_dim
        self.predictor = mlp(config.context * dim, hidden, hidden, dim, norm=False)
        width = config.projector_dim
        self.projector: nn.Module = nn.Identity()
        if width is not None:
            self.projector = mlp(dim, width, width, norm=True)
        self._seed = torch.initial_seed()
        shape = (config.directions, width or dim)
        if config.regularizer == "sigreg":
            self.register_buffer("directions", drawn_directions(*shape, self._seed))

    @property
    def chance(self) -> Mapping[str, float]:
        """The errors of answering with the mean, and with the last frame seen, as shares of
        themselves."""
        return {"relative_error": 1.0, "error_over_still": 1.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, C, T, 3, S, S], in place of `frames`."""
        frames = batch["frames"].unflatten(1, (-1, self.config.sampling.num_frames))
        images = self.images(frames, self.config.augment, shared=frames.shape[2])
        return replace_frames(batch, images=images)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch["images"].flatten(0, 1)
        count, length = images.shape[:2]
        states = full_precision(self.encoder(images.flatten(0, 1))).unflatten(0, (count, length))
        goals = self._projected(states)
        errors, first = [], None
        predicted = states
        for _ in range(self.config.horizon):
            predicted = torch.cat(
                [states[:, : self.config.context], self.predict(predicted)], dim=1
            )
            answers = self._projected(predicted)
            errors.append((answers - goals).square().mean())
            first = answers if first is None else first
        prediction = torch.stack(errors).mean()
        regularizer, parts = self._regularizer(goals)
        return {
            "loss": prediction + regularizer,
            "prediction": prediction.detach(),
            **{name: part.detach() for name, part in parts.items()},
            **self._against(first, goals),
        }

    def predict(self, states: Tensor) -> Tensor:
        """The next embedding after each run of `context`: [N, T, D] -> [N, T - context, D].

        The last run, which nothing follows, is left out.
        """
        context = self.config.context
        runs = states.unfold(1, context, 1)[:, :-1].transpose(2, 3)  # [N, T - context, context, D]
        return self.predictor(runs.flatten(2))

    def _projected(self, states: Tensor) -> Tensor:
        """[N, T, D] -> [N, T, P]."""
        return full_precision(self.projector(states.flatten(0, 1))).unflatten(0, states.shape[:2])

    def _regularizer(self, goals: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        if config.regularizer == "sigreg":
            # each time by itself, as rows of one batch are independent then (LeWorldModel)
            value = torch.stack([sigreg(z, self.directions) for z in goals.unbind(1)]).mean()
            return config.weight * value, {"sigreg": value}
        rows = gather_rows(goals.flatten(0, 1))
        variance, covariance = variance_hinge(rows), mean_squared_covariance(rows)
        value = config.variance * variance + config.covariance * covariance
        return value, {"variance": variance, "covariance": covariance}

    @torch.no_grad()
    def _against(self, first: Tensor | None, goals: Tensor) -> dict[str, Tensor]:
        """The error of one step as shares of those of two answers without a predictor."""
        assert first is not None
        context = self.config.context
        goal = gather_rows(goals[:, context:].contiguous())
        error = functional.mse_loss(gather_rows(first[:, context:].contiguous()), goal)
        still = gather_rows(goals[:, context - 1 : -1].contiguous())
        mean = goal.flatten(0, 1).mean(dim=0)
        return {
            "relative_error": error / ((goal - mean).square().mean() + 1e-6),
            "error_over_still": error / (functional.mse_loss(still, goal) + 1e-6),
            "embedding_std": goal.flatten(0, 1).std(dim=0, correction=0).mean(),
        }

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        if self.config.regularizer == "sigreg":
            count, width = self.directions.shape
            self.directions.copy_(drawn_directions(count, width, self._seed + progress.step))
