"""Which permutations of 4, 9 or 16 tiles differ from each other in the most places?

No search finds better sets than algebra gives. The affine maps x -> a x + b of a field of n
elements are n (n - 1) permutations of which any two agree in at most one place; the fractional
linear maps of a projective line of n points are n (n - 1) (n - 2) that agree in at most two. Both
are as large as sets of that distance can be (Frankl, Deza 1977).
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from marey.configs.errors import SettingError

_FIELDS = {3: (3, 1, ()), 4: (2, 2, (1, 1)), 8: (2, 3, (1, 1, 0)), 9: (3, 2, (1, 0)),
           16: (2, 4, (1, 1, 0, 0))}  # fmt: skip
"""Of each finite field: characteristic, degree, and the lower coefficients of the irreducible
polynomial that defines it, constant first."""


def permutation_set(tiles: int, count: int) -> Tensor:
    """`count` permutations of `tiles` tiles, any two as different as can be: int64 [count, tiles].

    Row k says which tile each slot shows. The same table for the same arguments, always. The
    smallest Hamming distance is n up to n permutations and n - 1 up to n (n - 1); for 9 tiles it is
    7 up to 504 and 6 up to 1512.
    Raises SettingError for more permutations than that, or another number of tiles.
    """
    families = {
        4: (affine_maps(4), fractional_maps(3)),
        9: (affine_maps(9), fractional_maps(8), fractional_maps(8, squares=True)),
        16: (affine_maps(16),),
    }
    if tiles not in families:
        raise SettingError(f"permutations are known for 4, 9 or 16 tiles, not {tiles}")
    largest = len(families[tiles][-1])
    if not 2 <= count <= largest:
        raise SettingError(
            f"method.permutations must be within 2 to {largest} for {tiles} tiles, not {count}"
        )
    family = next(maps for maps in families[tiles] if len(maps) >= count)
    return torch.from_numpy(_far_apart(family, count))


def affine_maps(order: int) -> np.ndarray:
    """x -> a x + b, a not 0, of the field of `order` elements: int64 [n (n - 1), n].

    First come the n shifts, of which no two agree anywhere.
    """
    add, multiply = _tables(order)
    elements = np.arange(order)
    rows = [add[multiply[a, elements], b] for a in range(1, order) for b in range(order)]
    return np.array(rows, dtype=np.int64)


def fractional_maps(order: int, *, squares: bool = False) -> np.ndarray:
    """x -> (a x + b) / (c x + d), a d not b c, on the field and infinity (the point `order`).

    int64 [(n + 1) n (n - 1), n + 1] for n = `order`. `squares` (order 8 only) takes each map after
    each of x, x^2 and x^4 too: three times as many.
    """
    add, multiply = _tables(order)
    inverse = {a: int(np.argmax(multiply[a] == 1)) for a in range(1, order)}
    negative = [int(np.argmax(add[a] == 0)) for a in range(order)]
    points = range(order + 1)

    def image(point: int, a: int, b: int, c: int, d: int) -> int:
        above, below = (a, c) if point == order else (
            add[multiply[a, point], b], add[multiply[c, point], d])  # fmt: skip
        return order if below == 0 else int(multiply[above, inverse[int(below)]])

    maps = []
    for c, d in [(0, 1), *((1, d) for d in range(order))]:  # each map once, up to a common factor
        for a, b in itertools.product(range(order), repeat=2):
            if add[multiply[a, d], negative[multiply[b, c]]] != 0:
                maps.append([image(point, a, b, c, d) for point in points])
    table = np.array(maps, dtype=np.int64)
    if not squares:
        return table
    square = np.append(multiply[np.arange(order), np.arange(order)], order)
    return np.concatenate([table, table[:, square], table[:, square[square]]])


def _far_apart(family: np.ndarray, count: int) -> np.ndarray:
    """The paper's greedy choice within a family: next the one farthest from those chosen.

    Farthest by its smallest distance, then by the sum of its distances, then the first.
    """
    if count == len(family):
        return family
    chosen = [0]
    smallest = total = (family != family[0]).sum(axis=1)
    while len(chosen) < count:
        # a chosen one has distance 0 to itself and is never taken again
        chosen.append(int(np.argmax(smallest * (family.shape[1] * len(family) + 1) + total)))
        distance = (family != family[chosen[-1]]).sum(axis=1)
        smallest, total = np.minimum(smallest, distance), total + distance
    return family[chosen]


def _tables(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum and product of every two elements of a field, elements numbered by their digits."""
    prime, degree, lower = _FIELDS[order]
    digits = [[number // prime**k % prime for k in range(degree)] for number in range(order)]

    def number(coefficients: list[int]) -> int:
        return sum(c % prime * prime**k for k, c in enumerate(coefficients))

    def product(a: list[int], b: list[int]) -> list[int]:
        whole = [0] * (2 * degree - 1)
        for i, j in itertools.product(range(degree), repeat=2):
            whole[i + j] += a[i] * b[j]
        for power in range(2 * degree - 2, degree - 1, -1):
            for k, coefficient in enumerate(lower):
                whole[power - degree + k] -= whole[power] * coefficient
        return whole[:degree]

    add = [[number([x + y for x, y in zip(a, b, strict=True)]) for b in digits] for a in digits]
    multiply = [[number(product(a, b)) for b in digits] for a in digits]
    return np.array(add, dtype=np.int64), np.array(multiply, dtype=np.int64)
