"""Where is the peak of a response, how sharp is it, and how is a window re-centred on it?"""

import math

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
    row = torch.div(place, cells, rounding_mode="floor")
    column = place - row * cells

    def at(r: Tensor, c: Tensor) -> Tensor:
        return flat.gather(1, ((r % cells) * cells + c % cells).unsqueeze(1)).squeeze(1)

    dy = _wrap(row, cells) + _parabola(at(row - 1, column), height, at(row + 1, column))
    dx = _wrap(column, cells) + _parabola(at(row, column - 1), height, at(row, column + 1))
    if merged is not None:
        height = own.gather(1, place[:, None]).squeeze(1)
    psr = _psr(own, height, row, column, cells) if with_psr else torch.zeros_like(height)
    return torch.stack([height, dx, dy, psr], dim=1)


def shift_spectra(z: Tensor, moved: Tensor, cells: int) -> Tensor:
    """Spectra of the same windows re-centred by `moved` [B, 2] cells (x, y): content moves by -d.

    z: complex64 [B, C, S, S//2+1]. Exact for periodic content, near enough while `moved` is small
    against the Hann window.
    """
    angle = 2.0 * math.pi / cells
    row = torch.fft.fftfreq(cells, 1.0 / cells, device=z.device)
    column = torch.arange(cells // 2 + 1, device=z.device, dtype=torch.float32)
    turn = angle * (
        moved[:, 1, None, None] * row[None, :, None] + moved[:, 0, None, None] * column[None, None]
    )
    return z * torch.polar(torch.ones_like(turn), turn).unsqueeze(1)


def _wrap(index: Tensor, cells: int) -> Tensor:
    return torch.where(index > cells // 2, index - cells, index).to(torch.float32)


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
