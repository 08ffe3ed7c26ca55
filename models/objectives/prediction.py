"""What is a prediction along a clip compared with, and how? (CPC, dense CPC)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_differences import thumbnails
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.frame_stacks import check_stacks
from marey.models.objectives.distributed import gather_rows, mean_over_ranks, own_rows
from marey.models.objectives.losses import full_precision

Kind = Literal["same_clip", "same_video", "other_videos"]
"""Negatives of the clip itself, of other clips of its video (or of another view of its event), and
of other videos."""
FORGIVEN_S = 1e-3
"""Times are rounded, and neighbours may lie exactly `apart_s` apart."""


class PredictionConfig(MethodConfig):
    """Prediction along clips of blocks of frames."""

    sampling: ClipsSampling
    """Clips to predict along."""
    block_frames: int = Field(default=1, ge=1, le=64)
    """Frames of one block: averaged after an encoder of images, seen at once by one of clips."""
    negatives: tuple[Kind, ...] = ("same_clip", "same_video", "other_videos")
    """What a prediction must tell the true block from: others of its clip, other clips of its
    video (also other views), other videos."""
    instance_s: float | None = Field(default=None, ge=0)
    """Blocks of one video nearer than this are too alike to repel; unset: one block."""
    similarity: Literal["dot", "cosine"] = "dot"
    """How predictions are compared: products as in the paper, or directions."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """What similarities are divided by; 0.07 to 0.1 suits cosines."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.5, 1.0), flip=0.5, jitter=0.8, brightness=0.3, contrast=0.3, saturation=0.3,
        grayscale=0.2,
    )  # fmt: skip
    """One crop and flip for a clip, colours for each frame, so that they do not tell what
    belongs together."""

    @model_validator(mode="after")
    def _divides(self) -> PredictionConfig:
        frames = self.sampling.num_frames
        if frames % self.block_frames:
            raise ValueError(
                f"sampling.num_frames ({frames}) must be a multiple of block_frames "
                f"({self.block_frames})"
            )
        if not self.negatives or len(set(self.negatives)) < len(self.negatives):
            raise ValueError(f"negatives must be different kinds, got {list(self.negatives)}")
        return self

    @property
    def blocks(self) -> int:
        """Blocks of a clip."""
        return self.sampling.num_frames // self.block_frames

    @property
    def block_s(self) -> float:
        """Time from one block to the next."""
        return self.block_frames * self.sampling.spacing_s

    @property
    def apart_s(self) -> float:
        """Least time between a block and one of its video that repels it."""
        return self.block_s if self.instance_s is None else self.instance_s

    def rivals(self, block: int, among: range) -> int:
        """How many blocks of `among` repel a block of their own clip (of one without copies)."""
        apart = [abs(other - block) * self.block_s for other in among if other != block]
        return sum(time_s >= self.apart_s - FORGIVEN_S for time_s in apart)


class Origins(NamedTuple):
    """Where each of R vectors comes from."""

    clip: Tensor
    """int64 [R], number of the clip among those of all ranks."""
    instance: Tensor
    """int64 [R], the source video."""
    time_s: Tensor
    """float32 [R], seconds."""
    block: Tensor
    """int64 [R], place in the clip."""
    cell: Tensor
    """int64 [R], place in the picture; 0 where a vector stands for the whole."""

    def gathered(self) -> Origins:
        """Those of every rank, in rank order."""
        return Origins(*(gather_rows(key) for key in self))


def check_blocks(encoder: Encoder, config: PredictionConfig) -> None:
    """Raises SettingError unless an encoder of clips sees exactly one block."""
    check_stacks(
        encoder.config, block_frames=config.block_frames, spacing_s=config.sampling.spacing_s
    )


def chance_level(config: PredictionConfig, guesses: Sequence[float]) -> dict[str, float]:
    """Metrics of predictions that say nothing: no information, and a guess within the clip.

    guesses: for each prediction along a clip, the share of right guesses among its own target and
    what repels it in its clip.
    """
    level = {"information": 0.0}
    if "same_clip" in config.negatives:
        level["clip_top1"] = sum(guesses) / len(guesses)
    return level


def block_inputs(
    images: Callable[..., Tensor], frames: Tensor, config: PredictionConfig
) -> dict[str, Tensor]:
    """What a network and its objective get: `images`, float32 [B, F, 3, S, S], and `twins`, bool
    [B, clips, blocks, blocks].

    images: the method's `images`; frames: uint8 [B, F, H, W, 3], clip after clip.
    """
    return {
        "images": images(frames, config.augment, shared=config.sampling.num_frames),
        "twins": twin_blocks(frames, config),
    }


def block_origins(batch: Batch, config: PredictionConfig) -> Origins:
    """Where this rank's blocks come from, [B clips blocks]; the time is that of the last frame.

    batch: `time_s` [B, F], clip after clip, and `instance` [B].
    """
    clips = config.sampling.clips
    time_s = batch["time_s"].unflatten(1, (clips, -1, config.block_frames))[..., -1].flatten(0, 1)
    count, blocks = time_s.shape
    clip = own_rows(time_s)
    block = torch.arange(blocks, device=time_s.device).repeat(count)
    return Origins(
        clip=clip.repeat_interleave(blocks),
        instance=batch["instance"].repeat_interleave(clips * blocks),
        time_s=time_s.flatten(),
        block=block,
        cell=torch.zeros_like(block),
    )


def negative_masks(
    rows: Origins, columns: Origins, kinds: Sequence[Kind], apart_s: float, twins: Tensor
) -> dict[str, Tensor]:
    """Kind -> which columns repel each row, bool [R, C]; the masks do not overlap.

    rows: what is predicted; columns: the candidates. Never among them: the predicted vector itself,
    and what shows the same: frames of the same video nearer than `apart_s` (other cells of the very
    same block do repel), and blocks of the clip that `twins`, bool [clips, T, T], calls alike.
    """
    clip = rows.clip[:, None] == columns.clip
    video = rows.instance[:, None] == columns.instance
    block = clip & (rows.block[:, None] == columns.block)
    twin = clip & twins[rows.clip[:, None], rows.block[:, None], columns.block]
    near = video & ((rows.time_s[:, None] - columns.time_s).abs() < apart_s - FORGIVEN_S)
    itself = block & (rows.cell[:, None] == columns.cell)
    seen = ~block & (near | twin) | itself
    found = {"same_clip": clip, "same_video": video & ~clip, "other_videos": ~video}
    return {kind: found[kind] & ~seen for kind in kinds}


def negatives_of(
    batch: Batch, rows: Origins, own: Origins, config: PredictionConfig
) -> dict[str, Tensor]:
    """`negative_masks` of this rank's predictions among the candidates of all ranks.

    batch: `twins` of `block_inputs`; rows: where what is predicted comes from; own: where this
    rank's candidates do.
    """
    twins = gather_rows(batch["twins"].flatten(0, 1))
    return negative_masks(rows, own.gathered(), config.negatives, config.apart_s, twins)


def contrast(
    predicted: Tensor,
    candidates: Tensor,
    own: Tensor,
    negatives: Mapping[str, Tensor],
    wanted: Tensor | None = None,
) -> dict[str, Tensor]:
    """InfoNCE of predictions, with what one wants to watch beside it; scalars.

    predicted: [R, D], already divided by the temperature; candidates: [C, D]; own: int64 [R], each
    row's column; negatives: as of `negative_masks`; wanted: bool [R], rows that count (all, if they
    have a negative). Returns `loss` (with gradient, this rank's
    share of the mean over ranks), `top1`, `clip_top1` (among those of the own clip only),
    `information` (log of the candidates minus the loss, in nats: a lower bound), `valid`, and for
    each kind `share_KIND` of the negatives.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        logits = full_precision(predicted) @ full_precision(candidates).T
    negative = torch.zeros_like(logits, dtype=torch.bool)
    for mask in negatives.values():
        negative |= mask
    target = functional.one_hot(own, len(candidates)).bool()
    # A finite floor: a gradient through -inf is NaN.
    kept = torch.where(target | negative, logits, torch.full_like(logits, -1e30))
    terms = kept.logsumexp(dim=1) - logits.gather(1, own[:, None])[:, 0]
    counted = negative.any(dim=1)
    if wanted is not None:
        counted &= wanted
    loss = mean_over_ranks(terms, counted)
    with torch.no_grad():
        candidates_log = torch.log1p(negative.sum(dim=1).float())
        total = mean_over_ranks(negative.sum(dim=1).float(), counted)
        metrics = {
            "loss": loss,
            "top1": mean_over_ranks(_wins(logits, own, negative), counted),
            "information": mean_over_ranks(candidates_log, counted) - loss.detach(),
            "valid": counted.float().mean(),
        }
        for kind, mask in negatives.items():
            part = mean_over_ranks(mask.sum(dim=1).float(), counted)
            metrics[f"share_{kind}"] = part / total.clamp_min(1e-9)
        if "same_clip" in negatives:
            clip = negatives["same_clip"]
            metrics["clip_top1"] = mean_over_ranks(_wins(logits, own, clip), counted & clip.any(1))
    return metrics


@torch.no_grad()
def twin_blocks(frames: Tensor, config: PredictionConfig, least: float = 0.5) -> Tensor:
    """bool [B, clips, blocks, blocks]: blocks of a clip whose last frames are copies.

    Copies differ by less than `least` of 255 on average: frozen streams and variable frame rates
    make them. frames: uint8 [B, F, H, W, 3], clip after clip.
    """
    last = frames.unflatten(1, (config.sampling.clips, -1, config.block_frames))[:, :, :, -1]
    small = thumbnails(last)
    return torch.cdist(small, small, p=1) / small.shape[-1] < least


def _wins(logits: Tensor, own: Tensor, negative: Tensor) -> Tensor:
    best = torch.where(negative, logits, torch.full_like(logits, -torch.inf)).amax(dim=1)
    return (logits.gather(1, own[:, None])[:, 0] > best).float()
