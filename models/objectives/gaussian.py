"""How far embeddings are from a standard Gaussian, along random directions (LeJEPA's SIGReg)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import gather_rows


def sigreg(embeddings: Tensor, directions: Tensor) -> Tensor:
    """How far the rows of all processes are from a standard Gaussian (LeJEPA, arXiv 2511.08544,
    section 4): scalar.

    embeddings: [N, D], not normalised; directions: [M, D], unit vectors, the same in every process.
    The Epps-Pulley statistic of each direction, averaged: W N times the squared distance of the
    empirical characteristic function from exp(-t^2 / 2), weighed by exp(-t^2 / 2), integrated by
    trapezoids over 17 knots of [0, 3] and doubled. Gaussian rows give 1.0525 on average, whatever
    their number; rows that are all 0 give 0.4020 W N.
    """
    knots, last = 17, 3.0
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = full_precision(embeddings)
        t = torch.linspace(0, last, knots, dtype=rows.dtype, device=rows.device)
        gaussian = (-t.square() / 2).exp()
        step = torch.full_like(t, last / (knots - 1))
        step[[0, -1]] /= 2
        angles = (rows @ directions.to(rows.dtype).T)[..., None] * t
        parts = torch.stack([angles.cos().mean(dim=0), angles.sin().mean(dim=0)])
        every = gather_rows(parts[None])
        cosine, sine = every.mean(dim=0)
        error = (cosine - gaussian).square() + sine.square()
        integral = (error * gaussian * 2 * step).sum(dim=1)
        return integral.mean() * len(rows) * len(every)


def drawn_directions(count: int, dim: int, seed: int) -> Tensor:
    """Unit vectors, float32 [count, dim]: a function of the seed, the same in every process."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    return functional.normalize(torch.randn(count, dim, generator=generator), dim=1)
