"""How large is the target now? A one-dimensional correlation filter over scales (DSST).

Danelljan et al., "Accurate Scale Estimation for Robust Visual Tracking", BMVC 2014, section 3.2:
the box is cut at `num` sizes, each becomes one feature vector, and a filter along the sizes is
trained to peak at the true one. Batched over boxes like everything else here.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marey.trackers.crops import Crops
from marey.trackers.features import FHOG, Features

ScaleModel = dict[str, Tensor]


@dataclass(frozen=True)
class ScaleFilter:
    """Defaults of the paper: 33 scales 2 % apart, rate 0.025, lambda 0.01."""

    device: torch.device
    num: int = 33
    step: float = 1.02
    rate: float = 0.025
    ridge: float = 0.01
    sigma: float = 33 / 16.0  # of the target along the scale axis, in steps
    pixels: int = 32  # each scale's crop
    features: Features = field(default_factory=FHOG)

    @property
    def _exponents(self) -> NDArray[np.float64]:
        return np.arange(self.num, dtype=np.float64) - (self.num - 1) / 2.0

    def start(
        self,
        crops: Crops,
        clip: NDArray[np.int64],
        frame: NDArray[np.int64],
        centre: NDArray[np.float64],
        size: NDArray[np.float64],
    ) -> ScaleModel:
        """The model of boxes with `centre` and `size` float64 [B, 2] (see `Crops`)."""
        return self._model(self._sample(crops, clip, frame, centre, size))

    def update(
        self,
        model: ScaleModel,
        crops: Crops,
        clip: NDArray[np.int64],
        frame: NDArray[np.int64],
        centre: NDArray[np.float64],
        size: NDArray[np.float64],
        scale: NDArray[np.float64],
        trusted: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """The new scale [B] relative to the first `size`; learns where `trusted`."""
        z = self._sample(crops, clip, frame, centre, size * scale[:, None])
        answer = (model["a"].conj() * z).sum(dim=1) / (model["b"] + self.ridge)
        response = torch.fft.irfft(answer, n=self.num, dim=1)
        best = response.argmax(dim=1).cpu().numpy()
        shift = np.where(best > self.num // 2, best - self.num, best)
        new = np.where(trusted, scale * self.step**shift, scale)
        new = np.clip(new, 0.1, 10.0)
        moved = np.flatnonzero(trusted & (shift != 0))
        if len(moved):
            again = self._sample(
                crops, clip[moved], frame[moved], centre[moved], (size * new[:, None])[moved]
            )
            z[torch.from_numpy(moved).to(z.device)] = again
        rate = torch.from_numpy(np.where(trusted, self.rate, 0.0)).to(z.device, torch.float32)
        fresh = self._model(z)
        model["a"].lerp_(fresh["a"], rate[:, None, None].to(z.dtype))
        model["b"].lerp_(fresh["b"], rate[:, None])
        return new

    def _model(self, x: Tensor) -> ScaleModel:
        index = torch.arange(self.num, device=x.device)
        offset = torch.minimum(index, self.num - index).to(torch.float32)
        goal = torch.fft.rfft(torch.exp(-offset.square() / (2.0 * self.sigma**2)))
        return {"a": x * goal.conj(), "b": (x * x.conj()).real.sum(dim=1)}

    def _sample(
        self,
        crops: Crops,
        clip: NDArray[np.int64],
        frame: NDArray[np.int64],
        centre: NDArray[np.float64],
        size: NDArray[np.float64],
    ) -> Tensor:
        """complex64 [B, D, num//2+1]: the spectra along scales of D features."""
        boxes = len(clip)
        sizes = size[:, None, :] * (self.step**self._exponents)[None, :, None]
        repeat = np.repeat(np.arange(boxes), self.num)
        cut = crops(clip[repeat], frame[repeat], centre[repeat], sizes.reshape(-1, 2), self.pixels)
        maps = self.features(cut).flatten(1).view(boxes, self.num, -1).transpose(1, 2)
        window = torch.hann_window(self.num, periodic=False, device=maps.device)
        return torch.fft.rfft(maps * window, dim=2)
