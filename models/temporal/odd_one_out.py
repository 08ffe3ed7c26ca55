"""Odd one out (O3N): which of a video's clips has its frames out of order?

    o = sum over i < j of (v_i - v_j),   L = CE( g(o), number of the odd clip )

v_i is the encoder's vector of clip i; `fusion` has another form. See docs/methods/odd_one_out.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_changes import FrameChanges, augmented_frames
from marey.models.augmentation.frame_differences import frame_differences
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.clip_vectors import clip_vectors, clip_width
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.classification import guess
from marey.models.objectives.orders import disorders, reorder, shows


class OddOneOutConfig(MethodConfig):
    """Odd-one-out networks."""

    sampling: ClipsSampling = ClipsSampling(
        num_frames=6, spacing_s=0.1, clips=6, motion_weighted=True, per_video=2
    )
    """The clips of a question: six of six frames (section 4)."""
    fusion: Literal["differences", "concatenation", "each"] = "differences"
    """How the clips' vectors v_1 ... v_n meet: by the sum of v_i - v_j over all i < j (the paper's
    best, section 3.2), side by side, or (ours) not: each clip is scored alone, from its vector and
    what the others' mean lacks of it, and the scores compete."""
    hidden: tuple[int, ...] = (128,)
    """Widths of the classifier."""
    least_difference: float = Field(default=0.5, ge=0, le=255)
    """Samples whose odd clip shows no picture that differs by this on average, of 255, from the one
    in its place in the true order are left out."""
    changes: FrameChanges = FrameChanges()
    """Augmentation of each frame alone."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.7, 1.0), flip=0.5, jitter=0.8, brightness=0.2, contrast=0.2, blur=0.3
    )
    """One crop for the clips, colours and blur for each frame."""

    @model_validator(mode="after")
    def _odd(self) -> OddOneOutConfig:
        if self.sampling.clips < 3 or self.sampling.num_frames < 2:
            raise ValueError(
                "sampling must have three clips or more of two frames or more, not "
                f"{self.sampling.clips} of {self.sampling.num_frames}"
            )
        return self


@register
class OddOneOut(Method):
    """n clips of one video, the frames of one of them shuffled: which?

    Batch: `frames` uint8 [B, n T, H, W, 3], clip after clip. Encoders of single frames stand for a
    clip by their T embeddings; for the paper's stack of differences take an encoder of clips with
    `differences` and `fusion: stack`.
    """

    name = "odd_one_out"
    paper = (
        "Fernando, Bilen, Gavves, Gould, Self-Supervised Video Representation Learning With "
        "Odd-One-Out Networks, CVPR 2017, arXiv 1611.06646"
    )
    Config = OddOneOutConfig
    config: OddOneOutConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: OddOneOutConfig) -> None:
        super().__init__(encoder, config)
        width = clip_width(encoder, config.sampling, self.name)
        clips = config.sampling.clips
        before = {"differences": width, "concatenation": clips * width, "each": 2 * width}
        scores = 1 if config.fusion == "each" else clips
        self.classifier = mlp(before[config.fusion], *config.hidden, scores, norm=True)

    @property
    def chance(self) -> Mapping[str, float]:
        """One in n."""
        return {"accuracy": 1 / self.config.sampling.clips}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `clips`, float32 [B, n, 3, T, S, S]; `label`, int64 [B],
        number of the shuffled one; `usable`, bool [B]: the shuffling shows."""
        frames, sampling = batch["frames"], self.config.sampling
        count = len(frames)
        images = augmented_frames(
            self.encoder, frames, self.config.augment, self.config.changes,
            clip=sampling.num_frames,
        )  # fmt: skip
        label = torch.randint(sampling.clips, (count,))
        order = torch.arange(sampling.num_frames).repeat(count, sampling.clips, 1)
        order[torch.arange(count), label] = disorders(sampling.num_frames, count)
        first = torch.arange(sampling.clips)[:, None] * sampling.num_frames
        order = (order + first).flatten(1)
        clips = reorder(images, order).unflatten(1, (sampling.clips, -1)).transpose(2, 3)
        return replace_frames(
            batch,
            clips=clips,
            label=label.to(frames.device, non_blocking=True),
            usable=shows(frame_differences(frames), order, self.config.least_difference),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clips = batch["clips"]
        vectors = clip_vectors(self.encoder, clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return guess(self._scores(vectors), batch["label"], batch["usable"])

    def _scores(self, vectors: Tensor) -> Tensor:
        """[B, n, W] -> [B, n]."""
        if self.config.fusion == "concatenation":
            return self.classifier(vectors.flatten(1))
        if self.config.fusion == "differences":
            return self.classifier(summed_differences(vectors))
        others = (vectors.sum(dim=1, keepdim=True) - vectors) / (vectors.shape[1] - 1)
        each = torch.cat([vectors, vectors - others], dim=2)
        return self.classifier(each.flatten(0, 1)).view(vectors.shape[:2])


def summed_differences(vectors: Tensor) -> Tensor:
    """Sum of v_i - v_j over all i < j: [B, n, W] -> [B, W] (equation 4).

    v_i stands on the left of n - 1 - i pairs and on the right of i.
    """
    count = vectors.shape[1]
    weight = count - 1 - 2 * torch.arange(count, device=vectors.device, dtype=vectors.dtype)
    return torch.einsum("bnw,n->bw", vectors, weight)
