"""Two processes, or more, that train together over gloo, for tests of what they share.

What is called here works in one process alone too, where its result is that of the whole batch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from marey.models.batch import Batch
from marey.models.objectives.distributed import rank, world_size

WORLD = 2


def in_two_processes(
    work: Callable[..., Any], folder: Path, *, before: Callable[[], Any] | None = None
) -> list[Any]:
    """What `work` returns in each of two processes: see `in_processes`."""
    return in_processes(WORLD, work, folder, before=before)


def in_processes(
    count: int,
    work: Callable[..., Any],
    folder: Path,
    *,
    before: Callable[[], Any] | None = None,
) -> list[Any]:
    """What `work` returns in each of `count` processes: tensors, in dictionaries and lists.

    work and before are functions of a module. before: makes, in each process as if it were alone,
    what `work` then takes. folder: an empty one.
    """
    spawn(_one, args=(count, str(folder), work, before), nprocs=count)
    return [torch.load(folder / f"rank{number}.pt") for number in range(count)]


def _one(
    number: int,
    count: int,
    folder: str,
    work: Callable[..., Any],
    before: Callable[[], Any] | None,
) -> None:
    torch.set_num_threads(1)
    made = () if before is None else (before(),)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=number, world_size=count)
    torch.save(work(*made), f"{folder}/rank{number}.pt")
    dist.destroy_process_group()


def parallel(module: nn.Module) -> nn.Module:
    """The module as the trainer calls it: with gradients averaged over processes."""
    return DistributedDataParallel(module) if world_size() > 1 else module


def own_share(batch: Batch) -> Batch:
    """This process's samples of a batch."""
    return {key: value.chunk(world_size())[rank()] for key, value in batch.items()}


def backward(model: nn.Module, batch: Batch) -> Tensor:
    """Backward from the loss of this process's samples; returns the loss's mean over processes."""
    loss = model(own_share(batch))["loss"]
    loss.backward()
    total = loss.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
        total /= world_size()
    return total


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter that has one, by name."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
