"""InstDisc: each image is a class of its own, and a memory bank holds the classes' weights.

    P(i | f) = exp(v_i f / tau) / Z,   L = -log P(i | f),   or its noise-contrastive estimate
    v_i <- normalize(keep v_i + (1 - keep) f)

f is the unit embedding of a crop of image i, v_i row i of the bank. See docs/methods/instdisc.md.
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
from marey.models.objectives.distributed import mean_over_ranks
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import NearDuplicates, frame_ids, summary
from marey.models.objectives.memory import Bank
from marey.models.objectives.monitors import spread
from marey.models.objectives.noise_contrast import Partition, against_bank


class InstDiscConfig(MethodConfig):
    """Instance discrimination with a memory bank."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are discriminated; each has one row of the bank."""
    objective: Literal["nce", "sampled_softmax", "softmax"] = "nce"
    """Noise-contrastive estimation (section 3.3), or cross entropy against as many rows drawn at
    random, or against the whole bank (best where it is small, section 4.1)."""
    negatives: int = Field(default=4096, ge=1, le=1_000_000)
    """Rows drawn for each image, with replacement (m); `softmax` takes all instead."""
    temperature: float = Field(default=0.07, gt=0, le=10)
    """Temperature (section 3.1); 0.1 for CIFAR."""
    projection_dim: int = Field(default=128, ge=2, le=8192)
    """Width of the bank."""
    bank_keep: float = Field(default=0.5, ge=0, lt=1)
    """Share of its old row that an image's new one keeps (released code)."""
    z_batches: int = Field(default=10, ge=1, le=100_000)
    """Batches over which NCE's constant Z is estimated (1 in the paper)."""
    proximal: float = Field(default=0.0, ge=0, le=1000)
    """Weight of the squared distance between an embedding and its row (lambda, section 3.4)."""
    alike: NearDuplicates = NearDuplicates()
    """Near-duplicates, which are no negatives of each other."""
    min_negatives: int = Field(default=1, ge=1)
    """Images left with fewer negatives than this are skipped."""
    augment: AugmentConfig = INSTDISC
    """How each image is augmented (released code)."""


@register
class InstDisc(Method):
    """Instance discrimination; what is exported is the representation before the projection.

    Batch: `frames` uint8 [B, F, H, W, 3]; `place` int64 [B], the samples' rows of the bank;
    `time_s` float32 [B, F]; `instance` int64 [B].
    """

    name = "instdisc"
    paper = (
        "Wu, Xiong, Yu, Lin, Unsupervised Feature Learning via Non-Parametric Instance "
        "Discrimination, CVPR 2018, arXiv 1805.01978"
    )
    Config = InstDiscConfig
    config: InstDiscConfig
    bank: Bank

    def __init__(self, encoder: Encoder, config: InstDiscConfig) -> None:
        super().__init__(encoder, config)
        self.projection = nn.Linear(encoder.out_dim, config.projection_dim)
        self.partition = Partition(config.z_batches)

    @property
    def chance(self) -> Mapping[str, float]:
        """Scores that say nothing of the image: 0 nats of information."""
        return {"information": 0.0}

    def prepare(self, corpus: Corpus) -> None:
        """A bank of one row for each sample of an epoch."""
        self.bank = Bank(corpus.places, self.config.projection_dim, self.config.bank_keep)

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], and `dhash`, int64 [B, F], in place of `frames`;
        unless the objective takes the whole bank, `noise`, int64 [B, F, K], the rows that each is
        held against."""
        images = self.images(batch["frames"], self.config.augment)
        found = {"images": images, "dhash": dhash(batch["frames"])}
        if self.config.objective != "softmax":
            drawn = self.bank.draw(images.shape[:2], self.config.negatives)
            found["noise"] = drawn.to(images.device)
        return replace_frames(batch, **found)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch["images"]
        projected = self.projection(self.encoder(images.flatten(0, 1)))
        embeddings = functional.normalize(projected.float())
        place = batch["place"].repeat_interleave(images.shape[1])
        frames = frame_ids(batch)
        noise = batch["noise"].flatten(0, 1) if "noise" in batch else None
        config = self.config
        terms = against_bank(
            embeddings,
            place,
            frames,
            self.bank,
            temperature=config.temperature,
            near_duplicates=config.alike,
            noise=noise,
            partition=self.partition if config.objective == "nce" else None,
            min_negatives=config.min_negatives,
        )
        metrics = summary(terms)
        if config.proximal:
            known = self.bank.written[place] >= 0
            moved = (embeddings - self.bank.rows[place]).square().sum(dim=1)
            drift = mean_over_ranks(moved, known)
            metrics["loss"] = metrics["loss"] + config.proximal * drift
            metrics["drift"] = drift.detach()
        metrics["spread"] = spread(embeddings)
        metrics["bank_age"] = self.bank.age()
        metrics["bank_agreement"] = self.bank.agreement(place, embeddings)
        self.bank.hold(place, embeddings, frames)
        return metrics

    def after_step(self, progress: Progress) -> None:
        """The bank takes up the embeddings that the step was computed from."""
        self.bank.write()
        self.partition.write()
