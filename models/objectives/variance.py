"""Variance and covariance terms that keep embeddings from collapse (VICReg, arXiv 2105.04906)."""

from __future__ import annotations

import torch
from torch import Tensor

from marey.models.objectives.arithmetic import full_precision


def variance_hinge(embeddings: Tensor, epsilon: float = 1e-4) -> Tensor:
    """How far deviations fall below 1, mean over dimensions (VICReg, equations 1 and 2): scalar.

    embeddings: [N, D]. A constant batch gives 1 - sqrt(epsilon), with zero gradient: a saddle.
    """
    rows = full_precision(embeddings)
    centred = rows - rows.mean(dim=0)
    variance = centred.square().sum(dim=0) / max(1, len(rows) - 1)
    return (1 - (variance + epsilon).sqrt()).clamp_min(0).mean()


def squared_covariances(embeddings: Tensor) -> Tensor:
    """Sum of squared covariances of different dimensions over D (VICReg, equation 4): scalar.

    embeddings: [N, D]. With fewer than D + 1 rows it cannot reach 0 while all dimensions vary.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = full_precision(embeddings)
        centred = rows - rows.mean(dim=0)
        covariance = centred.T @ centred / max(1, len(rows) - 1)
        squares = covariance.square()
        return (squares.sum() - squares.diagonal().sum()) / rows.shape[1]


def mean_squared_covariance(embeddings: Tensor) -> Tensor:
    """Mean of squared covariances over all pairs of different dimensions (EB-JEPA): scalar."""
    return squared_covariances(embeddings) / (embeddings.shape[1] - 1)
