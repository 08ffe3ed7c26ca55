"""CMC: contrast of the lightness of an image with its colour, among other images.

    L = contrast(f_ab(x), bank of f_L) + contrast(f_L(x), bank of f_ab)
    contrast = -log  exp(f v_i / tau) / sum_j exp(f v_j / tau),   or its noise-contrastive estimate

v_i is the image's own row of a memory bank, v_j the other rows. See docs/methods/cmc.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus, Method, Progress, register
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import NearDuplicates, frame_ids, summary
from marey.models.objectives.memory import Bank
from marey.models.objectives.monitors import spread
from marey.models.objectives.noise_contrast import Partition, against_bank


class CMCConfig(MethodConfig):
    """Contrastive multiview coding of lightness and colour."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are contrasted; each has one row of either bank."""
    objective: Literal["nce", "sampled_softmax", "softmax"] = "nce"
    """Noise-contrastive estimation (section 3.4), or cross entropy against as many rows drawn at
    random (what the authors' later code advises), or against the whole bank."""
    negatives: int = Field(default=16_384, ge=1, le=1_000_000)
    """Rows drawn for each image, the same of both banks; `softmax` takes all instead."""
    temperature: float = Field(default=0.07, gt=0, le=10)
    """Temperature of the softmax (0.1 for STL-10)."""
    projection_dim: int = Field(default=128, ge=2, le=8192)
    """Width of the banks."""
    bank_keep: float = Field(default=0.5, ge=0, lt=1)
    """Share of its old row that an image's new one keeps."""
    z_batches: int = Field(default=10, ge=1, le=100_000)
    """Batches over which NCE's two constants Z are estimated."""
    min_chroma: float = Field(default=1.0, ge=0, le=100)
    """Images whose mean distance from grey in the ab plane is below this are left out: of grey
    ones all colours are equal. 2 to 3 is just visible."""
    alike: NearDuplicates = NearDuplicates()
    """Near-duplicates, which are no negatives of each other."""
    min_negatives: int = Field(default=1, ge=1)
    """Images left with fewer negatives than this are skipped."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.08, 1.0), flip=0.5)
    """How each image is augmented: jittered colours would change what both parts have in common."""


@register
class CMC(Method):
    """Contrast across the two parts of Lab images; what is exported are both trunks, joined.

    Batch: `frames` uint8 [B, F, H, W, 3]; `place` int64 [B], the samples' rows of the banks;
    `time_s` float32 [B, F]; `instance` int64 [B]. Needs `encoder.input: lab_split`.

    An image's colour is held against the bank of lightness, and its lightness against the bank of
    colour; so each direction trains one trunk.
    """

    name = "cmc"
    paper = "Tian, Krishnan, Isola, Contrastive Multiview Coding, ECCV 2020, arXiv 1906.05849"
    Config = CMCConfig
    config: CMCConfig
    lightness_bank: Bank
    color_bank: Bank

    def __init__(self, encoder: Encoder, config: CMCConfig) -> None:
        super().__init__(encoder, config)
        settings = encoder.config
        if settings.input != "lab_split":
            raise SettingError("cmc contrasts lightness and colour: set encoder.input=lab_split")
        if settings.pool != "average" or settings.embedding_dim is not None:
            raise SettingError(
                "cmc needs the vectors of both trunks side by side: encoder.pool=average, "
                "no encoder.embedding_dim"
            )
        if settings.unit_norm:
            raise SettingError("cmc projects the vectors of both trunks: encoder.unit_norm=false")
        width = encoder.out_dim // 2
        self.lightness_projection = nn.Linear(width, config.projection_dim)
        self.color_projection = nn.Linear(width, config.projection_dim)
        self.lightness_partition = Partition(config.z_batches)
        self.color_partition = Partition(config.z_batches)

    @property
    def chance(self) -> Mapping[str, float]:
        """Parts that say nothing of each other: 0 nats of information."""
        return {"information": 0.0}

    def prepare(self, corpus: Corpus) -> None:
        """Two banks of one row for each sample of an epoch."""
        size = (corpus.places, self.config.projection_dim, self.config.bank_keep)
        self.lightness_bank, self.color_bank = Bank(*size), Bank(*size)

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 3, S, S], scaled Lab, `dhash`, int64 [B, F], and
        `colorful`, bool [B, F], in place of `frames`; unless the objective takes whole banks,
        `noise`, int64 [B, F, K], the rows of both that each is held against."""
        images = self.images(batch["frames"], self.config.augment)
        color = images[:, :, 1:] * self.encoder.std[:, 1:] + self.encoder.mean[:, 1:]
        chroma = color.norm(dim=2).mean(dim=(2, 3))
        found = {
            "images": images,
            "dhash": dhash(batch["frames"]),
            "colorful": chroma >= self.config.min_chroma,
        }
        if self.config.objective != "softmax":
            drawn = self.lightness_bank.draw(images.shape[:2], self.config.negatives)
            found["noise"] = drawn.to(images.device)
        return replace_frames(batch, **found)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch["images"]
        lightness, color = self._embed(images.flatten(0, 1))
        place = batch["place"].repeat_interleave(images.shape[1])
        frames = frame_ids(batch)
        noise = batch["noise"].flatten(0, 1) if "noise" in batch else None
        colorful = batch["colorful"].flatten()
        config, nce = self.config, self.config.objective == "nce"
        # each part against the bank of the other
        from_lightness, from_color = (
            against_bank(
                embeddings,
                place,
                frames,
                bank,
                temperature=config.temperature,
                near_duplicates=config.alike,
                noise=noise,
                partition=partition if nce else None,
                min_negatives=config.min_negatives,
            )
            for embeddings, bank, partition in (
                (lightness, self.color_bank, self.color_partition),
                (color, self.lightness_bank, self.lightness_partition),
            )
        )
        metrics = summary(
            *(t._replace(counted=t.counted & colorful) for t in (from_lightness, from_color))
        )
        self.lightness_bank.hold(place, lightness, frames)
        self.color_bank.hold(place, color, frames)
        return metrics | {
            "spread_lightness": spread(lightness),
            "spread_color": spread(color),
            "bank_age": self.color_bank.age(),
            "bank_agreement": self.color_bank.agreement(place, color),
        }

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings of lightness and of colour, float32 [R, D] each."""
        lightness, color = self.encoder(images).chunk(2, dim=1)
        return (
            functional.normalize(self.lightness_projection(lightness).float()),
            functional.normalize(self.color_projection(color).float()),
        )

    def after_step(self, progress: Progress) -> None:
        """The banks take up the embeddings that the step was computed from."""
        self.lightness_bank.write()
        self.color_bank.write()
        self.lightness_partition.write()
        self.color_partition.write()
