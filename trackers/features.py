"""What does a patch look like to a correlation filter? Grey levels, FHOG and colour, in batches.

A `Features` takes uint8 crops and gives float32 maps on a grid of S x S cells. Everything here is
written per crop: no crop's value depends on another crop of the batch.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from marey.configs.errors import SettingError

ORIENTATIONS = 18  # signed directions of FHOG; the 9 unsigned ones are sums of opposite pairs
# Crops have values 0-1 and a cell sums about 16 pixels' gradients, so 1e-2 is the energy of a
# grey-level step of half a percent: noise below it is not blown up to full contrast.
BLOCK_EPS = 1e-2
CLIP = 0.2
# About this many crops keep the intermediate maps inside a core's cache.
CHUNK = 8


class Features(Protocol):
    """Turns crops into feature maps."""

    @property
    def channels(self) -> int:
        """Feature maps a crop."""
        ...

    @property
    def cell(self) -> int:
        """Crop pixels a cell."""
        ...

    @property
    def colour(self) -> bool:
        """True: reads [N, P, P, 3] RGB; False: reads [N, P, P] grey."""
        ...

    def __call__(self, crops: Tensor) -> Tensor:
        """crops: uint8 [N, P, P] or [N, P, P, 3] -> float32 [N, channels, P/cell, P/cell]."""
        ...


@dataclass(frozen=True)
class Grey:
    """Grey levels; `log` gives MOSSE's log-standardised patch (CVPR 2010, section 3.1)."""

    log: bool = False
    channels: int = 1
    cell: int = 1
    colour: bool = False

    def __call__(self, crops: Tensor) -> Tensor:
        """See `Features`."""
        values = crops.to(torch.float32)
        if not self.log:
            return (values / 255.0 - 0.5).unsqueeze(1)
        values = torch.log1p(values)
        std, mean = torch.std_mean(values, dim=(1, 2), keepdim=True)
        return values.sub_(mean).div_(std + 1e-5).unsqueeze(1)


@dataclass(frozen=True)
class FHOG:
    """31-channel histograms of oriented gradients (Felzenszwalb et al., TPAMI 2010).

    Cell 4 pixels; 18 signed + 9 unsigned directions + 4 texture channels, clipped at 0.2. The
    bilinear pooling to the four nearest cells runs on 2 x 2 pixel blocks, whose triangle weights
    are 1/4, 3/4, 3/4, 1/4 of the pixel-wise ones' means: four times less to scatter.
    With `colour` the channel with the largest gradient decides, otherwise grey levels do.
    """

    colour: bool = False
    channels: int = 31
    cell: int = 4

    def __call__(self, crops: Tensor) -> Tensor:
        """See `Features`."""
        if crops.shape[1] % self.cell:
            raise SettingError(f"crop of {crops.shape[1]} pixels: FHOG needs a multiple of 4")
        if crops.is_cuda:
            return _fhog(crops)
        return torch.cat([_fhog(chunk) for chunk in crops.split(CHUNK)])


@dataclass(frozen=True)
class Colour:
    """Mean colour of each cell, as soft memberships of `len(_ANCHORS)` anchor colours, and grey.

    Plays the part of the colour names of other trackers without their multi-megabyte table: the
    anchors are the corners and the middle of the RGB cube.
    """

    cell: int = 4
    sharpness: float = 12.0  # of the softmax over squared distances, colours in 0-1
    channels: int = 10
    colour: bool = True

    def __call__(self, crops: Tensor) -> Tensor:
        """See `Features`."""
        pixels = crops.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        cells = torch.nn.functional.avg_pool2d(pixels, self.cell)
        anchors = torch.tensor(_ANCHORS, device=crops.device)
        flat = cells.flatten(2)  # [N, 3, S*S]
        distance = (
            flat.square().sum(1, keepdim=True)
            - 2.0 * torch.matmul(anchors, flat)
            + anchors.square().sum(1)[None, :, None]
        )
        member = torch.softmax(-self.sharpness * distance, dim=1) - 1.0 / len(_ANCHORS)
        grey = flat.mean(1, keepdim=True) - 0.5
        return torch.cat([member, grey], dim=1).unflatten(2, cells.shape[2:])


_ANCHORS = [[r, g, b] for r in (0.0, 1.0) for g in (0.0, 1.0) for b in (0.0, 1.0)] + [[0.5] * 3]


@dataclass(frozen=True)
class Stack:
    """Several features side by side, each scaled to a mean square of 1; all read colour crops."""

    parts: tuple[Features, ...]
    colour: bool = True

    @property
    def channels(self) -> int:
        """Sum of the parts' channels."""
        return sum(part.channels for part in self.parts)

    @property
    def cell(self) -> int:
        """Crop pixels a cell."""
        return self.parts[0].cell

    def __call__(self, crops: Tensor) -> Tensor:
        """See `Features`."""
        maps = [part(crops) for part in self.parts]
        power = [m.square().mean(dim=(1, 2, 3), keepdim=True) for m in maps]
        return torch.cat([m * (p + 1e-8).rsqrt() for m, p in zip(maps, power, strict=True)], dim=1)


def _fhog(crops: Tensor) -> Tensor:
    dx, dy = _gradient(crops)
    return _block_normalise(_pool(*_scatter(dx, dy)))


def _gradient(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences [-1, 0, 1] of values 0-1, zero on the crop's border; [N, P, P] each."""
    if crops.ndim == 3:
        dx, dy = _differences(crops.to(torch.float32))
        return dx.div_(255.0), dy.div_(255.0)
    # colour: the channel with the largest gradient, the first of equal ones
    planes = crops.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    all_x, all_y = _differences(planes)
    powers = (all_x * all_x).addcmul_(all_y, all_y)
    dx, dy, power = all_x[0], all_y[0], powers[0]
    more = torch.empty_like(power)
    for other_x, other_y, other in zip(all_x[1:], all_y[1:], powers[1:], strict=True):
        # a weight of 0 or 1 chooses exactly, and is vectorised where `torch.where` is not
        torch.gt(other, power, out=more)
        dx, dy = torch.lerp(dx, other_x, more), torch.lerp(dy, other_y, more)
        power = torch.maximum(power, other)
    return dx.div_(255.0), dy.div_(255.0)


def _differences(values: Tensor) -> tuple[Tensor, Tensor]:
    """values: float32 [..., P, P] -> their differences across columns and rows, borders zero."""
    dx, dy = torch.zeros_like(values), torch.zeros_like(values)
    torch.sub(values[..., 2:], values[..., :-2], out=dx[..., 1:-1])
    torch.sub(values[..., 2:, :], values[..., :-2, :], out=dy[..., 1:-1, :])
    return dx, dy


@lru_cache(maxsize=8)
def _slots(side: int, device: torch.device) -> Tensor:
    """float32 [side*side]: the place of each pixel's 2 x 2 block in a [2, 2, S, S] layout."""
    row = torch.arange(side, device=device) // 2
    parity, cell = row % 2, row // 2
    cells = side // 4
    column = parity * cells * cells + cell
    line = parity * 2 * cells * cells + cell * cells
    return (line[:, None] + column[None, :]).reshape(-1).to(torch.float32)


def _scatter(dx: Tensor, dy: Tensor) -> tuple[Tensor, int]:
    """Gradient magnitudes summed by direction and 2 x 2 block: [N, 19, 2, 2, S, S] and S.

    Direction 18 is direction 0 again (an angle just below pi); `_pool` folds it.
    """
    num, side = dx.shape[:2]
    cells = side // 4
    plane = 4 * cells * cells
    magnitude = (dx * dx).addcmul_(dy, dy).sqrt_()
    # The index fits a float32 exactly (below 2^24) for CHUNK crops of up to 300 pixels; larger
    # batches (GPU) add the crop's offset as an integer.
    direction = torch.atan2(dy, dx).mul_(ORIENTATIONS / (2.0 * math.pi)).add_(9.5).floor_()
    index = direction.view(num, -1).mul_(plane).add_(_slots(side, dx.device)).long()
    sums = magnitude.new_zeros(num, (ORIENTATIONS + 1) * plane)
    sums.scatter_add_(1, index, magnitude.view(num, -1))
    return sums.view(num, ORIENTATIONS + 1, 2, 2, cells, cells), cells


def _pool(sums: Tensor, cells: int) -> Tensor:
    """Triangle weights 1/4, 3/4, 3/4, 1/4 over blocks, both axes: [N, 18, S, S]."""
    del cells
    sums[:, 0] += sums[:, ORIENTATIONS]
    sums = sums[:, :ORIENTATIONS]
    first, second = sums[:, :, 0], sums[:, :, 1]
    rows = (first + second).mul_(0.75)
    rows[:, :, :, 1:].add_(second[:, :, :, :-1], alpha=0.25)
    rows[:, :, :, :-1].add_(first[:, :, :, 1:], alpha=0.25)
    first, second = rows[:, :, 0], rows[:, :, 1]
    pooled = (first + second).mul_(0.75)
    pooled[..., 1:].add_(second[..., :-1], alpha=0.25)
    pooled[..., :-1].add_(first[..., 1:], alpha=0.25)
    return pooled


def _block_normalise(signed: Tensor) -> Tensor:
    """Histograms [N, 18, S, S] -> FHOG [N, 31, S, S]: four block norms, clipped and summed."""
    num, _, cells, _ = signed.shape
    unsigned = signed[:, :9] + signed[:, 9:]
    energy = unsigned.square().sum(dim=1, keepdim=True)
    energy = torch.nn.functional.pad(energy, (1, 1, 1, 1), mode="replicate")
    line = energy[:, :, :-1] + energy[:, :, 1:]
    norm = (line[..., :-1] + line[..., 1:]).add_(BLOCK_EPS).rsqrt_()  # [N, 1, S+1, S+1]
    both = torch.cat([signed, unsigned], dim=1)
    out = signed.new_empty(num, 31, cells, cells)
    total = out[:, :27]
    for q, (i, j) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        block = norm[:, :, i : i + cells, j : j + cells].contiguous()
        if q == 0:
            clipped = torch.mul(both, block, out=total).clamp_(max=CLIP)
        else:
            clipped = (both * block).clamp_(max=CLIP)
        torch.sum(clipped[:, :ORIENTATIONS], dim=1, out=out[:, 27 + q])
        if q:
            total.add_(clipped)
    total.mul_(0.5)
    out[:, 27:].mul_(0.2357)
    return out
