"""How is a network looked at without changing it? In eval mode, no gradient, then put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; each submodule's own mode comes back after.

    So running statistics of batch norm stay as they are, and parts that are never in training
    mode (frozen copies) are not put there.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
