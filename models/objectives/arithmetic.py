"""Masked sums, distances and cosines, in float32 at least whatever the autocast state."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def full_precision(values: Tensor) -> Tensor:
    """At least float32 (float64 stays, for gradient checks)."""
    return values if values.dtype == torch.float64 else values.float()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values under the mask; 0, still attached to the graph, if there are none."""
    total = torch.where(mask, values, torch.zeros_like(values)).sum()
    return total / mask.sum().clamp_min(1)


def masked_logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """Log of the summed exponentials of each row under the mask; -1e30 for an empty row.

    The floor is finite, since a gradient through -inf is NaN; it adds exactly 0 to any sum.
    """
    floor = torch.full_like(values, -1e30)
    summed = torch.where(mask, values, floor).logsumexp(dim=1)
    return torch.where(mask.any(dim=1), summed, floor[:, 0])


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, float32 [N, M], never below 0. a: [N, D], b: [M, D]."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = full_precision(a), full_precision(b)
        squares = a.square().sum(1)[:, None] + b.square().sum(1)[None, :]
        return (squares - 2 * a @ b.T).clamp_min(0)


def paired_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of each row with that of the same number, [N]. a, b: [N, D]."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = full_precision(a), full_precision(b)
        return (functional.normalize(a, dim=1) * functional.normalize(b, dim=1)).sum(dim=1)
