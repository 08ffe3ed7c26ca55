"""How is an answer among classes judged, where not every sample has one?"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import mean_over_ranks


def guess(logits: Tensor, label: Tensor, usable: Tensor) -> dict[str, Tensor]:
    """`loss` (cross entropy), `accuracy` and `valid`, over the usable samples of all ranks.

    logits: [B, K]; label: int64 [B]; usable: bool [B]. None usable: 0, still with gradient.
    """
    terms = functional.cross_entropy(full_precision(logits), label, reduction="none")
    hit = (logits.detach().argmax(dim=1) == label).float()
    return {
        "loss": mean_over_ranks(terms, usable),
        "accuracy": mean_over_ranks(hit, usable),
        "valid": usable.float().mean(),
    }
