"""Tracked patches: both ends of one track are positives, patches of other videos negatives.

    L = mean over pairs (a, p) of  1 / 2K  sum over K selected n of
        max(0, D(a, p) - D(a, n) + M) + max(0, D(a, p) - D(p, n) + M),   D = 1 - cos

`loss: infonce` has InfoNCE over all negatives instead. See docs/methods/tracked_patches.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.errors import InputError
from marey.configs.sampling import TracksSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, Progress, register
from marey.models.objectives.arithmetic import masked_mean
from marey.models.objectives.distributed import gather_rows, mean_over_ranks, own_rows
from marey.models.objectives.info_nce import info_nce, partners, similarity

MEMORY = 0.95
"""Share of the running violation rate that each step keeps: about the last twenty count."""
TIE = 1e-6
"""Cosines this close are equal but for rounding: neither patch is nearer."""


class TrackedPatchesConfig(MethodConfig):
    """Siamese-triplet network on tracked patches."""

    sampling: TracksSampling = TracksSampling()
    """Tracks, from shards."""
    partners: Literal["ends", "any"] = "ends"
    """The two patches of a track: its first and last (section 3), or any two that are stored."""
    loss: Literal["triplet", "infonce"] = "triplet"
    """Hinges on selected negatives (section 4), or a softmax over all negatives."""
    margin: float = Field(default=0.5, gt=0, le=2)
    """Margin between cosine distances (section 4.2); the authors' released configuration has 1."""
    negatives: int = Field(default=4, ge=1, le=4096)
    """Negatives selected for each pair (K in section 4.2)."""
    both_ends: bool = True
    """A negative is held against both patches of the pair, as in the authors' released code; the
    paper's equation has the first patch only."""
    mining: Literal["scheduled", "random", "hard"] = "scheduled"
    """How triplet negatives are selected: at random and later hard ones (section 4.2), or one of
    the two throughout."""
    switch_violations: float = Field(default=0.1, ge=0, le=1)
    """Hard mining begins when fewer random negatives than this share still violate the margin."""
    switch_fraction: float = Field(default=0.43, ge=0, le=1)
    """It begins at this share of the run at the latest (150k of 350k iterations in the paper)."""
    hard_share: float = Field(default=0.5, ge=0, le=1)
    """Share of hard mining's negatives drawn from the K hardest; the others are drawn from the
    remaining violating ones (released code). 1 takes the K hardest, as in the paper."""
    temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of infonce."""
    projection_dim: int | None = Field(default=128, ge=2, le=8192)
    """Width of the space in which patches are compared; unset compares the encoder's own output
    (the paper's fc7)."""
    projection_hidden: tuple[int, ...] = (256,)
    """Widths of the projector's hidden layers."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.9, 1.0), crop_ratio=(1.0, 1.0), flip=0.5)
    """Augmented for each patch alone (a crop and a mirror image in the paper)."""


class PairScores(NamedTuple):
    """How this rank's B pairs stand to the R patches of all ranks."""

    hinges: Tensor
    """float [E, B, R], with gradient: margin violated by patch r at end e of pair b, at least 0."""
    negative: Tensor
    """bool [B, R]: patches of other videos."""

    @property
    def hardness(self) -> Tensor:
        """float [B, R], without gradient: the hinge at the end that lies nearer."""
        return self.hinges.detach().amax(dim=0)

    @property
    def violating(self) -> Tensor:
        """bool [B, R]: negatives with a positive hinge."""
        return self.negative & (self.hardness > 0)


@register
class TrackedPatches(Method):
    """Siamese-triplet network; what is exported is the encoder before the projector.

    Batch: `frames` uint8 [B, P, H, W, 3], patches of one track from its first to its last;
    `instance` int64 [B], the video.
    """

    name = "tracked_patches"
    paper = (
        "Wang, Gupta, Unsupervised Learning of Visual Representations using Videos, ICCV 2015, "
        "arXiv 1505.00687"
    )
    Config = TrackedPatchesConfig
    config: TrackedPatchesConfig
    violations: Tensor
    hard: Tensor

    def __init__(self, encoder: Encoder, config: TrackedPatchesConfig) -> None:
        super().__init__(encoder, config)
        self.projector: nn.Module = nn.Identity()
        if config.projection_dim is not None:
            self.projector = mlp(
                encoder.out_dim, *config.projection_hidden, config.projection_dim, norm=True
            )
        # Persistent, so that a resumed run mines as the first one did.
        self.register_buffer("violations", torch.tensor(1.0))
        self.register_buffer("hard", torch.tensor(config.mining == "hard"))

    @property
    def chance(self) -> Mapping[str, float]:
        """Any negative is as likely to be nearer than the partner as to be farther."""
        return {"ordering": 0.5}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 2, 3, S, S], a patch and its partner, in place of `frames`;
        adds `lot`, float32 [B, 3] in [0, 1), by which negatives are drawn (see `lots`)."""
        frames = batch["frames"]
        samples, stored = frames.shape[:2]
        if stored < 2:
            raise InputError(f"tracked_patches needs two patches of each track; got {stored}")
        if self.config.partners == "ends":
            pairs = torch.tensor([0, stored - 1]).expand(samples, 2)
        else:
            pairs = torch.rand(samples, stored).argsort(dim=1)[:, :2]
        pairs = pairs.to(frames.device, non_blocking=True)
        row = torch.arange(samples, device=frames.device)
        chosen = frames[row[:, None], pairs]
        lot = torch.rand(samples, 3).to(frames.device, non_blocking=True)
        return replace_frames(batch, images=self.images(chosen, self.config.augment), lot=lot)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        images = batch["images"].transpose(0, 1).flatten(0, 1)
        patches = functional.normalize(self.projector(self.encoder(images)).float())
        rows = gather_rows(patches)
        video = batch["instance"]
        negative = video[:, None] != gather_rows(video.repeat(2))[None, :]
        first, last = patches.chunk(2)
        metrics: dict[str, Tensor] = {}
        if config.loss == "infonce":
            scores = similarity(patches, rows, config.temperature)
            contrast = info_nce(scores, partners(patches), negative.repeat(2, 1))
            terms, counted = contrast.loss, contrast.counted
        else:
            scores = PairScores(
                hinges(first, last, rows, config.margin, config.both_ends), negative
            )
            terms, counted = self._triplets(scores, lots(batch["lot"]))
            rate = _mean_of_all_ranks(scores.violating.float(), negative)
            if self.training:
                known = counted.any().float()
                self.violations.lerp_(rate, (1 - MEMORY) * known)
            metrics = {"violations": rate, "hard": self.hard.float()}
        with torch.no_grad():
            metrics |= _retrieval(first, last, rows, negative)
            metrics["embedding_std"] = patches.std(dim=0).mean()
            metrics["valid"] = counted.float().mean()
        return {"loss": mean_over_ranks(terms, counted), **metrics}

    def after_step(self, progress: Progress) -> None:
        """Begins hard mining when it is due, for good."""
        if self.config.mining == "scheduled":
            due = progress.fraction >= self.config.switch_fraction
            self.hard |= (self.violations < self.config.switch_violations) | due

    def _triplets(self, scores: PairScores, noise: Tensor) -> tuple[Tensor, Tensor]:
        count = self.config.negatives
        # Both selections are made and one is taken, so that a GPU never waits for the answer.
        chosen = torch.where(
            self.hard,
            hard_negatives(scores, count, self.config.hard_share, noise),
            draw(scores.negative, torch.tensor(count, device=noise.device), noise),
        )
        return triplet_terms(scores, chosen, count)


def hinges(first: Tensor, last: Tensor, rows: Tensor, margin: float, both_ends: bool) -> Tensor:
    """max(0, D(a, p) - D(e, r) + margin) for each end e of each pair (a, p); D = 1 - cos.

    first, last: [B, D] and rows: [R, D], all of length 1. Returns [2, B, R], or [1, B, R] with
    the first patch as the only end (the paper's equation).
    """
    with torch.autocast(first.device.type, enabled=False):
        together = (first * last).sum(dim=1)[:, None]
        ends = (first, last) if both_ends else (first,)
        return torch.stack([(end @ rows.T - together + margin).clamp_min(0) for end in ends])


def triplet_terms(scores: PairScores, chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean hinge of each pair over the negatives selected for it: (terms [B], counted bool [B]).

    chosen: bool [B, R]. The mean is over `count` negatives, or over all where there are fewer;
    one that was passed over since it violates nothing counts as 0.
    """
    places = scores.negative.sum(dim=1).clamp(1, count) * len(scores.hinges)
    taken = torch.where(chosen, scores.hinges, torch.zeros_like(scores.hinges))
    return taken.sum(dim=(0, 2)) / places, scores.negative.any(dim=1)


def lots(lot: Tensor) -> Tensor:
    """What decides each pair's draw among the patches of all ranks: float [B, R] in [0, 1).

    lot: [B, 3], this rank's: the pair's own number, and one for each of its patches. Their sum
    modulo one is uniform for every pair and patch, and the same however samples are ordered or
    dealt to ranks.
    """
    patches = gather_rows(lot[:, 1:].T.flatten())
    return (lot[:, :1] + patches[None, :]) % 1


def hard_negatives(scores: PairScores, count: int, hard_share: float, noise: Tensor) -> Tensor:
    """Which `count` violating negatives each pair is trained on: bool [B, R].

    All if there are no more than that. Else a share is drawn from the `count` hardest, and the
    others from the rest; places that the rest cannot fill go to the hardest. noise: float [B, R],
    by which draws are decided (the lowest win).
    """
    violating = scores.violating
    number = violating.sum(dim=1)
    hardness = scores.hardness.masked_fill(~violating, -1)
    place = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    top = violating & (place < count)
    from_rest = (number - count).clamp(0, count - round(hard_share * count))
    return draw(top, count - from_rest, noise) | draw(violating & ~top, from_rest, noise)


def draw(mask: Tensor, count: Tensor, noise: Tensor) -> Tensor:
    """The `count` entries of each row of a mask that drew the lowest: bool [B, R].

    All where the mask has fewer. count: int64 [B] or scalar; noise: float [B, R] in [0, 1).
    """
    place = noise.masked_fill(~mask, 2).argsort(dim=1).argsort(dim=1)
    return mask & (place < count.expand(len(mask))[:, None])


def _retrieval(first: Tensor, last: Tensor, rows: Tensor, negative: Tensor) -> dict[str, Tensor]:
    """How well the first patch of a track finds the last one.

    `ordering`: share of the patches of other videos that are farther than it, ties counting half.
    `retrieval_top1`: share of tracks where the nearest of all last patches in the batch, those of
    the same video among them, is the track's own; `retrieval_chance`: what guessing gives.
    """
    together = (first * last).sum(dim=1, keepdim=True)
    with torch.autocast(first.device.type, enabled=False):
        every = first @ rows.T
    ahead = together - every
    ordering = masked_mean(((ahead > TIE).float() + (ahead >= -TIE).float()) / 2, negative)
    # of each rank's patches, the last ones
    lasts = every.unflatten(1, (-1, 2, len(first)))[:, :, 1].flatten(1)
    similarity = lasts.scatter(1, own_rows(first)[:, None], -torch.inf)
    hit = together[:, 0] > similarity.amax(dim=1) + TIE
    chance = torch.tensor(1 / lasts.shape[1], device=first.device)
    return {
        "ordering": ordering,
        "retrieval_top1": hit.float().mean(),
        "retrieval_chance": chance,
    }


def _mean_of_all_ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Mean under the mask over all ranks, the same on each; 0 if there is nothing."""
    with torch.no_grad():
        total = torch.where(mask, values, torch.zeros_like(values)).sum()
        sums = gather_rows(torch.stack([total, mask.sum().to(total)])[None]).sum(dim=0)
        return sums[0] / sums[1].clamp_min(1)
