"""SimCLR over clips (rho-SimCLR, CVRL): the other clips of a video are a clip's positives.

    L = - mean over (i, j) of log  exp(z_i z_j / tau) / ( exp(z_i z_j / tau) + sum over k of
        exp(z_i z_k / tau) )

over ordered pairs (i, j) of the rho clips of a video; k runs over the clips of the other videos of
the batch. See docs/methods/clip_pairs.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import register
from marey.models.objectives.distributed import gather_rows, own_rows
from marey.models.objectives.info_nce import (
    FrameIds,
    NearDuplicates,
    info_nce,
    negative_mask,
    similarity,
)
from marey.models.temporal.clip_pairs import ClipInstancesConfig, ClipPairs


class ClipSimCLRConfig(ClipInstancesConfig):
    """InfoNCE between the clips of a batch."""


@register
class ClipSimCLR(ClipPairs):
    """rho-SimCLR; what is exported is the representation before the projector."""

    name = "clip_simclr"
    paper = (
        "Feichtenhofer, Fan, Xiong, Girshick, He, A Large-Scale Study on Unsupervised "
        "Spatiotemporal Representation Learning, CVPR 2021, arXiv 2104.14558 (and CVRL: Qian et "
        "al., CVPR 2021, arXiv 2008.03800)"
    )
    Config = ClipSimCLRConfig
    config: ClipSimCLRConfig

    def __init__(self, encoder: Encoder, config: ClipSimCLRConfig) -> None:
        super().__init__(encoder, config)
        self.projector = mlp(encoder.out_dim, config.head_dim, config.projection_dim, norm=True)

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """As `ClipPairs.augment`, and `dhash`, int64 [B, rho], of first frames."""
        return super().augment(batch) | {"dhash": self.first_hashes(batch)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        projected = self.projector(self.encoder(self.rows(batch)))
        z = functional.normalize(projected.float())
        sample = own_rows(batch["instance"]).repeat(config.sampling.clips)
        positive, negative = clip_masks(sample, self.clip_ids(batch), config.alike)
        scores = similarity(z, gather_rows(z), config.temperature)
        terms = info_nce(scores, positive, negative, config.min_negatives)
        return {
            "loss": terms.mean(),
            "valid": terms.counted.float().mean(),
            **self.monitors(projected, batch),
        }


def clip_masks(
    sample: Tensor, clips: FrameIds, near_duplicates: NearDuplicates
) -> tuple[Tensor, Tensor]:
    """(positive, negative), bool [R, W R], of this rank's clips among those of all ranks.

    sample: int64 [R], each row's sample in the whole batch; clips: where it comes from. The other
    clips of the sample are positives; clips that are no near-duplicates are negatives.
    """
    columns = gather_rows(sample)
    same = sample[:, None] == columns
    itself = own_rows(sample)[:, None] == torch.arange(len(columns), device=sample.device)
    negative = negative_mask(clips, clips.gathered(), near_duplicates)
    return same & ~itself, ~same & negative
