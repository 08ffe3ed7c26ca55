"""Rotation: by how many quarter turns was the image turned?

    L = mean over k = 0 .. 3 of  CE( W f(turn(x, k)), k )

f is the encoder, W a linear layer. See docs/methods/rotation.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.transformations import TURNS, quarter_turns
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, register


class RotationConfig(MethodConfig):
    """RotNet."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are turned."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.08, 1.0), flip=0.5)
    """How the crop is drawn before it is turned; all four turns show the same crop."""


@register
class Rotation(Method):
    """Four-way classification of quarter turns, all four of each crop in one batch.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own.
    """

    name = "rotation"
    paper = (
        "Gidaris, Singh, Komodakis, Unsupervised Representation Learning by Predicting Image "
        "Rotations, ICLR 2018, arXiv 1803.07728"
    )
    Config = RotationConfig
    config: RotationConfig

    def __init__(self, encoder: Encoder, config: RotationConfig) -> None:
        super().__init__(encoder, config)
        self.classifier = nn.Linear(encoder.out_dim, TURNS)

    @property
    def chance(self) -> Mapping[str, float]:
        """One in four, in every batch, since each holds all four turns of every crop."""
        return {"accuracy": 1 / TURNS}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, F, 4, 3, S, S], in place of `frames`: copy k is turned k
        times counter-clockwise."""
        return replace_frames(
            batch, images=quarter_turns(self.images(batch["frames"], self.config.augment))
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.classifier(self.encoder(batch["images"].flatten(0, 2))).float()
        label = torch.arange(TURNS, device=logits.device).repeat(len(logits) // TURNS)
        return {
            "loss": functional.cross_entropy(logits, label),
            "accuracy": (logits.argmax(dim=1) == label).float().mean(),
            "orientation_entropy": predictive_entropy(logits.detach()),
        }


def predictive_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions in nats. logits: [N, K].

    Near log 4 on things without an upright position (seen from above, textures): such data cannot
    teach rotation.
    """
    log_share = logits.float().log_softmax(dim=1)
    return -(log_share.exp() * log_share).sum(dim=1).mean()
