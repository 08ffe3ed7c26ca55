"""MoCo over clips (rho-MoCo): a clip finds the keys of its video's other clips beside a queue.

    L = - mean over (i, j) of log  exp(q_i k_j / tau) / ( exp(q_i k_j / tau) + sum over k in Q of
        exp(q_i k / tau) )

over ordered pairs (i, j) of the rho clips of a video; q are the encoder's projections, k those of
the momentum encoder; the queue Q holds keys of earlier batches. See docs/methods/clip_pairs.md.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.encoders.momentum import MomentumCopy
from marey.models.encoders.norms import in_groups
from marey.models.method import Progress, register
from marey.models.objectives.distributed import shuffle_rows, unshuffle_rows
from marey.models.objectives.info_nce import against_queue, summary
from marey.models.objectives.memory import Queue
from marey.models.temporal.clip_pairs import ClipInstancesConfig, ClipPairs


class ClipMoCoConfig(ClipInstancesConfig):
    """InfoNCE of clips against a queue of a momentum encoder's keys."""

    momentum: float = Field(default=0.994, ge=0, le=1)
    """Share of its weights that the momentum encoder keeps in a step."""
    queue: int = Field(default=65_536, ge=1, le=10_000_000)
    """Keys that are held."""
    norm_groups: int = Field(default=1, ge=1, le=64)
    """Parts of a process's batch with batch statistics of their own, keys dealt to them at
    random, or the statistics tell a query its key (MoCo, section 3.3); as on so many GPUs."""


@register
class ClipMoCo(ClipPairs):
    """rho-MoCo; what is exported is the query encoder, before the projector."""

    name = "clip_moco"
    paper = (
        "Feichtenhofer, Fan, Xiong, Girshick, He, A Large-Scale Study on Unsupervised "
        "Spatiotemporal Representation Learning, CVPR 2021, arXiv 2104.14558"
    )
    Config = ClipMoCoConfig
    config: ClipMoCoConfig

    def __init__(self, encoder: Encoder, config: ClipMoCoConfig) -> None:
        super().__init__(encoder, config)
        # keys are normalised in other company than queries only without batch norm here
        self.projector = mlp(encoder.out_dim, config.head_dim, config.projection_dim, norm=False)
        self.target = MomentumCopy(encoder, self.projector)
        self.queue = Queue(config.queue, config.projection_dim)

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """As `ClipPairs.augment`, and `dhash`, int64 [B, rho], of first frames, and `draws`,
        float32 [B, rho], by which keys are shuffled."""
        draws = torch.rand(len(batch["frames"]), self.rho)
        draws = draws.to(batch["frames"].device, non_blocking=True)
        return super().augment(batch) | {"dhash": self.first_hashes(batch), "draws": draws}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config, clips = self.config, self.rows(batch)
        network = nn.Sequential(self.encoder, self.projector)
        projected = in_groups(network, clips, config.norm_groups)
        queries = functional.normalize(projected.float())
        keys = self._keys(clips, batch["draws"].T.flatten())
        ids = self.clip_ids(batch)
        negative = self.queue.negatives(ids, config.alike)
        terms = [
            against_queue(
                queries, other, self.queue.rows, negative, config.temperature, config.min_negatives
            )
            for other in self.others(keys)
        ]
        self.queue.hold(keys, ids)
        metrics = summary(*terms)
        loss = metrics["loss"] / len(terms)
        return {**metrics, "loss": loss, **self.monitors(projected, batch)}

    @torch.no_grad()
    def _keys(self, clips: Tensor, draws: Tensor) -> Tensor:
        """The momentum encoder's unit keys, [rho B, D], normalised in shuffled company."""
        mixed, order = shuffle_rows(clips, draws)
        keys = in_groups(self.target, mixed, self.config.norm_groups).float()
        return functional.normalize(unshuffle_rows(keys, order))

    def after_step(self, progress: Progress) -> None:
        """The momentum encoder follows; keys of the step join the queue."""
        self.target.update(self.encoder, self.projector, keep=self.config.momentum)
        self.queue.write()
