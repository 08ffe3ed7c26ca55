"""TCN: frames of one instant are positives, other instants of the same sequence negatives.

    triplet   L = max(0, |z_a - z_p|^2 - |z_a - z_n|^2 + margin),   n: the semi-hard negative
    infonce   L = -log  exp(z_a z_p / tau) / ( exp(z_a z_p / tau) + sum_n exp(z_a z_n / tau) )
    npairs    infonce of free embeddings, tau = 1, and an L2 term
    lifted    L = max(0, |z_a - z_p| + log sum over n in N_a, N_p of exp(margin - |z - z_n|))^2 / 2

Anchor a and positive p show one instant from two cameras, or two near times of one camera. See
docs/methods/tcn.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import ByKind, TimePairsSampling, ViewPairsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.frame_stacks import as_stacks, check_stacks, last_of_stacks
from marey.models.method import Method, register
from marey.models.objectives import losses
from marey.models.objectives.arithmetic import squared_distances
from marey.models.objectives.distributed import gather_rows, own_rows
from marey.models.objectives.info_nce import equal_pairs, info_nce, similarity


class TCNConfig(MethodConfig):
    """Time-contrastive networks, multi-view (`view_pairs`) or single-view (`time_pairs`)."""

    sampling: Annotated[ViewPairsSampling | TimePairsSampling, ByKind()] = ViewPairsSampling()
    """Where anchors and positives come from."""
    loss: Literal["triplet", "npairs", "lifted", "infonce"] = "triplet"
    """Objective: triplet and infonce need unit embeddings, npairs and lifted free ones."""
    triplet_margin: float = Field(default=0.2, gt=0, le=4)
    """Margin between squared distances (section 3)."""
    lifted_margin: float = Field(default=1.0, gt=0, le=100)
    """Margin of the lifted structured loss, between distances."""
    l2: float = Field(default=0.002, ge=0, le=1)
    """Weight of the squared lengths in the n-pairs loss."""
    temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of infonce."""
    candidates: Literal["other_side", "all"] = "other_side"
    """infonce and npairs: an anchor looks among positives and a positive among anchors (of the
    other view, for pairs of one ordered pair of views), or both among all frames."""
    other_samples: bool = False
    """Frames of other samples of the batch are negatives too; else only those of the sample."""
    same_s: float = Field(default=0.02, ge=0, le=10)
    """Multi-view: frames of one event closer than this show one instant and are never negatives
    (nor are stacks that share frames)."""
    augment: AugmentConfig = AugmentConfig(zoom=1.0, jitter=1.0, brightness=0.125, saturation=0.5)
    """Augmented for each frame (or stack) alone, every one of them zoomed, half in and half out
    (released code); no flip, since left and right are part of the state."""


class FrameKeys(NamedTuple):
    """What decides which rows are positives and negatives; each [R], one entry per frame."""

    sample: Tensor
    """int64, number of the sample in the whole batch."""
    pair: Tensor
    """int64, number of the anchor/positive pair in the whole batch."""
    side: Tensor
    """int64, 0 for anchors and 1 for positives."""
    instance: Tensor
    """int64, the source video (single-view) or synchronised event (multi-view)."""
    view: Tensor
    """int64, the camera."""
    time_s: Tensor
    """float32, presentation time in seconds."""


def view_pair_masks(
    keys: FrameKeys, same_s: float, other_samples: bool, look_back_s: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(positive, negative), bool [R, R]: the other frame of the pair, and every other instant.

    look_back_s: the length of a stack; stacks whose ends are no farther apart than that share
    frames or lie side by side, and are no negatives.
    """
    paired = equal_pairs(keys.pair)
    positive = paired & ~_itself(keys.pair)
    apart = _apart(keys.time_s)
    elsewhere = ~equal_pairs(keys.instance) | (apart > max(same_s, look_back_s))
    within = equal_pairs(keys.sample) & (apart > look_back_s if look_back_s else True)
    negative = ~paired & (within | (elsewhere & other_samples))
    return positive, negative


def time_pair_masks(
    keys: FrameKeys, positive_s: float, negative_s: float, other_samples: bool
) -> tuple[Tensor, Tensor]:
    """(positive, negative), bool [R, R]: near times of one view, and far ones.

    The band between `positive_s` and `negative_s`, a second copy of the same frame, and other
    views of the same instance are in neither.
    """
    visible = equal_pairs(keys.sample) | other_samples
    together = equal_pairs(keys.instance) & equal_pairs(keys.view)
    apart = _apart(keys.time_s)
    paired = equal_pairs(keys.pair) & ~_itself(keys.pair)
    positive = paired | (visible & together & (apart > 0) & (apart <= positive_s))
    negative = visible & ((together & (apart > negative_s)) | ~equal_pairs(keys.instance))
    return positive, negative & ~paired


@register
class TCN(Method):
    """Time-contrastive network; with stacks of frames and an encoder of clips, its multi-frame
    extension (Dwibedi, Tompson, Lynch, Sermanet, Learning Actionable Representations from Visual
    Observations, IROS 2018, arXiv 1808.00928).

    Batch: `frames` uint8 [B, F, H, W, 3], first N anchors, then their N positives in the same
    order, each a stack of F / 2N frames (1, if not set otherwise); `time_s` float32 [B, F]; `view`
    int64 [B, F]; `instance` int64 [B].
    """

    name = "tcn"
    paper = (
        "Sermanet et al., Time-Contrastive Networks: Self-Supervised Learning from Video, "
        "ICRA 2018, arXiv 1704.06888"
    )
    Config = TCNConfig
    config: TCNConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: TCNConfig) -> None:
        super().__init__(encoder, config)
        sampling = config.sampling
        check_stacks(encoder.config, stack=sampling.stack, stack_s=sampling.stack_s)
        if sampling.pairs < 2:
            raise SettingError(
                "method.sampling.pairs must be at least 2: negatives are other times"
            )
        unit = config.loss in ("triplet", "infonce")
        if encoder.config.unit_norm != unit:
            raise SettingError(
                f"method.loss={config.loss} needs encoder.unit_norm={str(unit).lower()}, "
                f"got {str(encoder.config.unit_norm).lower()}"
            )

    @property
    def chance(self) -> Mapping[str, float]:
        """A tie for `ordering`. Multi-view, where no time of a sample is left out: one in N for the
        anchor's own positive among the N of its sample."""
        sampling = self.config.sampling
        top1 = {"retrieval_top1": 1 / sampling.pairs} if sampling.kind == "view_pairs" else {}
        return top1 | {"ordering": 0.5}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], in place of `frames`."""
        stack = self.config.sampling.stack
        images = self.images(batch["frames"], self.config.augment, shared=stack)
        return replace_frames(batch, images=images)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        sampling = self.config.sampling
        keys = frame_keys(batch, sampling.stack)
        embeddings = self.encoder(as_stacks(batch["images"], sampling.stack))
        embeddings = gather_rows(embeddings.float())
        keys = FrameKeys(*(gather_rows(key) for key in keys))
        if isinstance(sampling, ViewPairsSampling):
            masks = view_pair_masks(
                keys, self.config.same_s, self.config.other_samples, sampling.look_back_s
            )
        else:
            masks = time_pair_masks(
                keys, sampling.positive_s, sampling.negative_s, self.config.other_samples
            )
        objective = self._objective(embeddings, *masks, other_side=~equal_pairs(keys.side))
        metrics = {
            "loss": objective.loss,
            **_retrieval(embeddings.detach(), keys, masks[1]),
            "embedding_std": embeddings.detach().std(dim=0).mean(),
            "valid": objective.valid,
        }
        if self.config.loss in ("triplet", "lifted"):
            metrics["active"] = objective.score
        return metrics

    def _objective(
        self, embeddings: Tensor, positive: Tensor, negative: Tensor, other_side: Tensor
    ) -> losses.Objective:
        config = self.config
        if config.loss in ("npairs", "infonce") and config.candidates == "other_side":
            positive, negative = positive & other_side, negative & other_side
        if config.loss == "triplet":
            return losses.semi_hard_triplet(embeddings, positive, negative, config.triplet_margin)
        if config.loss == "lifted":
            return losses.lifted_structure(embeddings, positive, negative, config.lifted_margin)
        if config.loss == "npairs":
            return losses.n_pairs(embeddings, embeddings, positive, negative, config.l2)
        scores = similarity(embeddings, embeddings, config.temperature)
        return losses.Objective.mean(info_nce(scores, positive, negative), positive)


def frame_keys(batch: Batch, stack: int = 1) -> FrameKeys:
    """The keys of this rank's rows, numbered over all ranks; a stack is a row, at its last time."""
    time_s, view = (last_of_stacks(batch[name], stack) for name in ("time_s", "view"))
    instance = batch["instance"]
    samples, rows = time_s.shape
    sample = own_rows(time_s)
    place = torch.arange(rows, device=time_s.device).repeat(samples)
    pair = place % (rows // 2)
    return FrameKeys(
        sample=sample.repeat_interleave(rows),
        pair=sample.repeat_interleave(rows) * (rows // 2) + pair,
        side=place // (rows // 2),
        instance=instance.repeat_interleave(rows),
        view=view.flatten(),
        time_s=time_s.flatten(),
    )


def _retrieval(embeddings: Tensor, keys: FrameKeys, negative: Tensor) -> dict[str, Tensor]:
    """How each frame finds its pair among the negatives on the pair's side of its sample.

    An anchor looks among the positives of its sample, a positive among the anchors; frames without
    any negative there do not count. `retrieval_top1`: share of frames whose pair is nearer than all
    of them; `ordering`: share of them that are farther than the pair, ties half.
    """
    distance = squared_distances(embeddings, embeddings)
    positive = equal_pairs(keys.pair) & ~_itself(keys.pair)
    candidates = negative & equal_pairs(keys.sample) & ~equal_pairs(keys.side)
    own = torch.where(positive, distance, torch.inf).amin(dim=1, keepdim=True)
    won = (own < distance).float() + 0.5 * (own == distance).float()
    rivals = candidates.sum(dim=1)
    farther = torch.where(candidates, won, 0.0).sum(dim=1) / rivals.clamp_min(1)
    first = (own < distance) | ~candidates
    counted = rivals > 0
    count = counted.sum().clamp_min(1)
    return {
        "retrieval_top1": (first.all(dim=1) & counted).sum() / count,
        "ordering": torch.where(counted, farther, 0.0).sum() / count,
    }


def _apart(time_s: Tensor) -> Tensor:
    return (time_s[:, None] - time_s[None, :]).abs()


def _itself(key: Tensor) -> Tensor:
    return torch.eye(len(key), dtype=torch.bool, device=key.device)
