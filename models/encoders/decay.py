"""Which parameters are decayed: matrices and kernels, not norms and biases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def decay_groups(
    parameters: Iterable[nn.Parameter], decay: float, **settings: Any
) -> list[dict[str, Any]]:
    """Groups of the trained parameters: matrices and kernels with decay, norms and biases without.

    settings: what else holds for both, as the optimiser takes it; a group of none is left out.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    return [
        {"params": chosen, "weight_decay": kept, "decays": chosen is matrices, **settings}
        for chosen, kept in ((matrices, decay), (vectors, 0.0))
        if chosen
    ]
