"""Which filter answers with a peak where the target is? MOSSE, DCF, KCF and STRCF, in batches.

All filters work on spectra `rfft2(hann * features)`: complex64 [B, C, S, S//2+1]. Their model is a
dict of tensors whose first dimension is the box, so that slots are dropped and added by indexing.
A response is float32 [B, S, S] whose peak lies at +d (indices wrap) when the content moved by d
cells inside the window.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

Model = dict[str, Tensor]


class Filter(Protocol):
    """Learns one target a box from spectra and answers where it is."""

    def start(self, x: Tensor, target_cells: Tensor) -> Model:
        """The model after the first frame. target_cells: float32 [B, 2], width and height."""
        ...

    def respond(self, model: Model, z: Tensor) -> Tensor:
        """float32 [B, S, S]: where the targets are in the windows with spectra `z`."""
        ...

    def learn(self, model: Model, x: Tensor, rate: Tensor) -> None:
        """Moves every model towards `x` by `rate` [B] (0: not at all), in place."""
        ...


@lru_cache(maxsize=32)
def goal_spectrum(cells: int, sigma: float, device: torch.device) -> Tensor:
    """complex64 [S, S//2+1]: the spectrum of `gaussian_target`."""
    return torch.fft.rfft2(gaussian_target(cells, sigma, device))


def gaussian_target(cells: int, sigma: float, device: torch.device) -> Tensor:
    """float32 [S, S]: exp(-d^2 / (2 sigma^2)) with wrapped indices, peak 1 at [0, 0]."""
    index = torch.arange(cells, device=device)
    offset = torch.minimum(index, cells - index).to(torch.float32)
    line = torch.exp(-offset.square() / (2.0 * sigma**2))
    return line[:, None] * line[None, :]


def hann(cells: int, device: torch.device) -> Tensor:
    """float32 [S, S], symmetric, zero at the border."""
    line = torch.hann_window(cells, periodic=False, device=device)
    return line[:, None] * line[None, :]


@dataclass(frozen=True)
class Kernelised:
    """KCF (Gaussian kernel) or, with `sigma` 0, the linear DCF (arXiv 1404.7584)."""

    cells: int
    channels: int
    target_sigma: float  # cells
    sigma: float
    ridge: float  # lambda
    device: torch.device

    @property
    def _numel(self) -> int:
        return self.channels * self.cells * self.cells

    def start(self, x: Tensor, target_cells: Tensor) -> Model:
        """See `Filter`."""
        del target_cells
        auto = _power(x)
        return {"x": x.clone(), "energy": _energy(auto, self.cells), "alpha": self._alpha(auto)}

    def respond(self, model: Model, z: Tensor) -> Tensor:
        """Equations 16, 22 and 31 of the paper."""
        cross = (z * model["x"].conj()).sum(dim=1)
        energy = model["energy"]
        if self.sigma:
            energy = energy + _energy(_power(z), self.cells)
        kernel = torch.fft.rfft2(self._kernel(cross, energy))
        return torch.fft.irfft2(kernel * model["alpha"], s=(self.cells, self.cells))

    def learn(self, model: Model, x: Tensor, rate: Tensor) -> None:
        """See `Filter`; both the template and alpha are interpolated."""
        alpha = self._alpha(_power(x))
        model["alpha"].lerp_(alpha, rate[:, None, None].to(alpha.dtype))
        model["x"].lerp_(x, rate[:, None, None, None].to(x.dtype))
        model["energy"].copy_(_energy(_power(model["x"]), self.cells))

    def _alpha(self, auto: Tensor) -> Tensor:
        kernel = self._kernel(auto, 2.0 * _energy(auto, self.cells))
        goal = goal_spectrum(self.cells, self.target_sigma, self.device)
        return goal / (torch.fft.rfft2(kernel) + self.ridge)

    def _kernel(self, cross: Tensor, energy: Tensor) -> Tensor:
        correlation = torch.fft.irfft2(cross, s=(self.cells, self.cells))
        if not self.sigma:
            return correlation / self._numel
        distance = (energy[:, None, None] - 2.0 * correlation).clamp_(min=0.0)
        return distance.mul_(-1.0 / (self.sigma**2 * self._numel)).exp_()


@dataclass(frozen=True)
class Mosse:
    """MOSSE: the ratio of a running cross and a running power spectrum (CVPR 2010, section 3)."""

    cells: int
    target_sigma: float
    eps: float
    device: torch.device

    def start(self, x: Tensor, target_cells: Tensor) -> Model:
        """See `Filter`; `x` may be the sum over warped copies (see `correlation.py`)."""
        del target_cells
        return {"a": self._goal() * x.conj(), "b": (x * x.conj()).real.clone()}

    def respond(self, model: Model, z: Tensor) -> Tensor:
        """See `Filter`."""
        answer = (z * model["a"] / (model["b"] + self.eps)).sum(dim=1)
        return torch.fft.irfft2(answer, s=(self.cells, self.cells))

    def learn(self, model: Model, x: Tensor, rate: Tensor) -> None:
        """Equations 10 to 12 of the paper."""
        rate = rate[:, None, None, None]
        model["a"].lerp_(self._goal() * x.conj(), rate.to(x.dtype))
        model["b"].lerp_((x * x.conj()).real, rate)

    def _goal(self) -> Tensor:
        return goal_spectrum(self.cells, self.target_sigma, self.device)


@dataclass(frozen=True)
class SpatioTemporal:
    """A filter kept inside the box and near its previous value, solved by ADMM.

    The window may then be large against the target without the background being learnt. Spatial and
    temporal terms and the closed form a frequency are STRCF's (Li et al., CVPR 2018, equations 5 to
    13); the sample is a running mean as in BACF (Kiani Galoogahi et al., ICCV 2017, section 3.3),
    because a single frame's sample drifts.
    """

    cells: int
    target_sigma: float
    device: torch.device
    temporal: float  # mu, for features with a mean square of 1
    outside: float = 1e5  # penalty outside the box, and
    inside: float = 1e-3  # inside it (section 4.1's released values)
    steps: int = 2
    penalty: float = 1.0  # gamma of the first step,
    penalty_growth: float = 10.0  # its factor a step

    def start(self, x: Tensor, target_cells: Tensor) -> Model:
        """See `Filter`."""
        index = torch.arange(self.cells, device=self.device, dtype=torch.float32)
        offset = (index - (self.cells - 1) / 2.0).abs()
        near_x = offset[None, :] <= target_cells[:, :1] / 2.0
        near_y = offset[None, :] <= target_cells[:, 1:] / 2.0
        near = near_y[:, :, None] & near_x[:, None, :]
        weight = torch.where(near, self.inside, self.outside)
        model = {"f": torch.zeros_like(x), "weight": weight.to(torch.float32)}
        model["x"] = x.clone()
        model["f"] = self._solve(x, model, temporal=0.0)
        return model

    def respond(self, model: Model, z: Tensor) -> Tensor:
        """See `Filter`."""
        answer = (z * model["f"].conj()).sum(dim=1)
        return torch.fft.irfft2(answer, s=(self.cells, self.cells))

    def learn(self, model: Model, x: Tensor, rate: Tensor) -> None:
        """See `Filter`; a rate of 0 freezes sample and filter."""
        model["x"].lerp_(x, rate[:, None, None, None].to(x.dtype))
        solved = self._solve(model["x"], model, temporal=self.temporal)
        model["f"] = torch.where((rate > 0)[:, None, None, None], solved, model["f"])

    def _solve(self, x: Tensor, model: Model, temporal: float) -> Tensor:
        goal = goal_spectrum(self.cells, self.target_sigma, self.device)
        total = self.cells * self.cells
        weight = model["weight"].square()[:, None]
        power = _power(x).real[:, None]
        xy = x * goal.conj()
        if temporal:
            xy = xy + temporal * model["f"]
        g = torch.zeros_like(x)
        h = torch.zeros_like(x)
        f, penalty = x, self.penalty
        for step in range(self.steps):
            q = xy if step == 0 else xy + penalty * (g - h)
            ridge = temporal + penalty
            along = (x.conj() * q).sum(dim=1, keepdim=True) / (ridge + power)
            f = (q - x * along) / ridge
            spatial = torch.fft.irfft2(f + h, s=(self.cells, self.cells))
            spatial = spatial * (total * penalty / (weight + total * penalty))
            g = torch.fft.rfft2(spatial)
            h = h + f - g
            penalty = penalty * self.penalty_growth
        return g


def _power(x: Tensor) -> Tensor:
    """Sum over channels of |x|^2, as a complex spectrum [B, S, S//2+1] with no imaginary part."""
    pairs = torch.view_as_real(x)
    power = (pairs * pairs).sum(dim=1).sum(dim=-1)  # a complex product would copy the conjugate
    return torch.complex(power, torch.zeros_like(power))


def _energy(power: Tensor, cells: int) -> Tensor:
    """Parseval: the squared norm [B] of the maps whose summed power spectrum is `power`."""
    real = power.real
    last = real.shape[2] - (1 if cells % 2 == 0 else 0)
    both = real[:, :, 0].sum(1) + 2.0 * real[:, :, 1:last].sum((1, 2))
    if cells % 2 == 0:
        both = both + real[:, :, last].sum(1)
    return both / (cells * cells)
