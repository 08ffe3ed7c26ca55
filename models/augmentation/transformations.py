"""Which fixed changes of an image serve as labels: quarter turns and exchanges of its colours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

TURNS = 4
"""Quarter turns until an image is back where it was."""

COLOR_ORDERS = {
    1: ((0, 1, 2),),
    3: ((0, 1, 2), (1, 2, 0), (2, 0, 1)),
    6: tuple(itertools.permutations(range(3))),
}
"""Orders of the three channels by how many there are: none, the cyclic ones, all; first comes the
order that changes nothing."""


def quarter_turns(images: Tensor, turns: Sequence[int] = range(TURNS)) -> Tensor:
    """Each image turned: [..., C, S, S] of any type -> [..., len(turns), C, S, S].

    One turn is counter-clockwise and only exchanges pixels, so that nothing is interpolated and
    four of them are exactly the image. Raises ValueError for images that are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"only square images turn onto themselves, not {tuple(images.shape[-2:])}")
    turned = [torch.rot90(images, number, (-2, -1)) for number in turns]
    return torch.stack(turned, dim=-4)


def color_orders(images: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """Each image with its channels exchanged: [..., 3, S, S] -> [..., len(orders), 3, S, S]."""
    index = torch.tensor([list(order) for order in orders], device=images.device)
    return images[..., index, :, :]
