"""How good is an encoder as a start? Fine-tuning of the whole network on labelled frames.

The same budget for every start: SGD with Nesterov momentum 0.9, cosine schedule, weight decay 1e-4
(none on norms and biases), head ten times the rate of the trunk, random crops and mirroring, batch
norm in training mode. The rate is chosen on validation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.errors import InputError, MareyError, SettingError
from marey.configs.evaluation import FinetuneSettings
from marey.models.augmentation.augment import AugmentConfig
from marey.models.encoders.decay import decay_groups
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.modes import evaluating
from marey.models.encoders.small_maps import suit_small_maps
from marey.pipeline.evaluate.linear import classification_figures
from marey.pipeline.runtime.progress import each

DEFAULT = FinetuneSettings()
HEAD = 10.0
"""Rate of the head over that of the trunk."""
DECAY = 1e-4
MOMENTUM = 0.9
AUGMENT = AugmentConfig(crop_scale=(0.3, 1.0), flip=0.5)


@dataclass(frozen=True, slots=True)
class LabelledFrames:
    """frames: uint8 [n, H, W, 3] (of clips [n, T, H, W, 3]); labels: int64 [n], classes from 0."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> LabelledFrames:
        """The rows of an index."""
        return LabelledFrames(self.frames[rows], self.labels[rows])


class Classifier(nn.Module):
    """An encoder's trunk and pooling, and a linear head that starts at zero.

    The encoder's own embedding head is left out: it serves the pretext task.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.head = nn.Identity()
        width = encoder.feature_dim * (2 if encoder.config.pool == "spatial_softmax" else 1)
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (or clips), as the encoder takes them -> logits float [N, C]."""
        return self.head(self.encoder.pooled(images))

    def optimizer(self, rate: float) -> torch.optim.Optimizer:
        """The optimiser of a rate; its course is the caller's."""
        return torch.optim.SGD(self.groups(rate), lr=rate, momentum=MOMENTUM, nesterov=True)

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Trunk at `rate` and head at its own, each with and without decay, for an optimiser."""
        return [
            *decay_groups(self.encoder.parameters(), DECAY, lr=rate),
            *decay_groups(self.head.parameters(), DECAY, lr=HEAD * rate),
        ]


Build = Callable[[Encoder, int], nn.Module]
"""Makes a network with `encoder`, `optimizer(rate)` and logits [N, C] of an encoder's input."""


def fine_tune(
    encoder: Encoder,
    train: LabelledFrames,
    validation: LabelledFrames,
    test: LabelledFrames,
    classes: int,
    *,
    rates: Sequence[float] = DEFAULT.rates,
    epochs: int = DEFAULT.epochs,
    batch_size: int = DEFAULT.batch_size,
    flip: bool = DEFAULT.flip,
    seed: int = 0,
    build: Build = Classifier,
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Test figures of the network whose rate was best on validation, and its probabilities [n, C].

    build: makes the network of an encoder and a number of classes. The encoder itself is not
    changed. Of rates that are equally good the smallest wins; one at which training diverged scores
    0 and is never chosen. Raises
    InputError for fewer than two classes in training, SettingError for wrong budgets, MareyError
    when training diverged at every rate.
    """
    if epochs < 1 or batch_size < 2 or not rates or min(rates) <= 0:
        raise SettingError(
            f"fine-tuning needs epochs >= 1, batch_size >= 2 and rates above 0, got "
            f"epochs={epochs}, batch_size={batch_size}, rates={list(rates)}"
        )
    if len(np.unique(train.labels)) < 2:
        raise InputError("fine-tuning needs at least two classes in its training videos")
    best: nn.Module | None = None
    chosen = math.nan
    scores: list[float] = []
    for rate in sorted(rates):
        network = _tuned(encoder, train, classes, rate, epochs, batch_size, flip, seed, build)
        chance = probabilities(network, validation.frames)
        hit = (chance.argmax(axis=1) == validation.labels).mean()
        sound = bool(np.isfinite(chance).all())
        scores.append(float(hit) if sound else 0.0)
        if sound and (best is None or scores[-1] > max(scores[:-1])):
            best, chosen = network, rate
    if best is None:
        raise MareyError(f"fine-tuning diverged at all rates {sorted(rates)}; give smaller ones")
    chance = probabilities(best, test.frames)
    figures: dict[str, Any] = dict(classification_figures(chance, np.arange(classes), test.labels))
    return figures | {
        "rate": chosen,
        "validation_accuracy": max(scores),
        "validation_accuracy_per_rate": scores,
    }, chance


def probabilities(network: nn.Module, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Class probabilities float64 [n, C] of centre crops, in eval mode; NaN where it diverged."""
    encoder: Any = network.encoder
    device = next(network.parameters()).device
    rows = []
    with evaluating(network):
        for part in torch.from_numpy(frames).split(128):
            logits = network(encoder.preprocess(part.to(device)))
            rows.append(logits.double().softmax(dim=1).cpu())
    return torch.cat(rows).numpy()


def _tuned(
    encoder: Encoder,
    train: LabelledFrames,
    classes: int,
    rate: float,
    epochs: int,
    batch_size: int,
    flip: bool,
    seed: int,
    build: Build,
) -> nn.Module:
    device = next(encoder.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = build(encoder, classes).to(device).train()
    if device.type == "cpu":
        suit_small_maps(network)
    optimizer = network.optimizer(rate)
    peaks = [group["lr"] for group in optimizer.param_groups]
    rng = np.random.default_rng(seed)
    frames, labels = torch.from_numpy(train.frames), torch.from_numpy(train.labels)
    rounds = math.ceil(len(labels) / batch_size)
    vary = encoder.augmented if encoder.config.clip_frames == 1 else encoder.augmented_clips
    config = AUGMENT if flip else AUGMENT.model_copy(update={"flip": 0.0})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in each(range(epochs), f"fine-tune at rate {rate:.3g}", "epochs"):
            # parts of nearly one size: batch norm needs more than a left-over frame
            for number, part in enumerate(np.array_split(rng.permutation(len(labels)), rounds)):
                done = (epoch * rounds + number) / (epochs * rounds)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = 0.5 * (1 + math.cos(math.pi * done)) * peak
                rows = torch.from_numpy(part)
                images = vary(frames[rows].to(device), config)
                loss = functional.cross_entropy(network(images), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network
