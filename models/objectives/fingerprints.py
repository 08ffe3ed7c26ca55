"""Do two frames show one picture, whatever video they come from? By difference hashes (dHash).

64 bits a picture: whether each of 8 x 8 cells is brighter than its right neighbour. Re-uploads,
still scenes and frames seconds apart of a camera that watches an empty room differ in few of them,
two pictures drawn at random in about 32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

UNKNOWN = 0
"""The hash of nothing, and of a picture without contrast: it is like no other."""
_ROWS, _COLUMNS = 8, 9
_BITS = _ROWS * (_COLUMNS - 1)


def dhash(frames: Tensor) -> Tensor:
    """The hash of every frame: uint8 [..., H, W, 3] -> int64 [...]."""
    brightness = frames.flatten(0, -4).sum(dim=3, dtype=torch.int16).float()
    cells = functional.adaptive_avg_pool2d(brightness, (_ROWS, _COLUMNS))
    bits = (cells[..., :-1] > cells[..., 1:]).flatten(1)
    place = torch.arange(_BITS, device=bits.device)
    return (bits.long() << place).sum(dim=1).view(frames.shape[:-3])


def same_picture(rows: Tensor, columns: Tensor, bits: int) -> Tensor:
    """bool [R, C]: the hashes, int64 [R] and [C], differ in at most so many bits."""
    # of +1 and -1 for each bit, equal ones add to the product and others take away
    agreement = _signs(rows) @ _signs(columns).T
    return (agreement >= _BITS - 2 * bits) & _known(rows[:, None], columns)


def same_picture_each(rows: Tensor, chosen: Tensor, bits: int) -> Tensor:
    """bool [R, M]: as `same_picture`, with columns of each row's own, int64 [R, M]."""
    return (_bit_count(rows[:, None] ^ chosen) <= bits) & _known(rows[:, None], chosen)


def _known(first: Tensor, second: Tensor) -> Tensor:
    return (first != UNKNOWN) & (second != UNKNOWN)


def _signs(hashes: Tensor) -> Tensor:
    place = torch.arange(_BITS, device=hashes.device)
    return ((hashes[:, None] >> place) & 1).float() * 2 - 1


def _bit_count(words: Tensor) -> Tensor:
    """How many bits are set, of int64 words, which are overwritten: sums of neighbouring fields."""
    fields = (words >> 1).bitwise_and_(0x5555555555555555)
    words.sub_(fields)
    fields = (words >> 2).bitwise_and_(0x3333333333333333)
    words.bitwise_and_(0x3333333333333333).add_(fields)
    words.add_(words >> 4).bitwise_and_(0x0F0F0F0F0F0F0F0F)
    return words.mul_(0x0101010101010101).bitwise_right_shift_(56)
