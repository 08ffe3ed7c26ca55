"""How embeddings are compared with learned directions, and shared out evenly among them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.models.objectives.arithmetic import full_precision


class Prototypes(nn.Module):
    """Cosine similarity to K learned directions (SwAV's prototypes, DINO's last layer).

    Input: float [N, D], unit length. Output: at least float32 [N, K]. A weight's length does not
    matter (weight normalisation of fixed gain); `to_unit_length` keeps it from growing.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(functional.normalize(torch.randn(count, dim), dim=1))
        self.frozen = False
        """Whether the directions stay: their gradient then exists, for DDP, and is zero."""

    @torch.no_grad()
    def to_unit_length(self) -> None:
        """Divide every weight by its length."""
        self.weight.copy_(functional.normalize(self.weight, dim=1))

    def forward(self, units: Tensor) -> Tensor:
        with torch.autocast(units.device.type, enabled=False):
            directions = functional.normalize(full_precision(self.weight), dim=1)
            if self.frozen:
                directions = directions.detach() + 0 * directions
            return full_precision(units) @ directions.T


@torch.no_grad()
def sinkhorn(
    scores: Tensor, epsilon: float, iterations: int, valid: Tensor | None = None
) -> Tensor:
    """Soft codes that use all prototypes equally (SwAV, arXiv 2006.09882, section 3.1).

    scores: [N, K], rows are embeddings; epsilon: smoothness, small is sharp; valid: bool [N], rows
    that take part (all when unset). Returns [N, K] of at least float32: valid rows sum to 1
    exactly, columns to N / K up to what the iterations leave; other rows are 0. Works on
    logarithms, so that no epsilon overflows.
    """
    nothing = -torch.inf
    with torch.autocast(scores.device.type, enabled=False):
        codes = full_precision(scores) / epsilon
        if valid is not None:
            codes = codes.masked_fill(~valid[:, None], nothing)
        for _ in range(iterations):
            codes = codes - codes.logsumexp(dim=0, keepdim=True)
            codes = codes - codes.logsumexp(dim=1, keepdim=True)
            if valid is not None:
                codes = codes.masked_fill(~valid[:, None], nothing)
        return codes.exp()


def cross_prediction(targets: Tensor, predicted: Tensor) -> Tensor:
    """Cross entropy of every crop's prediction with the targets of every other crop: scalar.

    targets: [T, N, K], distributions of the first T of V crops of N images; predicted: [V, N, K],
    logarithms of distributions. Mean over images and over the T (V - 1) pairs of crops.
    """
    crops, images = len(predicted), predicted.shape[1]
    with torch.autocast(predicted.device.type, enabled=False):
        pairs = -full_precision(targets).flatten(1) @ full_precision(predicted).flatten(1).T
        itself = torch.eye(len(targets), crops, dtype=torch.bool, device=pairs.device)
        return pairs.masked_fill(itself, 0).sum() / (len(targets) * (crops - 1) * images)


@torch.no_grad()
def usage(scores: Tensor) -> Tensor:
    """Share of prototypes that are some row's best, weighed by how often: float32 scalar.

    scores: [N, K]. The perplexity of the best prototype over what it can reach, the smaller of N
    and K: 1 when rows spread over all, near 0 when all choose one.
    """
    rows, count = scores.shape
    best = scores.argmax(dim=1)
    chosen = torch.zeros(count, device=scores.device).scatter_add_(
        0, best, torch.full((rows,), 1 / rows, device=scores.device)
    )
    return torch.special.entr(chosen).sum().exp() / min(rows, count)
