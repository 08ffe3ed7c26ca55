"""How a network is freed of batch norm, where what shares a batch must not share statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any layer of the network normalises over the batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def layer_norms(network: nn.Module) -> None:
    """Put layer norm in the place of every batch norm, with the same scale and shift.

    An image's map, or vector, is normalised over all its channels and places at once, whatever
    else is in the batch. The scale and shift of a channel stay those that were initialised.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                norm = nn.GroupNorm(1, child.num_features, eps=child.eps, affine=child.affine)
                if child.affine:
                    norm.weight.data.copy_(child.weight.data)
                    norm.bias.data.copy_(child.bias.data)
                setattr(module, name, norm)


def in_groups(network: nn.Module, images: Tensor, groups: int) -> Tensor:
    """The network's output for images in `groups` parts, each with its own batch statistics.

    Fewer parts where there are not two images for each.
    """
    groups = min(groups, max(1, len(images) // 2))
    return torch.cat([network(part) for part in images.tensor_split(groups)])
