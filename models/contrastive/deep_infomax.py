"""Deep InfoMax: maximise the mutual information of an image's summary and its local map.

    u(n, m, s) = psi(Y_n) phi(C_m,s) / sqrt(D)
    jsd       L = mean softplus(-u(n, n, s)) + mean over m != n of softplus(u(n, m, s)) - 2 log 2
    dv        L = log mean over m != n of exp(u(n, m, s)) - mean u(n, n, s)
    infonce   L = -log  exp(u(n, n, s)) / ( exp(u(n, n, s)) + sum m != n, r of exp(u(n, m, r)) )

Y_n is the summary of image n, C_m,s place s of the map of image m; a prior on Y beside. See
docs/methods/deep_infomax.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.adversarial import play
from marey.models.objectives.arithmetic import masked_logsumexp
from marey.models.objectives.distributed import gather_rows, mean_over_ranks, own_rows
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import NearDuplicates, frame_ids, info_nce, negative_mask
from marey.models.objectives.monitors import spread

Estimator = Literal["jsd", "dv", "infonce"]


class DeepInfoMaxConfig(MethodConfig):
    """Maximisation of mutual information between an image's summary and its map."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are summarised."""
    estimator: Estimator = "jsd"
    """Jensen-Shannon, Donsker-Varadhan or InfoNCE (section 3.1); the last two need many
    negatives."""
    global_weight: float = Field(default=0.0, ge=0, le=100)
    """Weight of the information on the whole map (alpha; 1 for DIM(G), section 4.2)."""
    local_weight: float = Field(default=1.0, ge=0, le=100)
    """Weight of the information on the map's places, mean over them (beta; 0 for DIM(G))."""
    prior_weight: float = Field(default=0.1, ge=0, le=100)
    """Weight of the match with the prior (gamma; 1 for DIM(G)); 0 leaves it out."""
    reduction: int = Field(default=4, ge=1, le=64)
    """Which map of the trunk is the local one: that whose places stand for so many pixels. A place
    should not see the whole image."""
    summary_dim: int = Field(default=64, ge=2, le=8192)
    """Width of the summary Y (64 for CIFAR)."""
    summary_hidden: int = Field(default=1024, ge=1, le=65_536)
    """Width of the layer before it."""
    score_dim: int = Field(default=2048, ge=2, le=65_536)
    """Width of the space in which summaries and places are compared (encode and dot, appendix)."""
    alike: NearDuplicates = NearDuplicates()
    """Near-duplicate frames, which are no negatives of each other."""
    augment: AugmentConfig = AugmentConfig()
    """How each image is augmented (not at all in section 4)."""

    @model_validator(mode="after")
    def _learns(self) -> DeepInfoMaxConfig:
        if not self.global_weight and not self.local_weight:
            raise ValueError("global_weight and local_weight are both 0: nothing is left to learn")
        return self


@register
class DeepInfoMax(Method):
    """Global, local and prior objectives; what is exported comes before the summary.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `time_s` float32
    [B, F]; `instance` int64 [B].
    """

    name = "deep_infomax"
    paper = (
        "Hjelm et al., Learning Deep Representations by Mutual Information Estimation and "
        "Maximization, ICLR 2019, arXiv 1808.06670"
    )
    Config = DeepInfoMaxConfig
    config: DeepInfoMaxConfig

    def __init__(self, encoder: Encoder, config: DeepInfoMaxConfig) -> None:
        super().__init__(encoder, config)
        self.level = local_level(encoder, config.reduction)
        channels = encoder.trunk.levels[self.level].channels  # pyright: ignore
        width, dim = config.score_dim, config.summary_dim
        self.summary = mlp(encoder.out_dim, config.summary_hidden, dim, norm=True)
        if config.local_weight:
            self.local_places = ScoreSpace(channels, width)
            self.local_summary = ScoreSpace(dim, width)
        if config.global_weight:
            self.global_map = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
            self.global_places = ScoreSpace(16 * channels, width)
            self.global_summary = ScoreSpace(dim, width)
        if config.prior_weight:
            self.discriminator = mlp(dim, 1000, 200, 1, norm=False)

    @property
    def chance(self) -> Mapping[str, float]:
        """Summaries that say nothing of the map: they fit another image's as often."""
        return {"pair_auc": 0.5}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], `dhash`, int64 [B, F], and `prior`, float32
        [B, F, D] uniform in [0, 1), what summaries are to look like, in place of `frames`."""
        images = self.images(batch["frames"], self.config.augment)
        prior = torch.rand(*images.shape[:2], self.config.summary_dim).to(images.device)
        return replace_frames(batch, images=images, prior=prior, dhash=dhash(batch["frames"]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config, frames = self.config, frame_ids(batch)
        images = batch["images"].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = self.encoder.trunk.pyramid(images)  # pyright: ignore
        places = maps[self.level]
        summary = self.summary(self.encoder.embed(maps[-1]))
        negative = negative_mask(frames, frames.gathered(), config.alike)
        parts: list[tuple[float, Tensor]] = []
        if config.local_weight:
            rows = self.local_places(places.permute(0, 2, 3, 1).flatten(0, 2))
            scores = score(self.local_summary(summary), rows.unflatten(0, (len(images), -1)))
            parts.append((config.local_weight, scores))
        if config.global_weight:
            rows = self.global_places(self.global_map(places))
            scores = score(self.global_summary(summary), rows[:, None])
            parts.append((config.global_weight, scores))
        loss = sum(
            (
                weight * information_loss(scores, negative, config.estimator)
                for weight, scores in parts
            ),
            start=summary.new_zeros((), dtype=torch.float32),
        )
        metrics = {"pair_auc": pair_auc(parts[0][1].detach(), negative), "spread": spread(summary)}
        if config.prior_weight:
            prior = batch["prior"].flatten(0, 1)
            game = play(self.discriminator, prior, summary.float().sigmoid())
            every = torch.ones_like(game.told, dtype=torch.bool)
            fooled = mean_over_ranks(game.generator, every)
            loss = loss + mean_over_ranks(game.discriminator, every) + config.prior_weight * fooled
            metrics |= {"prior_told": mean_over_ranks(game.told, every)}
        return {"loss": loss, **metrics}


class ScoreSpace(nn.Module):
    """Where a summary meets a place: a residual layer that begins near the identity.

    Input: [N, C]; output: [N, D], each row normalised over its D numbers (appendix A.2).
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.inner = mlp(width, dim, dim, norm=True)
        self.shortcut = nn.Linear(width, dim)
        nn.init.uniform_(self.shortcut.weight, -0.01, 0.01)
        with torch.no_grad():
            self.shortcut.weight.fill_diagonal_(1.0)
        self.norm = nn.LayerNorm(dim)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(self.inner(rows) + self.shortcut(rows))


def local_level(encoder: Encoder, reduction: int) -> int:
    """Number of the trunk's map with this reduction. Raises SettingError where it has none."""
    levels = getattr(encoder.trunk, "levels", ())
    finer = [level.reduction for level in levels[:-1]]
    if reduction not in finer:
        shown = ", ".join(map(str, finer)) or "none: it has a single map"
        raise SettingError(
            f"deep_infomax: method.reduction={reduction}, but the maps of backbone "
            f"{encoder.config.backbone!r} below its last one have reductions {shown}"
        )
    return finer.index(reduction)


def score(summaries: Tensor, places: Tensor) -> Tensor:
    """Scores of this rank's summaries [R, D] with the places of all ranks' images: [R, M, S].

    places: [R, S, D], of this rank. Dot products over sqrt(D), so that scores of normalised rows
    are of order 1 whatever D is; the paper does not scale them.
    """
    with torch.autocast(summaries.device.type, enabled=False):
        scaled = summaries.float() / summaries.shape[1] ** 0.5
        return torch.einsum("rd,msd->rms", scaled, gather_rows(places.float()))


def information_loss(scores: Tensor, negative: Tensor, estimator: Estimator) -> Tensor:
    """The negative of a lower bound on mutual information, this rank's share of it (scalar).

    scores: float [R, M, S], summaries of this rank's images with the S places of all ranks'
    images; negative: bool [R, M], whose places are negatives. The positives are the own places.
    """
    if estimator == "infonce":
        images = torch.arange(scores.shape[1], device=scores.device)
        positive = images == own_rows(scores)[:, None]
        terms = info_nce(
            scores.flatten(1), _of_places(positive, scores), _of_places(negative, scores)
        )
        return terms.mean()
    own = _own(scores)
    every = torch.ones_like(own, dtype=torch.bool)
    negatives = negative[:, :, None].expand_as(scores)
    known = gather_rows(negative.any(dim=1)).any()
    if estimator == "jsd":
        of_own = nn.functional.softplus(-own) - math.log(2)
        of_others = nn.functional.softplus(scores) - math.log(2)
        loss = mean_over_ranks(of_own, every) + mean_over_ranks(of_others, negatives)
    else:
        rows = gather_rows(_of_others(scores, negative))
        count = gather_rows(negatives.flatten(1).sum(dim=1)).sum()
        of_others = rows.logsumexp(dim=0) - count.clamp_min(1).log()
        loss = of_others - mean_over_ranks(own, every)
    return torch.where(known, loss, 0.0 * loss)


def pair_auc(scores: Tensor, negative: Tensor) -> Tensor:
    """How often a summary fits its own image better than another, on the mean over places."""
    own, others = _own(scores).mean(dim=1)[:, None], scores.mean(dim=2)
    won = (own > others).float() + 0.5 * (own == others).float()
    return mean_over_ranks(won, negative)


def _own(scores: Tensor) -> Tensor:
    """Scores with the own places: [R, S]."""
    return scores[torch.arange(len(scores), device=scores.device), own_rows(scores)]


def _of_others(scores: Tensor, negative: Tensor) -> Tensor:
    """Log of the summed exponentials over the places of the negative images: [R]."""
    return masked_logsumexp(scores.flatten(1), _of_places(negative, scores))


def _of_places(images: Tensor, scores: Tensor) -> Tensor:
    """A mask of images, bool [R, M], as one of their places: [R, M S]. scores: [R, M, S]."""
    return images.repeat_interleave(scores.shape[2], dim=1)
