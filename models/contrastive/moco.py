"""MoCo, versions 1 and 2: contrast of a query with its key and a queue of earlier keys.

    L = -log  exp(q k+ / tau) / ( exp(q k+ / tau) + sum over k in queue of exp(q k / tau) )
    f_k <- m f_k + (1 - m) f_q

q is a crop's unit query, k+ the momentum encoder's key of the other crop of the image. See
docs/methods/moco.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import INSTDISC
from marey.models.augmentation.multi_crop import TwoCrops, two_crops
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.encoders.momentum import MomentumCopy
from marey.models.encoders.norms import in_groups
from marey.models.method import Method, Progress, register
from marey.models.objectives.distributed import shuffle_rows, unshuffle_rows
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import NearDuplicates, against_queue, frame_ids, summary
from marey.models.objectives.memory import NOBODY, Queue
from marey.models.objectives.monitors import spread


class MoCoConfig(MethodConfig):
    """Momentum contrast, versions 1 and 2."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are contrasted."""
    head: Literal["linear", "mlp"] = "linear"
    """Projector of one layer (version 1) or two (version 2)."""
    head_dim: int | None = Field(default=None, ge=1, le=16_384)
    """Width of the mlp's hidden layer; unset: that of the representation."""
    projection_dim: int = Field(default=128, ge=2, le=8192)
    """Width of queries and keys."""
    queue: int = Field(default=65_536, ge=1, le=10_000_000)
    """Keys that are remembered (K); at most a quarter of a small corpus, else most of what is
    spared or repeated there are keys of the same images."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Share of its weights that the key encoder keeps at each step (equation 2)."""
    temperature: float = Field(default=0.07, gt=0, le=10)
    """Temperature of the softmax; 0.2 in version 2."""
    norm_groups: int = Field(default=1, ge=1, le=64)
    """Parts of a process's batch with batch statistics of their own, as on so many GPUs. With one
    process and one group, a query and its key share all statistics (section 3.3)."""
    alike: NearDuplicates = NearDuplicates()
    """Near-duplicates, whose keys are no negatives of a frame."""
    min_negatives: int = Field(default=1, ge=1)
    """Frames left with fewer negatives than this are skipped."""
    crops: TwoCrops = TwoCrops(first=INSTDISC)
    """How query and key crops are augmented (version 1; version 2 jitters less and blurs)."""


@register
class MoCo(Method):
    """Contrast of a query with a queue; what is exported is the query encoder, without projector.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `time_s` float32
    [B, F]; `instance` int64 [B].

    Keys are normalised in other company than queries: dealt out at random over the ranks and
    groups, so that batch statistics do not tell which key belongs to a query (shuffled batch
    norm). That needs statistics of each process's own, whatever `trainer.sync_batch_norm` says.
    """

    name = "moco"
    paper = (
        "He, Fan, Wu, Xie, Girshick, Momentum Contrast for Unsupervised Visual Representation "
        "Learning, CVPR 2020, arXiv 1911.05722 (version 2: arXiv 2003.04297)"
    )
    Config = MoCoConfig
    config: MoCoConfig
    local_batch_norm = True

    def __init__(self, encoder: Encoder, config: MoCoConfig) -> None:
        super().__init__(encoder, config)
        hidden = [config.head_dim or encoder.out_dim] if config.head == "mlp" else []
        self.projector = mlp(encoder.out_dim, *hidden, config.projection_dim, norm=False)
        self.key_encoder = MomentumCopy(encoder, self.projector)
        self.queue = Queue(config.queue, config.projection_dim)

    @property
    def chance(self) -> Mapping[str, float]:
        """Crops that say nothing of each other: 0 nats of information."""
        return {"information": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 2, F, 3, S, S], the query's and the key's crop of each frame,
        `draws`, float32 [B, F], by which keys are shuffled, and `dhash`, int64 [B, F], in place of
        `frames`."""
        crops = two_crops(self.images, batch["frames"], self.config.crops)
        draws = torch.rand(crops.shape[0], crops.shape[2]).to(crops.device)
        return replace_frames(batch, images=crops, draws=draws, dhash=dhash(batch["frames"]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        crops, config = batch["images"], self.config
        frames = frame_ids(batch)
        queries = self._queries(crops[:, 0].flatten(0, 1))
        keys = self._keys(crops[:, 1].flatten(0, 1), batch["draws"].flatten())
        negative = self.queue.negatives(frames, config.alike)
        terms = against_queue(
            queries, keys, self.queue.rows, negative, config.temperature, config.min_negatives
        )
        self.queue.hold(keys, frames)
        known = self.queue.instance != NOBODY
        return {
            **summary(terms),
            "spread": spread(queries),
            "queue_known": known.float().mean(),
        }

    def _queries(self, images: Tensor) -> Tensor:
        network = nn.Sequential(self.encoder, self.projector)
        return functional.normalize(in_groups(network, images, self.config.norm_groups).float())

    @torch.no_grad()
    def _keys(self, images: Tensor, draws: Tensor) -> Tensor:
        mixed, order = shuffle_rows(images, draws)
        keys = in_groups(self.key_encoder, mixed, self.config.norm_groups)
        return functional.normalize(unshuffle_rows(keys.float(), order))

    def after_step(self, progress: Progress) -> None:
        """The key encoder follows, then the step's keys join the queue."""
        self.key_encoder.update(self.encoder, self.projector, keep=self.config.momentum)
        self.queue.write()
