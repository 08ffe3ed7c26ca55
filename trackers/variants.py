"""Which correlation trackers are there, and what sets them apart?

The window's shape, the colours' weight and the scales were tried on the tuning half of the
generated benchmark alone (`docs/tracking.md`).
"""

from dataclasses import dataclass, field
from typing import Literal

from marey.trackers.features import FHOG, Colour, Features, Grey, Stack


@dataclass(frozen=True)
class Settings:
    """One correlation filter. The defaults are KCF on FHOG (arXiv 1404.7584, table 2)."""

    features: Features = field(default_factory=lambda: FHOG(colour=True))
    filter: Literal["kernel", "mosse", "strcf"] = "kernel"
    pixels: int = 80  # side of the resampled window
    window: float = 2.5  # window's sides over the box's
    own_shape: bool = True  # the window has the box's aspect; else it is square, of equal area
    kernel_sigma: float = 0.5  # 0: linear kernel (DCF)
    ridge: float = 1e-4  # lambda
    rate: float = 0.02  # eta
    target_sigma: float = 0.1  # of sqrt(w * h)
    colour_weight: float = 0.0  # of the colour histograms' response (Staple), 0-1
    min_score: float = 0.35  # below: the target is not there; not learnt, the track ends
    learn_score: float = 0.0  # below: the frame is not learnt, though the track goes on
    score: Literal["peak", "psr"] = "peak"  # of trackers that are not calibrated
    calibration: tuple[float, ...] = ()  # constant and weights of `evidence.EVIDENCE`
    scale_step: float = 1.0  # above 1: also look at 1/step and step
    scale_penalty: float = 0.98
    scale_filter: bool = False  # one-dimensional scale filter (DSST)
    scales: int = 33  # of the scale filter, and
    scales_step: float = 1.02  # the ratio from one to the next
    recrop_cells: float = 1.0  # a smaller motion is learnt by shifting the detection spectra
    temporal: float = 0.0  # weight of the previous filter ("strcf"), and
    steps: int = 2  # ADMM steps per frame
    warps: int = 0  # random affine copies of the first window (MOSSE)

    @property
    def cells(self) -> int:
        """S, cells on a side of the window."""
        return self.pixels // self.features.cell


VARIANTS: dict[str, Settings] = {
    "mosse": Settings(
        features=Grey(log=True),
        filter="mosse",
        own_shape=False,
        pixels=64,
        rate=0.125,
        target_sigma=2.0 / 64 * 2.5,  # 2 px of the 64
        score="psr",
        min_score=7.0,
        warps=8,
    ),
    "dcf-grey": Settings(
        features=Grey(),
        own_shape=False,
        pixels=80,
        kernel_sigma=0.0,
        target_sigma=1 / 16,
        rate=0.075,
        min_score=0.25,
    ),
    "kcf-grey": Settings(
        features=Grey(),
        own_shape=False,
        pixels=80,
        kernel_sigma=0.2,
        target_sigma=0.08,
        rate=0.075,
        min_score=0.5,
    ),
    "dcf-hog": Settings(kernel_sigma=0.0),
    "kcf-hog": Settings(),
    "kcf-hog-scale": Settings(scale_step=1.05),
    "dsst-hog": Settings(kernel_sigma=0.0, scale_filter=True),
    "dcf-colour": Settings(kernel_sigma=0.0, colour_weight=0.3),
    "dcf-colour-scale": Settings(
        kernel_sigma=0.0, colour_weight=0.3, scale_step=1.03, scale_penalty=0.99
    ),
    "staple": Settings(kernel_sigma=0.0, colour_weight=0.3, scale_filter=True),
    "strcf": Settings(
        features=Stack((FHOG(colour=True), Colour())),
        filter="strcf",
        pixels=160,
        window=4.0,
        rate=0.01,
        target_sigma=1.0 / 16.0,
        temporal=1e4,
        colour_weight=0.3,
        scale_filter=True,
        min_score=0.1,
    ),
}
