"""ST-DIM: which frame came just before, by the whole of it and place by place?

    L = mean over places p of
          -log  exp(x_t W_g y_p) / sum over n of exp(x_t W_g y_n,p)
        + -log  exp(x_t,p W_l y_p) / sum over n of exp(x_t,p W_l y_n,p)

x_t is the embedding of a frame, x_t,p place p of its local map, y that of the frame before; n runs
over the batch. See docs/methods/st_dim.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.dense_heads import image_trunk
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import gather_rows, mean_over_ranks, own_rows
from marey.models.objectives.info_nce import Terms, info_nce


class STDIMConfig(MethodConfig):
    """Spatio-temporal Deep InfoMax."""

    sampling: ClipsSampling = ClipsSampling(num_frames=2, spacing_s=1 / 15)
    """Pairs of neighbouring frames (steps of an agent: four frames of the console, section 4)."""
    reduction: int = Field(default=16, ge=1, le=64)
    """Which map of the trunk is the local one: that whose places stand for so many pixels."""
    negatives: Literal["all", "same_video"] = "all"
    """Which frames of the batch are negatives: all (as in the paper, where all are of one game), or
    those of the same video alone, where what tells videos apart is not what is to be learned."""
    near_s: float = Field(default=0.0, ge=0, le=3600)
    """Frames of one video no farther apart than this are no negatives of each other; 0: only the
    very same one (released code: all of the batch are negatives)."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """What products are divided by (released code: nothing)."""
    augment: AugmentConfig = AugmentConfig()
    """One crop for both frames (released code: none)."""

    @model_validator(mode="after")
    def _pairs(self) -> STDIMConfig:
        if self.sampling.num_frames != 2:
            raise ValueError(
                f"a sample is a frame and the one before it: sampling.num_frames must be 2, got "
                f"{self.sampling.num_frames}"
            )
        return self


class _Rows(NamedTuple):
    """Where each frame of a row of pairs comes from; [R] each."""

    instance: Tensor
    view: Tensor
    time_s: Tensor


@register
class STDIM(Method):
    """InfoNCE of neighbouring frames: of the embedding with each place, and of each place.

    Batch: `frames` uint8 [B, 2 clips, H, W, 3], pairs in the order of time; `time_s` float32 and
    `view` int64 [B, 2 clips]; `instance` int64 [B].
    """

    name = "st_dim"
    paper = (
        "Anand, Racah, Ozair, Bengio, Côté, Hjelm, Unsupervised State Representation Learning in "
        "Atari, NeurIPS 2019, arXiv 1906.08226"
    )
    Config = STDIMConfig
    config: STDIMConfig

    def __init__(self, encoder: Encoder, config: STDIMConfig) -> None:
        super().__init__(encoder, config)
        levels = image_trunk(encoder).levels
        finer = [level.reduction for level in levels[:-1]]
        if config.reduction not in finer:
            shown = ", ".join(map(str, finer)) or "none: it has a single map"
            raise SettingError(
                f"st_dim: method.reduction={config.reduction}, but the maps of backbone "
                f"{encoder.config.backbone!r} below its last one have reductions {shown}"
            )
        self.level = finer.index(config.reduction)
        channels = levels[self.level].channels
        self.of_frame = nn.Linear(encoder.out_dim, channels)
        self.of_place = nn.Linear(channels, channels)

    @property
    def chance(self) -> Mapping[str, float]:
        """Frames that say nothing of the one before: no information, and the own one outscores
        another of its video as often as not."""
        return {"time_auc": 0.5, "information": 0.0, "place_information": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 2 clips, 3, S, S], in place of `frames`."""
        images = self.images(batch["frames"], self.config.augment, shared=2)
        return replace_frames(batch, images=images)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pairs = batch["images"].flatten(0, 1).unflatten(0, (-1, 2))
        before, now = pairs.unbind(dim=1)
        trunk = image_trunk(self.encoder)
        maps = trunk.pyramid(now)
        candidates = _places(trunk.pyramid(before)[self.level])
        rows = _Rows(
            batch["instance"].repeat_interleave(self.config.sampling.clips),
            *(batch[name].flatten().unflatten(0, (-1, 2))[:, 1] for name in ("view", "time_s")),
        )
        every = _Rows(*(gather_rows(key) for key in rows))
        together = rows.instance[:, None] == every.instance
        apart = (rows.time_s[:, None] - every.time_s).abs()
        near = together & (rows.view[:, None] == every.view) & (apart <= self.config.near_s + 1e-4)

        negative = together & ~near if self.config.negatives == "same_video" else ~near

        frame = self.of_frame(self.encoder.embed(maps[-1]))
        place = self.of_place(_places(maps[self.level]))
        queries = (frame[:, None].expand_as(place), place)
        scores = [place_scores(one, candidates, self.config.temperature) for one in queries]
        of_frame, of_place = (contrast_places(one, negative) for one in scores)
        return {
            "loss": of_frame.mean() + of_place.mean(),
            "time_auc": _own_wins(scores[0].detach().mean(dim=0), together & ~near),
            "information": mean_over_ranks(of_frame.information, of_frame.counted),
            "place_information": mean_over_ranks(of_place.information, of_place.counted),
            "top1": mean_over_ranks(of_frame.hit.float(), of_frame.counted),
            "place_top1": mean_over_ranks(of_place.hit.float(), of_place.counted),
            "embedding_std": frame.detach().float().std(dim=0).mean(),
        }


def _places(features: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, h w, C]."""
    return features.flatten(2).transpose(1, 2)


def place_scores(queries: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Products of this rank's queries with the same place of all ranks' maps: float32 [P, R, C].

    queries, candidates: [R, P, D], of this rank.
    """
    with torch.autocast(queries.device.type, enabled=False):
        own, known = full_precision(queries), gather_rows(full_precision(candidates))
        return torch.einsum("rpd,cpd->prc", own, known) / temperature


def contrast_places(scores: Tensor, negative: Tensor) -> Terms:
    """InfoNCE at every place: terms of R P queries, place after place.

    scores: [P, R, C], of which the candidate of the row's own number is the positive; negative:
    bool [R, C], without it.
    """
    places = len(scores)
    own = own_rows(scores[0]).repeat(places)
    return info_nce(scores.flatten(0, 1), own, negative.repeat(places, 1))


def _own_wins(scores: Tensor, rival: Tensor) -> Tensor:
    """How often the own candidate outscores a rival, ties half. scores, rival: [R, C]."""
    own = scores.gather(1, own_rows(scores)[:, None])
    won = (own > scores).float() + 0.5 * (own == scores).float()
    return mean_over_ranks(won, rival)
