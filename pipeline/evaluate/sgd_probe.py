"""A linear probe trained by SGD, as a cross-check of the one solved by L-BFGS.

A probe that has not converged, or a learning rate that does not suit the features, shows as a gap.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from marey.pipeline.evaluate.linear import Floats, Standardiser

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
EPOCHS = 100
BATCH = 256


def sgd_probe(
    train: tuple[Floats, NDArray[np.int64]],
    validation: tuple[Floats, NDArray[np.int64]],
    test: tuple[Floats, NDArray[np.int64]],
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> dict[str, float]:
    """Test accuracy of a linear head: Nesterov 0.9, cosine, standardised features, no decay.

    Each part is (features [n, D], labels [n]). The rate is chosen on validation, then the head is
    trained again on training and validation. Returns accuracy_sgd and sgd_rate.
    """
    classes = np.unique(np.concatenate([train[1], validation[1], test[1]]))
    scale = Standardiser(train[0])
    weights = _train(scale(train[0]), _number(train[1], classes), len(classes), RATES, epochs, seed)
    scores = _accuracy(weights, scale(validation[0]), _number(validation[1], classes))
    # of rates that are equally good the smallest: it is the least likely to be unstable
    rate = RATES[int(scores.argmax())]
    features = np.concatenate([train[0], validation[0]])
    labels = np.concatenate([train[1], validation[1]])
    scale = Standardiser(features)
    weights = _train(scale(features), _number(labels, classes), len(classes), (rate,), epochs, seed)
    accuracy = _accuracy(weights, scale(test[0]), _number(test[1], classes))
    return {"accuracy_sgd": float(accuracy[0]), "sgd_rate": rate}


def _number(labels: NDArray[np.int64], classes: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.searchsorted(classes, labels))


def _train(
    features: NDArray[np.float64],
    labels: torch.Tensor,
    classes: int,
    rates: tuple[float, ...],
    epochs: int,
    seed: int,
) -> torch.Tensor:
    """Heads [R, D + 1, C], one for each rate, trained on the same batches from zero."""
    values = _with_one(features)
    heads = torch.zeros(len(rates), values.shape[1], classes, requires_grad=True)
    steps = epochs * math.ceil(len(values) / BATCH)
    # momentum and gradient act on each head alone, so its rate may scale the step afterwards
    speed, step = torch.zeros_like(heads), 0
    size = torch.tensor(rates)[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(values), generator=generator).split(BATCH):
            logits = values[rows] @ heads
            target = labels[rows].repeat(len(rates))
            loss = functional.cross_entropy(logits.flatten(0, 1), target) * len(rates)
            (gradient,) = torch.autograd.grad(loss, heads)
            speed = 0.9 * speed + gradient
            now = size * 0.5 * (1 + math.cos(math.pi * step / steps))
            with torch.no_grad():
                heads -= now * (gradient + 0.9 * speed)
            step += 1
    return heads.detach()


def _accuracy(
    heads: torch.Tensor, features: NDArray[np.float64], labels: torch.Tensor
) -> torch.Tensor:
    """Accuracy of each head, float [R]; a head that overflowed counts as 0."""
    logits = _with_one(features) @ heads
    hit = (logits.argmax(dim=2) == labels).float().mean(dim=1)
    return torch.where(torch.isfinite(logits).all(dim=2).all(dim=1), hit, 0.0)


def _with_one(features: NDArray[np.float64]) -> torch.Tensor:
    """float32 [n, D + 1], the last column the bias."""
    values = torch.from_numpy(features).float()
    return torch.cat([values, torch.ones(len(values), 1)], dim=1)
