"""TCC: a frame's nearest neighbour in another video leads back to the frame.

    v~ = sum_j softmax_j(-|u_i - v_j|^2 / (D tau)) v_j,   beta = softmax_k(-|v~ - u_k|^2 / (D tau))
    mu = sum_k beta_k p_k,   s2 = sum_k beta_k (p_k - mu)^2
    L = (p_i - mu)^2 / s2 + lambda log s2     (classification: L = -log beta_i)

u and v are the embeddings of two videos, p places in the video from 0 to 1. See
docs/methods/tcc.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import SpreadSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.frame_stacks import as_stacks, check_stacks, last_of_stacks
from marey.models.method import Corpus, Method, register
from marey.models.objectives import losses
from marey.models.objectives.arithmetic import full_precision, masked_mean
from marey.models.objectives.distributed import gather_rows
from marey.models.objectives.info_nce import equal_pairs


class TCCConfig(MethodConfig):
    """Temporal cycle-consistency between videos of one process."""

    sampling: SpreadSampling = SpreadSampling()
    """How many frames of a video, and how they are spread over it."""
    loss: Literal["regression", "mse", "classification"] = "regression"
    """How a cycle is judged: by the place it ends at, in units of its own spread (regression) or
    plainly (mse), or as a choice among all frames (classification; section 3.2)."""
    similarity: Literal["l2", "cosine"] = "l2"
    """Negative squared distance over the embedding's width, or cosine."""
    temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of both softmaxes."""
    variance_weight: float = Field(default=0.001, ge=0, le=1)
    """Weight of the log variance in regression (lambda)."""
    variance_floor: float = Field(default=1e-6, gt=0, le=1)
    """Least variance of a cycle's end, in squared shares of the video."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the target spread over all frames in classification."""
    pairs: Literal["all", "other_events", "same_event"] = "all"
    """Which samples of a batch are compared: all, also two views of one event; those of different
    events; or views of one event only. A view is never compared with itself."""
    same_class: bool = False
    """Compare videos of one class only (as in the paper); needs data with labels."""
    tcn_weight: float = Field(default=0.0, ge=0, lt=1)
    """Share of a time-contrastive (n-pairs) term in the loss, 0.5 in the paper's combination;
    needs `sampling.positive_s`."""
    tcn_negative_s: float = Field(default=0.4, gt=0, le=3600)
    """Frames of the sample farther than this are negatives in that term."""
    l2: float = Field(default=0.002, ge=0, le=1)
    """Weight of the squared lengths in that term."""
    crops: Literal["shared", "each_frame"] = "shared"
    """One crop and mirror image for a sample, or for each of its frames (or stacks)."""
    augment: AugmentConfig = AugmentConfig(flip=0.5, jitter=1.0, brightness=0.125, contrast=0.5)
    """How frames are augmented."""

    @model_validator(mode="after")
    def _term(self) -> TCCConfig:
        near = self.sampling.positive_s
        if (self.tcn_weight > 0) != (near is not None):
            raise ValueError(
                "tcn_weight and sampling.positive_s belong together: set both, or neither "
                f"(got {self.tcn_weight} and {near})"
            )
        if near is not None and self.tcn_negative_s <= near:
            raise ValueError(
                f"tcn_negative_s ({self.tcn_negative_s}) must exceed sampling.positive_s ({near})"
            )
        return self


class Sequences(NamedTuple):
    """Where the S sequences of a batch come from; each int64 [S]."""

    instance: Tensor
    """The source video's synchronised event."""
    view: Tensor
    """The camera."""
    class_id: Tensor
    """The class, -1 where unknown."""


def sequence_pairs(keys: Sequences, pairs: str, same_class: bool) -> Tensor:
    """bool [S, S]: which ordered pairs are compared. A view of an event never meets itself."""
    event = equal_pairs(keys.instance)
    compared = ~(event & equal_pairs(keys.view))
    if pairs != "all":
        compared &= event if pairs == "same_event" else ~event
    if same_class:
        compared &= equal_pairs(keys.class_id) & (keys.class_id >= 0)[:, None]
    return compared


def cycle_logits(
    u: Tensor, v: Tensor, temperature: float, similarity: Literal["l2", "cosine"] = "l2"
) -> Tensor:
    """Where the cycle from each frame of `u` over its soft nearest neighbour in `v` ends.

    u: [..., N, D], v: [..., M, D], with the same leading dimensions or such that broadcast.
    Returns logits [..., N, N] over the frames of `u`, at least float32 (sections 3.1 and 3.2).
    """
    with torch.autocast(u.device.type, enabled=False):
        u, v = full_precision(u), full_precision(v)
        nearest = (_similarity(u, v, similarity) / temperature).softmax(dim=-1) @ v
        return _similarity(nearest, u, similarity) / temperature


def match_errors(
    sequences: Tensor, progress: Tensor, similarity: Literal["l2", "cosine"] = "l2"
) -> Tensor:
    """How far frames lie from their nearest neighbours in another sequence, in shares of a video:
    [S, S], for each pair of sequences the mean.

    sequences: [S, N, D]; progress: [S, N], place of each frame as a share of its video. A cycle
    closes as well when the other video's frames change their order; whether neighbours show the
    same moment, their distance tells.
    """
    there = _similarity(sequences[:, None], sequences[None], similarity).argmax(dim=3)
    other = progress[None].expand(len(progress), -1, -1).gather(2, there)
    return (other - progress[:, None]).abs().mean(dim=2)


def cycle_regression(
    logits: Tensor,
    progress: Tensor,
    *,
    variance_weight: float = 0.001,
    variance_floor: float = 1e-6,
    plain: bool = False,
) -> Tensor:
    """Squared error of the place where each cycle ends: [..., N] (section 3.2).

    logits: [..., N, N]; progress: [..., N], place of each frame as a share of its video. Unless
    `plain` the error is in units of the end's own variance, whose logarithm is added.
    """
    weights = logits.softmax(dim=-1)
    end = (weights * progress[..., None, :]).sum(dim=-1)
    error = (progress - end).square()
    if plain:
        return error
    spread = (progress[..., None, :] - end[..., None]).square()
    variance = (weights * spread).sum(dim=-1).clamp_min(variance_floor)
    return error / variance + variance_weight * variance.log()


def cycle_classification(logits: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Cross entropy of where each cycle ends against where it began: [..., N] (section 3.1)."""
    count = logits.shape[-1]
    target = torch.arange(count, device=logits.device).repeat(logits[..., 0, 0].numel())
    terms = functional.cross_entropy(
        logits.flatten(0, -2), target, reduction="none", label_smoothing=label_smoothing
    )
    return terms.view(logits.shape[:-1])


@register
class TCC(Method):
    """Temporal cycle-consistency learning.

    Batch: `frames` uint8 [B, F, H, W, 3] as of the `spread` sampler; `time_s` float32 [B, F];
    `view` int64 [B, F]; `progress` float32 [B, N]; `instance` int64 [B]; `class_id` int64 [B]
    with `same_class`.
    """

    name = "tcc"
    paper = (
        "Dwibedi, Aytar, Tompson, Sermanet, Zisserman, Temporal Cycle-Consistency Learning, "
        "CVPR 2019, arXiv 1904.07846"
    )
    Config = TCCConfig
    config: TCCConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: TCCConfig) -> None:
        super().__init__(encoder, config)
        sampling = config.sampling
        check_stacks(encoder.config, stack=sampling.stack, stack_s=sampling.stack_s)

    @property
    def chance(self) -> Mapping[str, float]:
        """Cycles that all end in the middle of the video (which is what embeddings without time
        give: each end is a mean over all frames), or anywhere; neighbours anywhere."""
        frames = self.config.sampling.num_frames
        return {"cycle_error": 1 / 4, "match_error": 1 / 3, "soft_cycle_accuracy": 1 / frames}

    def prepare(self, corpus: Corpus) -> None:
        """Raises SettingError when classes are to be kept apart and the data have none, or when
        there is one video: it has nothing to cycle over."""
        if corpus.places <= self.config.sampling.per_video:
            raise SettingError(
                "tcc compares videos of one process, and the data have one video: there is nothing "
                "to cycle over; `tcn_single` learns from a video alone"
            )
        if self.config.same_class and not corpus.classes:
            raise SettingError("method.same_class=true needs data with labels; these have none")

    def doubts(self, corpus: Corpus) -> tuple[str, ...]:
        """Videos of several kinds that are compared all the same."""
        if corpus.classes < 2 or self.config.same_class:
            return ()
        return (
            f"the labels name {corpus.classes} kinds of videos, and a cycle between two kinds has "
            "no right answer: `method.same_class=true` keeps them apart; for videos that have "
            "nothing in common take `tcn_single`",
        )

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], in place of `frames`."""
        shared = self.config.sampling.stack
        if self.config.crops == "shared":
            shared = batch["frames"].shape[1]
        images = self.images(batch["frames"], self.config.augment, shared=shared)
        return replace_frames(batch, images=images)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        stack, count = config.sampling.stack, config.sampling.num_frames
        embeddings = self.encoder(as_stacks(batch["images"], stack)).float()
        embeddings = gather_rows(embeddings.unflatten(0, (len(batch["instance"]), -1)))
        sequences, progress = embeddings[:, :count], gather_rows(batch["progress"])
        unknown = torch.full_like(batch["instance"], -1)
        keys = (batch["instance"], batch["view"][:, 0], batch.get("class_id", unknown))
        compared = sequence_pairs(
            Sequences(*(gather_rows(key) for key in keys)), config.pairs, config.same_class
        )
        logits = cycle_logits(
            sequences[:, None], sequences[None], config.temperature, config.similarity
        )
        loss = masked_mean(self._terms(logits, progress).mean(dim=-1), compared)
        if config.tcn_weight:
            times = gather_rows(last_of_stacks(batch["time_s"], stack))
            term = time_contrast(embeddings, times, config.tcn_negative_s, config.l2)
            loss = (1 - config.tcn_weight) * loss + config.tcn_weight * term
        with torch.no_grad():
            here = torch.arange(count, device=logits.device)
            soft = (logits.argmax(dim=-1) == here).float().mean(dim=-1)
            apart = match_errors(sequences, progress, config.similarity)
            error = cycle_regression(logits, progress[:, None], plain=True).sqrt().mean(dim=-1)
            return {
                "loss": loss,
                "cycle_error": masked_mean(error, compared),
                "match_error": masked_mean(apart, compared),
                "soft_cycle_accuracy": masked_mean(soft, compared),
                "embedding_std": sequences.flatten(0, 1).std(dim=0).mean(),
                "valid": compared.any(dim=1).float().mean(),
            }

    def _terms(self, logits: Tensor, progress: Tensor) -> Tensor:
        if self.config.loss == "classification":
            return cycle_classification(logits, self.config.label_smoothing)
        return cycle_regression(
            logits,
            progress[:, None],
            variance_weight=self.config.variance_weight,
            variance_floor=self.config.variance_floor,
            plain=self.config.loss == "mse",
        )


def time_contrast(embeddings: Tensor, time_s: Tensor, negative_s: float, l2: float) -> Tensor:
    """The n-pairs loss of TCN within each sample: scalar.

    embeddings: [S, 2N, D], N frames and then another one near each; time_s: [S, 2N].
    """
    anchors, positives = embeddings.chunk(2, dim=1)
    samples, count = anchors.shape[:2]
    sample = torch.arange(samples, device=time_s.device).repeat_interleave(count)
    first, second = (times.flatten() for times in time_s.chunk(2, dim=1))
    own = torch.eye(len(sample), dtype=torch.bool, device=sample.device)
    far = (first[:, None] - second[None, :]).abs() > negative_s
    negative = equal_pairs(sample) & far
    return losses.n_pairs(anchors.flatten(0, 1), positives.flatten(0, 1), own, negative, l2).loss


def _similarity(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """[..., N, D] and [..., M, D] -> [..., N, M]."""
    if kind == "cosine":
        return functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).transpose(-1, -2)
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    distance = (squares - 2 * a @ b.transpose(-1, -2)).clamp_min(0)
    return -distance / a.shape[-1]
