"""Into which clusters the rows of a memory bank fall: k-means for many rows and many clusters."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 24
"""Distances that are held at once."""


@torch.no_grad()
def cluster_rows(rows: Tensor, clusters: int, seed: int, iterations: int = 20) -> Tensor:
    """The cluster of every row, int64 [N] below `clusters`, by Lloyd's algorithm.

    rows: float32 [N, D]. Begins at random rows, since seeding far apart would cost a pass for each
    of tens of thousands of clusters. A cluster that is left empty takes one of the rows that lie
    farthest from their centres. The same rows and seed give the same clusters on every rank: sums
    are in a fixed order on GPUs too.
    """
    clusters = min(clusters, len(rows))
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(len(rows), generator=generator)[:clusters].to(rows.device)
    centres = rows[first]
    nearest, _ = _assign(rows, centres)
    for _ in range(iterations):
        centres, full = _means(rows, nearest, clusters)
        before = nearest
        nearest, distance = _assign(rows, torch.where(full[:, None], centres, torch.inf))
        empty = (torch.bincount(nearest, minlength=clusters) == 0).nonzero()[:, 0]
        if len(empty):
            farthest = distance.argsort(descending=True, stable=True)[: len(empty)]
            nearest[farthest] = empty
        if torch.equal(before, nearest):
            break
    return nearest


def _assign(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each row, and the squared distance to it but for the row's length."""
    step = max(1, CHUNK // len(centres))
    found = [_nearest(part, centres) for part in rows.split(step)]
    nearest, distance = zip(*found, strict=True)
    return torch.cat(nearest), torch.cat(distance)


def _nearest(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    # a centre at infinity is that of an empty cluster
    known = centres.isfinite().all(dim=1)
    centres = torch.where(known[:, None], centres, torch.zeros_like(centres))
    squares = torch.where(known, centres.square().sum(dim=1), torch.inf)
    distance, nearest = (squares - 2 * rows @ centres.T).min(dim=1)
    return nearest, distance + rows.square().sum(dim=1)


def _means(rows: Tensor, nearest: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """The mean of each cluster, [k, D], and which clusters have rows, bool [k]."""
    counts = torch.bincount(nearest, minlength=clusters)
    order = nearest.argsort(stable=True)
    sums = torch.segment_reduce(rows[order], "sum", lengths=counts, axis=0)
    return sums / counts.clamp_min(1)[:, None], counts > 0
