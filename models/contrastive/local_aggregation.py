"""Local Aggregation: an image moves to those of its neighbours that share its cluster.

    L = -log  sum over B and C of exp(v f / tau) / sum over B of exp(v f / tau)

B are the bank's rows nearest to the embedding f, C those that share a cluster with its own row. See
docs/methods/local_aggregation.md.
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
from marey.models.augmentation.augment import INSTDISC, AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus, Method, Progress, register
from marey.models.objectives.arithmetic import full_precision, masked_logsumexp
from marey.models.objectives.clustering import cluster_rows
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import (
    FrameIds,
    NearDuplicates,
    Terms,
    frame_ids,
    summary,
)
from marey.models.objectives.memory import Bank
from marey.models.objectives.monitors import spread
from marey.models.objectives.noise_contrast import Partition, against_bank


class LocalAggregationConfig(MethodConfig):
    """Aggregation of close neighbours among all near ones."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are embedded; each has one row of the bank."""
    warm_share: float = Field(default=0.05, gt=0, lt=1)
    """Share of the run that is InstDisc's; the first clustering stands before the next epoch (10 of
    200 epochs in the released code)."""
    warm_objective: Literal["nce", "softmax"] = "nce"
    """Noise contrast against rows drawn at random during that time, or a softmax over them."""
    negatives: int = Field(default=4096, ge=1, le=1_000_000)
    """Rows drawn for each image during that time."""
    background: int | None = Field(default=None, ge=2, le=1_000_000)
    """Nearest rows that are looked at (4096 in section 4.1); unset: a fiftieth of the bank, at
    least 16 and at most 4096."""
    clusterings: int = Field(default=10, ge=1, le=100)
    """Clusterings, each from another beginning (H, section 3.2; 10 for ResNets)."""
    clusters: int | None = Field(default=None, ge=2, le=1_000_000)
    """Clusters of each (30,000 of 1.28 million images in section 4.1); unset: one for 40 rows."""
    iterations: int = Field(default=20, ge=1, le=1000)
    """Iterations of k-means at most."""
    temperature: float = Field(default=0.07, gt=0, le=10)
    """Temperature (section 3.1)."""
    projection_dim: int = Field(default=128, ge=2, le=8192)
    """Width of the bank."""
    bank_keep: float = Field(default=0.5, ge=0, lt=1)
    """Share of its old row that an image's new one keeps (section 3.3)."""
    z_batches: int = Field(default=10, ge=1, le=100_000)
    """Batches over which noise contrast's constant Z is estimated."""
    alike: NearDuplicates = NearDuplicates()
    """Near-duplicates, whose rows are left out: neither neighbours nor background."""
    augment: AugmentConfig = INSTDISC
    """How each image is augmented (released code)."""


@register
class LocalAggregation(Method):
    """Soft clustering in the bank's space; what is exported comes before the projection.

    Batch: `frames` uint8 [B, F, H, W, 3]; `place` int64 [B], the samples' rows of the bank;
    `time_s` float32 [B, F]; `instance` int64 [B].

    The rows are clustered before each epoch that begins after `warm_share` of the run; until then
    the objective is InstDisc's, since the clusters of random rows mean nothing.
    """

    name = "local_aggregation"
    paper = (
        "Zhuang, Zhai, Yamins, Local Aggregation for Unsupervised Learning of Visual Embeddings, "
        "ICCV 2019, arXiv 1903.12355"
    )
    Config = LocalAggregationConfig
    config: LocalAggregationConfig
    bank: Bank
    labels: Tensor
    """int64 [H, N], frozen: the cluster of each row in each clustering."""
    clustered: Tensor
    """int64 scalar, the epoch that the labels are of; -1 before the first."""

    def __init__(self, encoder: Encoder, config: LocalAggregationConfig) -> None:
        super().__init__(encoder, config)
        self.projection = nn.Linear(encoder.out_dim, config.projection_dim)
        self.partition = Partition(config.z_batches)
        self.register_buffer("clustered", torch.tensor(-1))

    @property
    def chance(self) -> Mapping[str, float]:
        """Scores that do not tell close from background rows: 0 nats of information."""
        return {"information": 0.0}

    def prepare(self, corpus: Corpus) -> None:
        """A bank of one row for each sample of an epoch, and the rows' clusters."""
        self.bank = Bank(corpus.places, self.config.projection_dim, self.config.bank_keep)
        # no buffer: DDP would send it before each step
        labels = torch.zeros(self.config.clusterings, corpus.places, dtype=torch.int64)
        self.labels = nn.Parameter(labels, requires_grad=False)

    def before_epoch(self, progress: Progress) -> None:
        """Cluster the bank anew, once per epoch: a run that goes on keeps the labels it had."""
        epoch = progress.epoch
        if progress.fraction < self.config.warm_share or epoch == int(self.clustered):
            return
        rows = self.bank.rows
        clusters = self.config.clusters or max(2, len(rows) // 40)
        for number in range(self.config.clusterings):
            seed = epoch * self.config.clusterings + number
            self.labels[number] = cluster_rows(rows, clusters, seed, self.config.iterations)
        self.clustered.fill_(epoch)

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], `dhash`, int64 [B, F], and `noise`, int64
        [B, F, K], the rows that each is held against before the first clustering, in place of
        `frames`."""
        images = self.images(batch["frames"], self.config.augment)
        noise = self.bank.draw(images.shape[:2], self.config.negatives).to(images.device)
        return replace_frames(batch, images=images, noise=noise, dhash=dhash(batch["frames"]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch["images"]
        projected = self.projection(self.encoder(images.flatten(0, 1)))
        embeddings = functional.normalize(projected.float())
        place = batch["place"].repeat_interleave(images.shape[1])
        frames = frame_ids(batch)
        if int(self.clustered) < 0:
            close_share = embeddings.new_zeros(())
            warm = self.config.warm_objective
            terms = against_bank(
                embeddings,
                place,
                frames,
                self.bank,
                temperature=self.config.temperature,
                near_duplicates=self.config.alike,
                noise=batch["noise"].flatten(0, 1),
                partition=self.partition if warm == "nce" else None,
            )
        else:
            terms, close_share = self._aggregate(embeddings, place, frames)
        self.bank.hold(place, embeddings, frames)
        return {
            **summary(terms),
            "close_share": close_share,
            "spread": spread(embeddings),
            "bank_age": self.bank.age(),
            "bank_agreement": self.bank.agreement(place, embeddings),
        }

    def _aggregate(
        self, embeddings: Tensor, place: Tensor, frames: FrameIds
    ) -> tuple[Terms, Tensor]:
        places = len(self.bank.rows)
        background = self.config.background or max(16, min(4096, places // 50))
        scores = self.bank.scores(embeddings, self.config.temperature)
        own = scores.detach().gather(1, place[:, None])[:, 0]
        allowed = self.bank.negatives(place, frames, self.config.alike)
        neighbours = nearest_rows(scores.detach(), place, allowed, min(background, places))
        found = scores.gather(1, neighbours)
        mine = neighbours == place[:, None]
        near = mine | allowed.gather(1, neighbours)
        together = (self.labels[:, place, None] == self.labels[:, neighbours]).any(dim=0)
        close = near & (mine | together)
        terms = aggregation_terms(found, close, near)
        others = torch.where(mine, -torch.inf, found.detach()).amax(dim=1)
        share = (close.sum(dim=1) / near.sum(dim=1)).mean()
        return terms._replace(hit=own > others), share

    def after_step(self, progress: Progress) -> None:
        """The bank takes up the embeddings that the step was computed from."""
        self.bank.write()
        self.partition.write()


def nearest_rows(scores: Tensor, place: Tensor, allowed: Tensor, count: int) -> Tensor:
    """The `count` rows with the highest scores, the own one always among them: int64 [R, count].

    scores: [R, N]; place: int64 [R], the own rows; allowed: bool [R, N], which others may be taken.
    Where fewer are allowed, forbidden ones follow.
    """
    ranked = torch.where(allowed, scores, -torch.inf)
    ranked = ranked.scatter(1, place[:, None], torch.inf)
    return ranked.topk(count, dim=1).indices


def aggregation_terms(scores: Tensor, close: Tensor, near: Tensor) -> Terms:
    """-log of the share that close rows have of all near ones (equations 3 and 5).

    scores: [R, k], cosines over the temperature; close, near: bool [R, k], close within near.
    Every row has a close one: its own. (The paper's 1e-7 inside the logarithm guards against none.)
    Where all near rows are close the loss is 0.
    """
    scores = full_precision(scores)
    loss = masked_logsumexp(scores, near) - masked_logsumexp(scores, close)
    by_chance = (near.sum(dim=1) / close.sum(dim=1).clamp_min(1)).log()
    counted = close.any(dim=1)
    best = torch.where(near, scores, -torch.inf).argmax(dim=1, keepdim=True)
    return Terms(loss, counted, by_chance - loss.detach(), close.gather(1, best)[:, 0])
