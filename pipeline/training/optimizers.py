"""The optimisers that a run may have: torch's AdamW and SGD, and LARS.

Torch's own load its compiler (`torch._dynamo`) at their first use, though nothing of a step is
compiled: 2 to 3 seconds and 150 MiB of every training process. Here they call the same functions
without the wrappers that load it.
"""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class _Eager(Optimizer):
    """What all optimisers do, without the wrappers that keep torch's compiler out of it."""

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class AdamW(_Eager, torch.optim.AdamW):
    """torch's AdamW: the same updates, bit for bit."""

    step: Any = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class SGD(_Eager, torch.optim.SGD):
    """torch's SGD: the same updates, bit for bit."""

    step: Any = torch.no_grad()(unwrap(torch.optim.SGD.step))


class LARS(_Eager):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, arXiv 1708.03888).

    Parameters of one dimension take plain momentum steps: no trust ratio, no decay.
    """

    TRUST = 0.001

    def __init__(self, params, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        if closure is not None:
            raise TypeError("LARS takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        update = gradient
        if parameter.ndim > 1:
            update = update.add(parameter, alpha=group["weight_decay"])
            weight_norm, update_norm = parameter.norm(), update.norm()
            trusted = self.TRUST * weight_norm / update_norm
            known = (weight_norm > 0) & (update_norm > 0)
            update = update * torch.where(known, trusted, torch.ones_like(trusted))
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(update)
        parameter.add_(state["momentum"], alpha=-group["lr"])
