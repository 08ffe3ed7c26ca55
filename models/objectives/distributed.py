"""How a loss sees the samples of every rank and stays exact under data parallelism.

Two exact ways, both relying on the averaging of gradients that DDP does:
- gather embeddings with `gather_rows` and compute the whole batch's loss on every rank;
- gather only the candidates, compute the terms of the own rows, and reduce them with
  `mean_over_ranks`.
Every rank must hold the same number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_alone = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, a loss sees this process's samples only, as if no other trained with it.

    For steps in which every process holds the same samples: gathered, each would count once for
    each process, and be a negative of itself.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world_size() -> int:
    """Processes whose samples make a batch; 1 outside a process group."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """This process's number among them; 0 outside a process group."""
    return dist.get_rank() if _together() else 0


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and not _alone.get()


class _Gather(torch.autograd.Function):
    """All ranks' rows; the backward pass sums every rank's gradient for the own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return _all_rows(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = rank() * ctx.count
        return total[start : start + ctx.count]


def _all_rows(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_rows(rows: Tensor) -> Tensor:
    """[N, ...] on each of W ranks -> [W N, ...] on all, in rank order; differentiable.

    Gradients are summed over ranks, so that a loss averaged over ranks has the gradient it would
    have in one process. Without a process group the rows come back unchanged.
    """
    if world_size() == 1:
        return rows
    if rows.requires_grad:
        return _Gather.apply(rows)  # pyright: ignore[reportReturnType]
    return _all_rows(rows)


def own_rows(rows: Tensor) -> Tensor:
    """Where this rank's rows, [N, ...], lie in what `gather_rows` makes of them: int64 [N]."""
    return rank() * len(rows) + torch.arange(len(rows), device=rows.device)


def mean_over_ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked values of all ranks, as this rank's share of it (scalar).

    The shares' mean over ranks is the global masked mean, and so are DDP's gradients, however
    unevenly the valid values lie. With no valid value anywhere: 0, still attached to the graph.
    """
    valid = mask.sum()
    if world_size() > 1:
        valid = valid.clone()
        dist.all_reduce(valid)
    total = torch.where(mask, values, torch.zeros_like(values)).sum()
    return total * world_size() / valid.clamp_min(1)


def shuffle_rows(rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Deal the rows of all ranks out again, in random order.

    rows: [N, ...] on each of W ranks; draws: float [N], one random number for each row.
    Returns (this rank's [N, ...] of the mixed rows, the order that `unshuffle_rows` takes: int64
    [W N], the same on every rank).
    """
    order = gather_rows(draws).argsort(stable=True)
    return gather_rows(rows)[order[own_rows(rows)]], order


def unshuffle_rows(rows: Tensor, order: Tensor) -> Tensor:
    """Rows mixed by `shuffle_rows`, or what became of them, back on their ranks and in place.

    rows: [N, ...]; order: int64 [W N].
    """
    return gather_rows(rows)[order.argsort()[own_rows(rows)]]
