"""A linear classifier for each of many labels, trained at once, as AtariARI probes states.

One layer on frozen features for each label, Adam, early stopping on the label's own validation
accuracy (Anand et al., arXiv 1906.08226, and their released code).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn import functional

LR_FACTOR, LR_PATIENCE = 0.2, 5
"""The learning rate of a label falls by this after so many epochs that were no better."""
BATCH = 64


@dataclass(frozen=True, slots=True)
class Part:
    """features: float32 [n, D]; values: int64 [n, K], classes of each label, from 0."""

    features: NDArray[np.float32]
    values: NDArray[np.int64]


def probe_states(
    train: Part, validation: Part, test: Part, *, lr: float, epochs: int, patience: int, seed: int
) -> NDArray[np.int64]:
    """The classes that the best classifier of each label answers on test: int64 [n, K].

    Every label has as many outputs as the largest class number of any of them plus one. What a
    label has learned is kept from its best epoch; it is trained for `epochs`, or until its
    validation accuracy has not risen for `patience`.
    """
    classes = 1 + max(int(part.values.max()) for part in (train, validation, test))
    labels, width = train.values.shape[1], train.features.shape[1]
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(width)  # as torch's Linear
    start = bound * (2 * torch.rand(labels, width + 1, classes, generator=generator) - 1)
    heads = [head.clone().requires_grad_() for head in start]
    optimizer = torch.optim.Adam([{"params": [head], "lr": lr} for head in heads])
    best = start.clone()
    course = [_Course() for _ in heads]
    features, values = _with_one(train.features), torch.from_numpy(train.values)
    checked = _with_one(validation.features), torch.from_numpy(validation.values)
    for _ in range(epochs):
        active = [n for n in range(labels) if course[n].stale < patience]
        if not active:
            break
        for rows in torch.randperm(len(features), generator=generator).split(BATCH):
            inputs, wanted = features[rows], values[rows]
            losses = [functional.cross_entropy(inputs @ heads[n], wanted[:, n]) for n in active]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimizer.step()
        for n in active:
            hit = (checked[0] @ heads[n].detach()).argmax(dim=1) == checked[1][:, n]
            if course[n].note(float(hit.float().mean())):
                best[n] = heads[n].detach()
            elif course[n].stale % (LR_PATIENCE + 1) == 0:
                optimizer.param_groups[n]["lr"] *= LR_FACTOR
    asked = _with_one(test.features)
    return torch.stack([(asked @ head).argmax(dim=1) for head in best], dim=1).numpy()


@dataclass(slots=True)
class _Course:
    """The best validation accuracy of a label, and for how many epochs it has been that."""

    best: float = -1.0
    stale: int = 0

    def note(self, accuracy: float) -> bool:
        """Whether this is better than all before."""
        better = accuracy > self.best
        self.best = max(self.best, accuracy)
        self.stale = 0 if better else self.stale + 1
        return better


def weighted_f1(answers: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each label [K], the mean over its classes weighted by how frequent they are."""
    return np.array(
        [
            f1_score(truth, answer, average="weighted", zero_division=0)  # pyright: ignore
            for truth, answer in zip(values.T, answers.T, strict=True)
        ]
    )


def category_means(scores: NDArray[np.float64], names: list[str]) -> dict[str, float]:
    """Mean over the labels of each category, which is what stands before a name's last `/`."""
    groups: dict[str, list[float]] = {}
    for score, name in zip(scores, names, strict=True):
        groups.setdefault(name.rpartition("/")[0], []).append(float(score))
    return {category: float(np.mean(values)) for category, values in sorted(groups.items())}


def _with_one(features: NDArray[np.float32]) -> Tensor:
    """float32 [n, D + 1], the last column the bias."""
    return torch.cat([torch.from_numpy(features), torch.ones(len(features), 1)], dim=1)
