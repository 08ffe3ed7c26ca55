"""A method in shards over all training processes (FSDP2): shared out, put together, compared.

Every process holds its share of each trained weight, its gradient and its optimiser state, and of
momentum encoders (Zhao et al., PyTorch FSDP, arXiv 2304.11277; torch's `fully_shard`). The weights
of a transformer's block are together only while the block runs, all others from the method's
forward pass to the end of its backward pass. Whole in every process stay buffers, memory banks,
queues and single numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from marey.models.encoders.encoder import Encoder
from marey.models.encoders.momentum import MomentumCopy
from marey.models.objectives.distributed import rank, world_size


def shard(module: nn.Module, device: torch.device) -> None:
    """Share the parameters of a method, or of an encoder, out among all processes, in place.

    All must hold the same weights. Networks of the same shapes are shared out in the same way, so
    that one can follow the other.
    """
    mesh = init_device_mesh(device.type, (world_size(),))
    whole = _kept_whole(module)
    for block in row_blocks(module):
        fully_shard(block, mesh=mesh, ignored_params=whole)
    fully_shard(module, mesh=mesh, ignored_params=whole)
    for parameter in whole:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_average_gradient)


def row_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of every row of blocks: of our transformers, of timm's and of predictors."""
    return [
        block
        for name, part in module.named_modules()
        if isinstance(part, nn.ModuleList | nn.Sequential) and name.endswith("blocks")
        for block in part
    ]


def _kept_whole(module: nn.Module) -> set[nn.Parameter]:
    """What a method writes by row (banks, queues, labels), and single numbers."""
    networks = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, Encoder | MomentumCopy)
        for parameter in part.parameters()
    }
    return {
        parameter
        for parameter in module.parameters()
        if not parameter.ndim or not (parameter.requires_grad or id(parameter) in networks)
    }


@torch.no_grad()
def _average_gradient(parameter: Tensor) -> None:
    """Make the gradient of a parameter that is whole in each process the mean over processes."""
    if parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= world_size()


def settle(module: nn.Module) -> None:
    """Back to shards, where a forward pass without a backward pass has left weights together."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def fitted(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, that lies over processes as `like` does."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict's tensors whole, on the CPU of rank 0; none elsewhere. Every process calls it.

    One tensor after the other: no device holds all of them.
    """
    whole: dict[str, Tensor] = {}
    for name, tensor in state.items():
        together = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            whole[name] = together.detach().cpu()
    return whole
