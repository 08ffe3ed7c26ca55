"""Contrastive prediction along a clip: what are the positives and negatives of a prediction?

Shared by CPC and dense CPC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_differences import thumbnails
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.frame_stacks import check_stacks
from marey.models.objectives.distributed import gather_rows, mean_over_ranks, own_rows
from marey.models.objectives.info_nce import info_nce, similarity, summary

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
    """Negatives of a prediction: other blocks of its clip, other clips of its video (also other
    views), other videos."""
    instance_s: float | None = Field(default=None, ge=0)
    """Blocks of one video nearer in time than this are no negatives of each other; unset: one
    block."""
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
        """Least time between a block and a negative of its own video."""
        return self.block_s if self.instance_s is None else self.instance_s

    def negatives_in_clip(self, block: int, among: range) -> int:
        """How many blocks of `among` are negatives of a block of their clip (without copies)."""
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

    guesses: for each prediction along a clip, the share of right guesses among its positive and
    its negatives in the clip.
    """
    if "same_clip" not in config.negatives:
        return {"information": 0.0}
    # first what needs a notion of time: the rest can be had by telling videos and places apart
    return {
        "time_information": 0.0,
        "clip_top1": sum(guesses) / len(guesses),
        "information": 0.0,
    }


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
    """Kind -> the negatives of each row, bool [R, C]; the masks do not overlap.

    rows: what is predicted; columns: the candidates. Never negatives: the predicted vector itself,
    and what shows the same: frames of the same video nearer than `apart_s` (other cells of the very
    same block are negatives), and copies among the clip's blocks by `twins`, bool [clips, T, T].
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


def contrast_predictions(
    predicted: Tensor,
    candidates: Tensor,
    positive: Tensor,
    negatives: Mapping[str, Tensor],
    temperature: float = 1.0,
    wanted: Tensor | None = None,
    same_cell: Tensor | None = None,
) -> dict[str, Tensor]:
    """InfoNCE of predictions, with what one wants to watch beside it; scalars.

        L = -log  exp(z^ z+ / tau) / ( exp(z^ z+ / tau) + sum over negatives of exp(z^ z / tau) )

    predicted: [R, D]; candidates: [C, D]; positive: int64 [R], the column of what is predicted;
    negatives: as of `negative_masks`; wanted: bool [R], rows that count (all, if they have a
    negative); same_cell: bool [R, C], candidates of the row's own place in the picture (all, where
    a vector stands for the whole picture). Returns `loss` (with gradient, this rank's share of the
    mean over ranks), `top1`, `clip_top1` (among those of the own clip only), `information` (log of
    the candidates minus the loss, in nats: a lower bound), `valid`, and for each kind `share_KIND`
    of the negatives.

    Most of `information` needs no notion of time: it comes from telling videos and places apart.
    With negatives of the own clip therefore also `time_information`, in nats, of the prediction
    among the blocks of its clip and place, which differ in time alone (chance: 0); and
    `timeless_information`, what `information` would be for a predictor that finds clip and place
    and guesses the block.
    """
    scores = similarity(predicted, candidates, temperature)
    negative = torch.zeros_like(scores, dtype=torch.bool)
    for mask in negatives.values():
        negative |= mask
    terms = info_nce(scores, positive, negative)
    if wanted is not None:
        terms = terms._replace(counted=terms.counted & wanted)
    metrics = summary(terms)
    with torch.no_grad():
        total = mean_over_ranks(negative.sum(dim=1).float(), terms.counted)
        for kind, mask in negatives.items():
            part = mean_over_ranks(mask.sum(dim=1).float(), terms.counted)
            metrics[f"share_{kind}"] = part / total.clamp_min(1e-9)
        if "same_clip" in negatives:
            clip = info_nce(scores.detach(), positive, negatives["same_clip"])
            counted = terms.counted & clip.counted
            metrics["clip_top1"] = mean_over_ranks(clip.hit.float(), counted)
            in_time = negatives["same_clip"]
            if same_cell is not None:
                in_time = in_time & same_cell
            time = info_nce(scores.detach(), positive, in_time)
            counted = terms.counted & time.counted
            metrics["time_information"] = mean_over_ranks(time.information, counted)
            timeless = _log_candidates(negative) - _log_candidates(in_time)
            metrics["timeless_information"] = mean_over_ranks(timeless, terms.counted)
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


def _log_candidates(negative: Tensor) -> Tensor:
    return torch.log1p(negative.sum(dim=1).float())
