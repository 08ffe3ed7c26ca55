"""Where is the peak of a response, how sharp is it, and how is a window re-centred on it?"""

import math
from functools import lru_cache

import torch
from torch import Tensor

SIDELOBE_RADIUS = 5  # MOSSE leaves an 11 x 11 window around the peak out of the side lobe, of 64;
COARSE_RADIUS = 2  # 5 x 5 on the coarse grids of cell features


def find_peaks(response: Tensor, *, with_psr: bool, merged: Tensor | None = None) -> Tensor:
    """response: float32 [B, S, S] -> float32 [B, 4]: height, dx, dy in cells, PSR (else 0).

    Displacements are signed (indices above S/2 wrap) and refined by a parabola per axis. PSR is the
    peak-to-sidelobe ratio (Bolme et al., CVPR 2010, section 3.5). merged: where to look for the
    peak instead; height and PSR are those of `response` at that place.
    """
    num, cells, _ = response.shape
    own = response.reshape(num, -1)
    flat = own if merged is None else merged.reshape(num, -1)
    height, place = flat.max(dim=1)
    at = torch.stack([place % cells, torch.div(place, cells, rounding_mode="floor")], dim=1)
    before, after = (at - 1) % cells, (at + 1) % cells  # [B, 2], as (column, row)
    column, row = at.unbind(1)
    around = torch.stack(
        [
            row * cells + before[:, 0], before[:, 1] * cells + column,
            row * cells + after[:, 0], after[:, 1] * cells + column,
        ],
        dim=1,
    )  # fmt: skip
    near = flat.gather(1, around)
    signed = torch.where(at > cells // 2, at - cells, at)
    moved = signed + _parabola(near[:, :2], height[:, None], near[:, 2:])
    if merged is not None:
        height = own.gather(1, place[:, None]).squeeze(1)
    psr = _psr(own, height, row, column, cells) if with_psr else torch.zeros_like(height)
    return torch.cat([height[:, None], moved, psr[:, None]], dim=1)


def shift_spectra(z: Tensor, moved: Tensor, cells: int) -> Tensor:
    """Spectra of the same windows re-centred by `moved` [B, 2] cells (x, y): content moves by -d.

    z: complex64 [B, C, S, S//2+1]. Exact for periodic content, near enough while `moved` is small
    against the Hann window.
    """
    rows, columns = _turns(cells, z.device)
    along, down = moved[:, :1] * columns, moved[:, 1:] * rows
    across = torch.polar(torch.ones_like(along), along)[:, None, :]
    return z * (torch.polar(torch.ones_like(down), down)[:, :, None] * across).unsqueeze(1)


@lru_cache(maxsize=32)
def _turns(cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """float32 [S], [S//2+1]: what a shift by one cell turns each row and column of a spectrum by,
    in radians."""
    angle = 2.0 * math.pi / cells
    rows = torch.fft.fftfreq(cells, 1.0 / cells, device=device)
    columns = torch.arange(cells // 2 + 1, device=device, dtype=torch.float32)
    return rows * angle, columns * angle


def _parabola(before: Tensor, peak: Tensor, after: Tensor) -> Tensor:
    curve = 2.0 * peak - after - before
    offset = 0.5 * (after - before) / curve.clamp_min(1e-6)
    return torch.where(curve < 1e-6, torch.zeros_like(offset), offset.clamp(-0.5, 0.5))


def _psr(flat: Tensor, height: Tensor, row: Tensor, column: Tensor, cells: int) -> Tensor:
    radius = SIDELOBE_RADIUS if cells >= 48 else COARSE_RADIUS
    near = torch.arange(-radius, radius + 1, device=flat.device)
    rows = (row[:, None] + near) % cells
    columns = (column[:, None] + near) % cells
    index = (rows[:, :, None] * cells + columns[:, None, :]).flatten(1)
    centre = flat.gather(1, index)
    count = cells * cells - index.shape[1]
    mean = (flat.sum(1) - centre.sum(1)) / count
    square = (flat.square().sum(1) - centre.square().sum(1)) / count
    return (height - mean) / (square - mean.square()).clamp_min(1e-12).sqrt()
