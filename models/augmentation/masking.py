"""Which patches, frames or space-time blocks are hidden: every mask generator of masked prediction.

Pure draws from torch's default generator, on the CPU; a mask is True where something is hidden.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

UNTOUCHED, MASKED, REPLACED, KEPT = 0, 1, 2, 3
"""What BERT's rule does with a position: not selected; hidden; replaced by a random token;
selected, but left as it is."""


class Kept(NamedTuple):
    """A random mask with what an encoder needs that sees visible positions only (MAE)."""

    mask: Tensor
    """bool [B, L], True where hidden; the same count in every row."""
    keep: Tensor
    """int64 [B, K], the visible positions in rising order."""


def bert_selection(valid: Tensor, share: float = 0.15, most: int | None = None) -> Tensor:
    """Positions whose token must be predicted (BERT, arXiv 1810.04805): bool [B, L].

    valid: bool [B, L]; the others (padding, special tokens) are never selected. Of n valid
    positions, `max(1, round(share * n))` are drawn, at most `most`; none of an empty row.
    """
    length = valid.sum(dim=1)
    wanted = (share * length).round().clamp_min(1).minimum(length)
    if most is not None:
        wanted = wanted.clamp_max(most)
    order = torch.rand(valid.shape).masked_fill(~valid, 2).argsort(dim=1)
    return order.argsort(dim=1) < wanted[:, None]


def span_selection(
    valid: Tensor, share: float, mean: float = 3.0, longest: int = 10
) -> tuple[Tensor, Tensor]:
    """Runs of positions, for sequences in which single ones are told by their neighbours.

    valid: bool [B, T]. Spans of geometric length (this mean, cut at `longest`) begin anywhere
    until `max(1, round(share * n))` of the n valid positions are selected; the last one is cut to
    that number. Positions that are not valid end a span. At least one valid position stays
    visible. Returns selected, bool [B, T], and span, int64 [B, T]: one number for each span (its
    first position), -1 where nothing is selected.
    """
    rng = _rng()
    spans = []
    for allowed in valid.tolist():
        wanted = min(max(1, round(share * sum(allowed))), sum(allowed) - 1)
        chosen = [-1] * len(allowed)
        selected = 0
        while selected < wanted:
            start = rng.randrange(len(allowed))
            for place in range(start, min(start + _geometric(rng, mean, longest), len(allowed))):
                if not allowed[place] or selected == wanted:
                    break
                if chosen[place] < 0:
                    chosen[place] = start
                    selected += 1
        spans.append(chosen)
    span = torch.tensor(spans)
    return span >= 0, span


def _geometric(rng: random.Random, mean: float, longest: int) -> int:
    """1, 2, ... with probability falling by 1 - 1/mean each; `longest` takes all that is longer."""
    length = 1
    while length < longest and rng.random() > 1 / mean:
        length += 1
    return length


def bert_corruption(
    selected: Tensor, group: Tensor | None = None, *, masked: float = 0.8, replaced: float = 0.1
) -> Tensor:
    """What happens to each selected position: int64 [B, L] of MASKED, REPLACED, KEPT.

    selected: bool [B, L]; elsewhere UNTOUCHED. group: int64 [B, L], positions with one number
    (within [0, L)) share a draw (the frames of a span); by default each draws alone.
    """
    draw = torch.rand(selected.shape)
    if group is not None:
        draw = draw.gather(1, group.clamp_min(0))
    kind = torch.full(selected.shape, KEPT)
    kind[draw < masked + replaced] = REPLACED
    kind[draw < masked] = MASKED
    return kind.masked_fill(~selected, UNTOUCHED)


def block_mask(
    samples: int,
    height: int,
    width: int,
    count: int,
    *,
    least: int = 16,
    aspect: float = 0.3,
    exact: bool = True,
) -> Tensor:
    """Blocks of patches hidden as in BEiT (arXiv 2106.08254, algorithm 1): bool [B, height, width].

    Blocks with an area between `least` patches and those still wanted, and an aspect from `aspect`
    to its inverse, are added until `count` patches are hidden or ten tries in a row do not fit.
    No block spans a side. `exact` tops the mask up with single patches to exactly `count`.
    """
    rng = _rng()
    masks = np.zeros((samples, height, width), dtype=bool)
    for mask in masks:
        hidden = 0
        while hidden < count and (block := _block(rng, mask, count - hidden, least, aspect)):
            mask[block] = True
            hidden = int(mask.sum())
        if exact and hidden < count:
            visible = np.flatnonzero(~mask).tolist()
            mask.ravel()[rng.sample(visible, count - hidden)] = True
    return torch.from_numpy(masks)


def _rng() -> random.Random:
    """A generator of single numbers, many times as fast as torch's, seeded from torch's."""
    return random.Random(int(torch.randint(2**62, ())))


def _block(
    rng: random.Random, mask: np.ndarray, remaining: int, least: int, aspect: float
) -> tuple[slice, slice] | None:
    """Rows and columns of a block that hides 1 to `remaining` more; None if ten tries fail."""
    height, width = mask.shape
    for _ in range(10):
        area = rng.uniform(least, remaining)
        ratio = math.exp(rng.uniform(math.log(aspect), math.log(1 / aspect)))
        high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if not (0 < high < height and 0 < wide < width):
            continue
        block = _placed(rng, mask.shape, high, wide)
        if 0 < high * wide - int(mask[block].sum()) <= remaining:
            return block
    return None


def _placed(
    rng: random.Random, shape: tuple[int, ...], high: int, wide: int
) -> tuple[slice, slice]:
    """A block of this size at a place drawn uniformly from all where it fits."""
    top, left = rng.randint(0, shape[0] - high), rng.randint(0, shape[1] - wide)
    return slice(top, top + high), slice(left, left + wide)


def random_mask(samples: int, length: int, ratio: float = 0.75) -> Kept:
    """Positions hidden at random, equally many in each sample (MAE, arXiv 2111.06377).

    `int(length * (1 - ratio))` stay visible, at least one.
    """
    visible = max(1, int(length * (1 - ratio) + 1e-9))
    keep = torch.rand(samples, length).argsort(dim=1)[:, :visible].sort(dim=1).values
    mask = torch.ones(samples, length, dtype=torch.bool).scatter(1, keep, False)
    return Kept(mask, keep)


def tube_mask(samples: int, times: int, places: int, ratio: float = 0.9) -> Kept:
    """The same places hidden at all times (VideoMAE, arXiv 2203.12602): masks [B, times x places].

    Positions count through the places of the first time, then those of the second.
    """
    still = random_mask(samples, places, ratio)
    shift = places * torch.arange(times)[None, :, None]
    return Kept(still.mask.repeat(1, times), (still.keep[:, None] + shift).flatten(1))


def cell_mask(samples: int, height: int, width: int, ratio: float = 0.6) -> Tensor:
    """Cells hidden at random, `ceil(ratio * cells)` in each sample: bool [B, height, width].

    SimMIM, arXiv 2111.09886; cells are coarser than the network's patches: see `patchify.spread`.
    """
    count = math.ceil(ratio * height * width - 1e-9)
    order = torch.rand(samples, height * width).argsort(dim=1).argsort(dim=1)
    return (order < count).view(samples, height, width)


def tube_blocks(
    samples: int,
    height: int,
    width: int,
    *,
    blocks: int,
    area: float,
    aspect: tuple[float, float] = (0.75, 1.5),
) -> Tensor:
    """The union of blocks of space that are hidden at all times: bool [B, height, width].

    V-JEPA, arXiv 2404.08471, section 3.2: 8 blocks of 15 % of the area (short range) or 2 of 70 %
    (long range). The log of height over width is uniform; blocks are cut to the picture's sides.
    One place stays visible: a union that would cover all gives one up at random.
    """
    rng = _rng()
    masks = np.zeros((samples, height, width), dtype=bool)
    for mask in masks:
        for _ in range(blocks):
            ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
            size = area * height * width
            high = min(max(1, round(math.sqrt(size * ratio))), height)
            wide = min(max(1, round(math.sqrt(size / ratio))), width)
            mask[_placed(rng, mask.shape, high, wide)] = True
        if mask.all():
            mask[rng.randrange(height), rng.randrange(width)] = False
    return torch.from_numpy(masks)


def visible_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """What rows that hide different numbers of places leave visible, filled up to one length.

    mask: bool [N, L]. Returns keep, int64 [N, K], in rising order, and present, bool [N, K], False
    where a row is filled up; K is the largest number of any row.
    """
    counts = (~mask).sum(dim=1)
    longest = int(counts.max())
    keep = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    return keep, torch.arange(longest) < counts[:, None]
