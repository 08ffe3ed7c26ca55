"""Momentum (EMA) encoders: how a copy of a network follows the one that is trained.

    theta' <- m theta' + (1 - m) theta

They give the targets of MoCo, BYOL and DINO, behind a stop-gradient. Nothing but this update
changes their weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MomentumCopy(nn.Module):
    """Frozen copies of modules that are applied one after the other.

    Starts as an exact copy, without stochastic depth. Parameters have requires_grad False, so that
    checkpoints hold them while neither an optimiser nor DDP sees them.

    Buffers are not averaged: batch-norm statistics are those of the copy's own forward passes (it
    is in training mode when the method is), as in MoCo, BYOL and DINO; so an exported copy is
    normalised by what it saw itself.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for module in modules)
        self.requires_grad_(False)
        for part in self.copies.modules():
            if hasattr(part, "drop_prob"):  # stochastic depth is the trained network's (DINO)
                vars(part)["drop_prob"] = 0.0

    def __getitem__(self, place: int) -> nn.Module:
        """The copy of the module given in this place."""
        return self.copies[place]

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """The last copy's output, without gradient."""
        outputs = inputs
        for module in self.copies:
            outputs = module(outputs)
        return outputs

    @torch.no_grad()
    def update(self, *modules: nn.Module, keep: float) -> None:
        """Each weight becomes `keep` of itself and 1 - `keep` of the trained one.

        modules: those the copy was made of, in the same order. Call it from `after_step`. keep 1
        leaves every weight as it is, 0 copies. Raises ValueError for modules of other shapes.
        """
        mine: list[Tensor] = list(self.parameters())
        theirs: list[Tensor] = [weight for module in modules for weight in module.parameters()]
        if [p.shape for p in mine] != [p.shape for p in theirs]:
            raise ValueError("the modules are not those that the momentum copy was made of")
        follow(mine, theirs, 1 - keep)


@torch.no_grad()
def follow(mine: Sequence[Tensor], theirs: Sequence[Tensor], share: float) -> None:
    """Move each tensor by this share of the way to its counterpart, in place.

    One kernel for all, and nothing that the host would wait for. Of tensors that lie in shards over
    processes, alike on both sides, each process moves its own.
    """
    own = [own_share(tensor) for tensor in mine]
    other = [own_share(tensor) for tensor in theirs]
    torch._foreach_lerp_(own, other, share)  # pyright: ignore[reportPrivateImportUsage]


def own_share(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may lie in shards over several (a DTensor)."""
    share = getattr(tensor, "to_local", None)
    return share() if callable(share) else tensor  # pyright: ignore[reportReturnType]


def momentum_at(fraction: float, start: float, end: float = 1.0) -> float:
    """The share of old weights kept when this share of a run is done, in [0, 1].

    Half a cosine from `start` to `end` (BYOL, arXiv 2006.07733, section 3.3).
    """
    done = min(1.0, max(0.0, fraction))
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
