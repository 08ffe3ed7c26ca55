"""Where in the window are the target's colours? Histograms of the box and of what surrounds it.

Bertinetto et al., "Staple: Complementary Learners for Real-Time Tracking", CVPR 2016, section 3.3:
a pixel's colour is more often inside or outside the box; the response at a displacement is the mean
of that likelihood over the displaced box. Works on the crops that the filter has cut already.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 16
"""Levels per colour channel; 4096 bins."""
BINS = LEVELS**3
STRIDE = 2
"""Every second pixel of a crop's rows and columns is read."""


@dataclass(frozen=True)
class ColourResponse:
    """Windows of P x P pixels in which the box covers the middle 1/`window` of each side."""

    pixels: int
    window: float
    cells: int
    device: torch.device
    rate: float = 0.04
    core: float = 0.8  # share of the box's sides that is learnt as the target

    @property
    def side(self) -> int:
        """Q, pixels on a side that are read."""
        return self.pixels // STRIDE

    def index(self, crops: Tensor) -> Tensor:
        """uint8 [N, P, P, 3] RGB -> int64 [N, Q, Q], the bin of each pixel that is read."""
        levels = crops[:, ::STRIDE, ::STRIDE] >> 4
        weights = torch.tensor([LEVELS * LEVELS, LEVELS, 1], device=crops.device)
        red, green, blue = levels.long().unbind(3)
        return red * weights[0] + green * weights[1] + blue

    def start(self, index: Tensor) -> dict[str, Tensor]:
        """The model of boxes in the middle of their windows: shares of colours, float32 [N, BINS].

        `inside`, `outside`: of the box and of what surrounds it; `first`: `inside` at the start.
        """
        inside, outside = self.shares(index)
        return {"inside": inside, "outside": outside, "first": inside.clone()}

    def learn(self, model: dict[str, Tensor], shares: tuple[Tensor, Tensor], learn: Tensor) -> None:
        """Moves the model towards `shares` where `learn` [N] is 1, in place."""
        model["inside"].lerp_(shares[0], (learn * self.rate)[:, None])
        model["outside"].lerp_(shares[1], (learn * self.rate)[:, None])

    def likelihood(self, model: dict[str, Tensor], index: Tensor) -> Tensor:
        """float32 [N, Q, Q], 0-1: is this pixel's colour one of the box's?"""
        inside, outside = model["inside"], model["outside"]
        share = (inside + 1e-5) / (inside + outside + 2e-5)
        return share.gather(1, index.flatten(1)).view(index.shape)

    def respond(self, likelihood: Tensor) -> Tensor:
        """float32 [N, S, S]: mean likelihood in the box displaced by whole cells (indices wrap)."""
        box, step = self._box(self.core), self.side // self.cells
        reach = self.cells // 2 * step
        before = reach - (self.side - box) // 2
        after = (self.cells - 1) * step + box - before - self.side
        padded = torch.nn.functional.pad(likelihood, (before, after, before, after))
        rows = torch.nn.functional.avg_pool2d(padded, (box, 1), (step, 1))
        means = torch.nn.functional.avg_pool2d(rows, (1, box), (1, step))
        half = self.cells // 2
        return means.roll((-half, -half), (1, 2))

    def shift(self, index: Tensor, moved: Tensor) -> Tensor:
        """The same windows re-centred by `moved` [N, 2] cells (x, y), borders repeated."""
        step = self.side / self.cells
        place = torch.arange(self.side, device=index.device)
        by = (moved * step).round().long()
        column = (place[None] + by[:, :1]).clamp_(0, self.side - 1)
        row = (place[None] + by[:, 1:]).clamp_(0, self.side - 1)
        flat = row[:, :, None] * self.side + column[:, None, :]
        return index.flatten(1).gather(1, flat.flatten(1)).view(index.shape)

    def _box(self, share: float = 1.0) -> int:
        """Pixels that a share of the box's sides covers: as even as Q, so that it has a middle."""
        wanted = self.side / self.window * share
        parity = self.side % 2
        return max(2 * round((wanted - parity) / 2) + parity, 2 - parity)

    def shares(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Colours of boxes in the middle of `index`, and of what surrounds them: [N, BINS] each."""
        box, core = self._box(), self._box(self.core)
        low = (self.side - core) // 2
        inside = index[:, low : low + core, low : low + core].flatten(1)
        ring = torch.ones(self.side, self.side, dtype=torch.bool, device=index.device)
        low = (self.side - box) // 2
        ring[low : low + box, low : low + box] = False
        around = index.flatten(1)[:, ring.flatten()]
        return _histogram(inside), _histogram(around)


def _histogram(index: Tensor) -> Tensor:
    """Shares float32 [N, BINS] of bins in int64 [N, n]."""
    one = torch.full((1, 1), 1.0 / index.shape[1], device=index.device).expand(index.shape)
    empty = torch.zeros(len(index), BINS, device=index.device)
    return empty.scatter_add_(1, index, one)
