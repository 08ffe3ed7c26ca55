"""S4L: labels for a few images, a pretext task for all of them.

    L = CE over labelled images  +  w  pretext over all images
    rotation:  CE( W f(turn(x, k)), k )
    exemplar:  softplus( d(a, farthest crop of the image) - d(a, nearest crop of another) )

d are distances of unit vectors. See docs/methods/s4l.md.
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
from marey.models.augmentation.augment import AugmentConfig, augment_frames
from marey.models.augmentation.transformations import TURNS, quarter_turns
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Corpus, Method, register
from marey.models.objectives.distributed import gather_rows, mean_over_ranks, own_rows
from marey.models.objectives.exemplars import (
    apply_hsv_noise,
    batch_hard_terms,
    distances,
    draw_hsv_noise,
)
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import NearDuplicates, frame_ids, negative_mask


class S4LConfig(MethodConfig):
    """Self-supervised semi-supervised learning."""

    sampling: FramesSampling = FramesSampling(labelled_part=0.5)
    """Which frames or images are seen, how many labels are used (`labelled_share`), and how many of
    the samples have one (half and half: section 3)."""
    task: Literal["rotation", "exemplar"] = "rotation"
    """The pretext task: quarter turns (section 3.1), or instance discrimination (section 3.2)."""
    self_weight: float = Field(default=1.0, ge=0, le=100)
    """Weight w of the pretext task beside the labels (section 3)."""
    crops: int = Field(default=8, ge=2, le=64)
    """exemplar: crops of each image."""
    embedding_dim: int = Field(default=1000, ge=2, le=8192)
    """exemplar: width of the space in which crops are compared."""
    alike: NearDuplicates = NearDuplicates()
    """exemplar: near-duplicate frames, which are no negatives of each other."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.08, 1.0), flip=0.5)
    """How crops are drawn; those of `exemplar` then get other hue, saturation and value."""


@register
class S4L(Method):
    """A class head on what is labelled, and a pretext task on everything.

    Works without any label too: then the pretext task alone is trained.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `time_s` float32 [B, F];
    `instance` and, where there are labels, `class_id` int64 [B], -1 for none.
    """

    name = "s4l"
    paper = (
        "Zhai, Oliver, Kolesnikov, Beyer, S4L: Self-Supervised Semi-Supervised Learning, "
        "ICCV 2019, arXiv 1905.03670"
    )
    Config = S4LConfig
    config: S4LConfig
    classes = 0

    def __init__(self, encoder: Encoder, config: S4LConfig) -> None:
        super().__init__(encoder, config)
        if config.task == "rotation":
            self.pretext: nn.Module = nn.Linear(encoder.out_dim, TURNS)
        else:
            # not in the paper: without batch norm the hardest triplets pull all embeddings to one
            # point in the first steps
            widths = (encoder.out_dim, config.embedding_dim)
            self.pretext = mlp(*widths, norm=False, norm_out=True, affine_out=False)

    def prepare(self, corpus: Corpus) -> None:
        """Make the class head, where there are classes."""
        self.classes = corpus.classes
        if self.classes:
            self.classifier = nn.Linear(self.encoder.out_dim, self.classes)

    @property
    def chance(self) -> Mapping[str, float]:
        """Turns: one in four. Exemplars: half of the other images' crops are farther than a crop of
        the same image. Classes, of equal size: one in N."""
        known = {"accuracy": 1 / self.classes} if self.classes else {}
        task = {"turn_accuracy": 1 / TURNS} if self.config.task == "rotation" else {"ordering": 0.5}
        return known | task

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `images`, float32 [B, F, K, 3, S, S], the K copies of each
        (four turns of one crop, or crops), and `dhash`, int64 [B, F]."""
        frames, config = batch["frames"], self.config
        size = self.encoder.config.image_size
        if config.task == "rotation":
            images = quarter_turns(self.images(frames, config.augment))
        else:
            copies = torch.stack([frames] * config.crops, dim=2)
            crops = augment_frames(copies.flatten(0, 2), size, config.augment)
            crops = apply_hsv_noise(crops, draw_hsv_noise(len(crops)))
            images = self.encoder.normalize(crops).unflatten(0, copies.shape[:3])
        return replace_frames(batch, images=images, dhash=dhash(batch["frames"]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch["images"]
        embeddings = self.encoder(images.flatten(0, 2)).unflatten(0, (-1, images.shape[2]))
        task = self._turns if self.config.task == "rotation" else self._exemplars
        loss, metrics = task(embeddings, batch)
        loss = self.config.self_weight * loss
        if self.classes:
            taught, known = self._classes(embeddings, batch["class_id"], images.shape[1])
            loss, metrics = loss + taught, metrics | known
        return {"loss": loss, **{name: value.detach() for name, value in metrics.items()}}

    def _classes(
        self, embeddings: Tensor, class_id: Tensor, frames: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all copies of labelled images. embeddings: [N, K, D]."""
        logits = self.classifier(embeddings).float()
        label = class_id.repeat_interleave(frames)
        known = label >= 0
        label = label.clamp_min(0)
        copies = label[:, None].expand(logits.shape[:2])
        terms = functional.cross_entropy(logits.flatten(0, 1), copies.flatten(), reduction="none")
        loss = mean_over_ranks(terms.unflatten(0, copies.shape).mean(dim=1), known)
        averaged = (logits.mean(dim=1).argmax(dim=1) == label).float()
        single = (logits[:, 0].argmax(dim=1) == label).float()
        return loss, {
            "accuracy": mean_over_ranks(single, known),
            "averaged_accuracy": mean_over_ranks(averaged, known),
            "labelled": known.float().mean(),
        }

    def _turns(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.pretext(embeddings).float().flatten(0, 1)
        label = torch.arange(TURNS, device=logits.device).repeat(len(embeddings))
        terms = functional.cross_entropy(logits, label, reduction="none")
        known = self._known(batch).repeat_interleave(TURNS)
        hit = (logits.argmax(dim=1) == label).float().mean()
        return mean_of_halves(terms, known, torch.ones_like(known)), {"turn_accuracy": hit}

    def _known(self, batch: Batch) -> Tensor:
        """Which frames have a label: bool [B F]."""
        frames = batch["images"].shape[1]
        if not self.classes:
            return batch["instance"].new_zeros(len(batch["instance"]) * frames, dtype=torch.bool)
        return (batch["class_id"] >= 0).repeat_interleave(frames)

    def _exemplars(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        crops = embeddings.shape[1]
        compared = functional.normalize(self.pretext(embeddings.flatten(0, 1)).float(), dim=1)
        frames = frame_ids(batch)
        known = self._known(batch)
        negative = negative_mask(frames, frames.gathered(), self.config.alike)
        negative &= known[:, None] == gather_rows(known)[None, :]  # each half for itself
        negative = negative.repeat_interleave(crops, 0).repeat_interleave(crops, 1)
        # crops of all ranks by number; those of one frame are numbered one after another
        columns = torch.arange(negative.shape[1], device=compared.device)
        rows = own_rows(compared)
        same = rows[:, None] // crops == columns[None, :] // crops
        distance = distances(compared, gather_rows(compared))
        terms, counted = batch_hard_terms(
            distance, same & (rows[:, None] != columns[None, :]), negative
        )
        loss = mean_of_halves(terms, known.repeat_interleave(crops), counted)
        following = rows // crops * crops + (rows + 1) % crops
        partner = distance.detach().gather(1, following[:, None])
        farther = ((distance > partner) & negative).sum(dim=1) / negative.sum(dim=1).clamp_min(1)
        return loss, {
            "triplet_loss": loss,
            "ordering": mean_over_ranks(farther, counted),
            "embedding_std": compared.std(dim=0).mean(),
            "valid": counted.float().mean(),
        }


def mean_of_halves(terms: Tensor, known: Tensor, counted: Tensor) -> Tensor:
    """Mean of the labelled terms' mean and the others', as this rank's share of it (section 3).

    terms: float [N]; known, counted: bool [N]. Where one half is empty on all ranks, the other's.
    """
    halves = [counted & known, counted & ~known]
    present = torch.stack([half.any().float() for half in halves])
    present = gather_rows(present[None]).amax(dim=0)
    means = torch.stack([mean_over_ranks(terms, half) for half in halves])
    return means.sum() / present.sum().clamp_min(1)
