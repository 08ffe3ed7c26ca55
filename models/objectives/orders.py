"""Which order are the pieces of a video in? Orders as classes, and what scores them."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

Compare = Literal["concatenation", "differences"]


def orders(pieces: int, *, either_way: bool = False) -> Tensor:
    """All orders of so many pieces, int64 [K, pieces]; row k is class k.

    Slot i shows piece `orders[k, i]`. `either_way` takes an order and that of the video played
    backwards, in which piece p is piece `pieces - 1 - p`, as one class (OPN, arXiv 1708.01246,
    section 3.1): both show the same pictures in the same slots where a video could run either way.
    K is then half of pieces!.
    """
    every = itertools.permutations(range(pieces))
    kept = [
        order for order in every if not either_way or order < tuple(pieces - 1 - p for p in order)
    ]
    return torch.tensor(kept, dtype=torch.int64)


def draw_orders(table: Tensor, count: int, *, either_way: bool = False) -> tuple[Tensor, Tensor]:
    """`count` orders, int64 [count, pieces], and their classes, int64 [count], all as likely.

    table: of `orders`, on the CPU like what is drawn; with `either_way` half of what is drawn is
    of the video played backwards and keeps its class.
    """
    label = torch.randint(len(table), (count,))
    order = table[label]
    if either_way:
        backward = torch.rand(count) < 0.5
        order = torch.where(backward[:, None], table.shape[1] - 1 - order, order)
    return order, label


def disorders(pieces: int, count: int) -> Tensor:
    """`count` orders, int64 [count, pieces], drawn uniformly from all but the true one."""
    order = torch.rand(count, pieces).argsort(dim=1)
    true = torch.arange(pieces)
    while (same := (order == true).all(dim=1)).any():
        order[same] = torch.rand(int(same.sum()), pieces).argsort(dim=1)
    return order


def reorder(pieces: Tensor, order: Tensor) -> Tensor:
    """[B, P, ...] with piece `order[b, i]` in slot i of sample b. order: int64 [B, P]."""
    sample = torch.arange(len(pieces), device=pieces.device)[:, None]
    return pieces[sample, order.to(pieces.device, non_blocking=True)]


def shows(differences: Tensor, order: Tensor, least: float) -> Tensor:
    """Whether an order can be seen at all: some slot shows another picture than before, bool [B].

    differences: of `frame_differences`, [B, F, F]; order: int64 [B, F]; least: mean difference, of
    255, below which two frames count as one picture. False for still frames, and for the reversal
    of a clip that is its own mirror image in time.
    """
    order = order.to(differences.device, non_blocking=True)
    return (differences.gather(2, order[..., None])[..., 0] >= least).any(dim=1)


class PairwiseHead(nn.Module):
    """Scores of classes from pieces, each pair of pieces first for itself (OPN, VCOP).

    Input: [B, pieces, dim]. Output: float32 [B, classes]. The layer on a pair is shared by all
    pairs; its outputs are joined in the order of the slots. A pair (a, b) comes to it side by side,
    or as `differences`: b - a and |b - a|.
    """

    def __init__(
        self, dim: int, pieces: int, classes: int, width: int, compare: Compare = "concatenation"
    ) -> None:
        super().__init__()
        self.compare = compare
        pairs = torch.tensor(list(itertools.combinations(range(pieces), 2)))
        self.pairs: Tensor
        self.register_buffer("pairs", pairs, persistent=False)
        self.pair = nn.Sequential(
            nn.Linear(2 * dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)
        )
        self.classes = nn.Linear(len(pairs) * width, classes)

    def forward(self, pieces: Tensor) -> Tensor:
        both = pieces[:, self.pairs]
        if self.compare == "differences":
            apart = both[:, :, 1] - both[:, :, 0]
            both = torch.stack([apart, apart.abs()], dim=2)
        both = both.flatten(2)
        features = self.pair(both.flatten(0, 1)).unflatten(0, both.shape[:2])
        return self.classes(features.flatten(1)).float()
