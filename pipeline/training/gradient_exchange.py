"""How gradients become those of all training processes, whatever way the method lies over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from marey.models.objectives.distributed import world_size


def replicated(method: nn.Module, device: torch.device) -> nn.Module:
    """The method as the loop calls it: under DDP where several processes train."""
    if world_size() == 1:
        return method
    return DistributedDataParallel(method, device_ids=[device] if device.type == "cuda" else None)


@contextlib.contextmanager
def exchanging(model: nn.Module, now: bool) -> Iterator[None]:
    """Inside, a backward pass averages gradients over processes, or leaves it to a later one.

    model: replicated, in shards (see `sharding`), or of a single process.
    """
    if isinstance(model, DistributedDataParallel) and not now:
        with model.no_sync():
            yield
        return
    set_exchange: Any = getattr(model, "set_requires_gradient_sync", None)
    if set_exchange is not None:
        set_exchange(now)
    yield
