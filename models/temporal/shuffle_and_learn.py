"""Shuffle and Learn: is a tuple of three frames in temporal order?

    L = CE( g([f(x_1), f(x_2), f(x_3)]), y ),   y: in order or not

f is the encoder, g the classifier on the three embeddings side by side. See
docs/methods/shuffle_and_learn.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import TuplesSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_changes import without_border_noise
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.distributed import mean_over_ranks
from marey.models.objectives.orders import Compare


class ShuffleAndLearnConfig(MethodConfig):
    """Temporal order verification."""

    sampling: TuplesSampling = TuplesSampling()
    """Which tuples are drawn; by default three in four are out of order (section 3.1)."""
    hidden: tuple[int, ...] = (128, 64)
    """Widths of the classifier's hidden layers."""
    compare: Compare = "concatenation"
    """What the classifier sees: the three embeddings (as in the paper), or how much each two of
    them differ in each dimension, which a small network learns from much sooner."""
    crops: Literal["shared", "each_frame"] = "shared"
    """One crop and mirror image for a tuple (as in the paper), or for each of its frames, so that
    embeddings do not depend on where the camera stands."""
    cyclic: float = Field(default=0.1, ge=0, lt=1)
    """Tuples out of order are left out when their middle frame differs from the first, the last or,
    with `sampling.inner`, the frame that is in order between them by no more than this share of
    what first and last differ (mean squared difference of pixels): in cyclic motion, and where
    nothing moves, such a tuple may look valid (section 3.1)."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.7, 1.0), jitter=0.8, brightness=0.3, contrast=0.3, saturation=0.3, blur=0.3
    )
    """How frames are augmented; colours and blur for each frame alone: compression varies with a
    frame's place among the keyframes, and must not give the order away. Black borders, whose coded
    noise varies with time, are made exactly black before."""


@register
class ShuffleAndLearn(Method):
    """Temporal order verification on three-frame tuples.

    Batch: `frames` uint8 [B, F, H, W, 3], the three of the tuple, and with `sampling.inner` the one
    that is in order between first and last, which only the guard sees; `label` int64 [B], 1 for a
    valid order, 0 for a displaced middle frame.
    """

    name = "shuffle_and_learn"
    paper = (
        "Misra, Zitnick, Hebert, Shuffle and Learn: Unsupervised Learning using Temporal Order "
        "Verification, ECCV 2016, arXiv 1603.08561"
    )
    Config = ShuffleAndLearnConfig
    config: ShuffleAndLearnConfig
    class_weight: Tensor

    def __init__(self, encoder: Encoder, config: ShuffleAndLearnConfig) -> None:
        super().__init__(encoder, config)
        # three embeddings, or three differences
        self.classifier = mlp(3 * encoder.out_dim, *config.hidden, 2, norm=True)
        share = config.sampling.negative_share
        self.register_buffer(
            "class_weight", torch.tensor([0.5 / share, 0.5 / (1 - share)]), persistent=False
        )

    @property
    def chance(self) -> Mapping[str, float]:
        """Balanced accuracy of any constant answer; accuracy of the better constant answer."""
        share = self.config.sampling.negative_share
        return {"balanced_accuracy": 0.5, "accuracy": max(share, 1 - share)}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `images`, float32 [B, 3, 3, S, S], and `counted`, bool [B], the tuples whose label
        can be trusted, in place of `frames`."""
        frames = without_border_noise(batch["frames"])
        ambiguous = looks_valid(frames, self.config.cyclic) & (batch["label"] == 0)
        shared = 3 if self.config.crops == "shared" else 1
        images = self.images(frames[:, :3], self.config.augment, shared=shared)
        return replace_frames(batch, images=images, counted=~ambiguous)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        label = batch["label"]
        embeddings = self.encoder(batch["images"].flatten(0, 1)).unflatten(0, (-1, 3))
        if self.config.compare == "differences":
            # ab, bc, ca
            embeddings = (embeddings - embeddings.roll(-1, dims=1)).abs()
        logits = self.classifier(embeddings.flatten(1)).float()
        terms = functional.cross_entropy(logits, label, reduction="none")
        counted = batch["counted"]
        # The weights follow the sampler's shares, not those of the batch, so that the mean over
        # ranks is the loss of the whole batch.
        loss = mean_over_ranks(terms * self.class_weight[label], counted)
        hit = (logits.argmax(dim=1) == label).float()
        kinds = [(counted & (label == kind)).float() for kind in (0, 1)]
        recalls = [(hit * kind).sum() / kind.sum() for kind in kinds]
        return {
            "loss": loss,
            "accuracy": mean_over_ranks(hit, counted),
            "balanced_accuracy": torch.stack(recalls).nanmean().nan_to_num(0.5),
            "valid": counted.float().mean(),
        }


def looks_valid(frames: Tensor, cyclic: float) -> Tensor:
    """bool [B]: the middle frame is much nearer to one from the first to the last than those two
    are to each other.

    frames: uint8 [B, 3 or 4, H, W, 3]: first, middle, last, and if known one between first and
    last. Static tuples look valid too.
    """
    first, middle, *others = frames.float().flatten(2).unbind(dim=1)
    whole = (first - others[0]).square().mean(dim=1)
    away = torch.stack([(middle - other).square().mean(dim=1) for other in (first, *others)])
    return away.amin(dim=0) <= cyclic * whole
