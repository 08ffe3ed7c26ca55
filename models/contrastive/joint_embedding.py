"""What methods share that compare crops of one image without negatives: crops, chance, monitors.

    L = l(z, z'),   z = projector(encoder(x)),   x and x' two augmentations of one image

`TwoCropMethod` is the base of BYOL, SimSiam, Barlow Twins and VICReg, which differ in the loss l
and in what keeps z from collapse; `MultiCropMethod`, with small crops beside, of SwAV, DINO and
LeJEPA.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.multi_crop import (
    BYOL_CROPS,
    MultiCrop,
    TwoCrops,
    as_rows,
    multi_crops,
    two_crops,
)
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method
from marey.models.objectives.monitors import joint_embedding_metrics, over_pixels


class JointEmbeddingConfig(MethodConfig):
    """Joint embedding of crops."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images crops are taken from."""


class TwoCropConfig(JointEmbeddingConfig):
    """Joint embedding of two crops."""

    crops: TwoCrops = BYOL_CROPS
    """How the two crops are augmented."""


class JointEmbedding(Method):
    """What holds however many crops there are.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `instance` int64 [B].
    """

    @property
    def chance(self) -> Mapping[str, float]:
        """What colours in 4x4 cells tell of which crops belong together, without any learning, and
        embeddings that say nothing of the image."""
        return {"auc_over_pixels": 0.0, "pair_auc": 0.5}

    def rows(self, batch: Batch) -> Tensor:
        """What the encoder gets, [2 B F, 3, S, S]: all first crops, then all second ones."""
        return as_rows(batch["images"])

    def monitors(self, first: Tensor, second: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`spread` (0 is collapse) and `pair_auc` of both crops' embeddings, [B F, D] each, and how
        far it is above that of the crops' colours."""
        metrics = joint_embedding_metrics(first.detach(), second.detach(), batch["instance"])
        here, there = (crop.flatten(0, 1) for crop in batch["images"][:, :2].unbind(1))
        return metrics | over_pixels(metrics["pair_auc"], here, there, batch["instance"])


class TwoCropMethod(JointEmbedding):
    """Base of methods that compare two crops of every frame."""

    def __init__(self, encoder: Encoder, config: TwoCropConfig) -> None:
        super().__init__(encoder, config)
        self.crops = config.crops

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 2, F, 3, S, S], two crops of every frame, in place of
        `frames`."""
        return replace_frames(batch, images=two_crops(self.images, batch["frames"], self.crops))


class MultiCropConfig(JointEmbeddingConfig):
    """Joint embedding of two large crops and some small ones."""

    crops: MultiCrop = MultiCrop(first=BYOL_CROPS.first)
    """How the large and small crops are augmented."""


class MultiCropMethod(JointEmbedding):
    """Base of methods that compare two large crops and some small ones of every frame."""

    def __init__(self, encoder: Encoder, config: MultiCropConfig) -> None:
        super().__init__(encoder, config)
        self.crops = config.crops

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 2, F, 3, S, S], and `small`, float32 [B, n, F, 3, s, s], in
        place of `frames`."""
        return replace_frames(batch, **multi_crops(self.images, batch["frames"], self.crops))
