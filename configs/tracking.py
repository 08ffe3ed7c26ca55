"""What can be set for each tracker: meaning, default, bounds.

The trackers take their defaults from here, those that a plugin adds from the model it declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from marey.configs.base import Settings
from marey.configs.load import check


class TrackerSettings(Settings):
    """Base of every tracker's settings."""

    persistent: bool = False
    """Never end a track: where the target is lost the box stays (one-pass evaluation)."""


class CorrelationSettings(TrackerSettings):
    """A correlation filter: MOSSE, DCF, KCF, DSST or STRCF, by the name of the tracker.

    The defaults are KCF on FHOG (arXiv 1404.7584, table 2).
    """

    pixels: int = Field(default=80, ge=16, le=512)
    """Side of the resampled search window in pixels."""
    window: float = Field(default=2.5, gt=1, le=10)
    """Sides of the search window, in those of the box."""
    own_shape: bool = True
    """The window has the box's aspect; false: it is square, of equal area."""
    kernel_sigma: float = Field(default=0.5, ge=0, le=10)
    """Width of the Gaussian kernel (KCF); 0 is the linear kernel (DCF)."""
    ridge: float = Field(default=1e-4, gt=0, le=1)
    """Ridge penalty of the filter (lambda)."""
    rate: float = Field(default=0.02, ge=0, le=1)
    """Learning rate of the filter per frame (eta)."""
    target_sigma: float = Field(default=0.1, gt=0, le=1)
    """Width of the desired response, in box sizes."""
    colour_weight: float = Field(default=0.0, ge=0, le=1)
    """Share of the colour histograms in the response (Staple); 0: none."""
    min_score: float = Field(default=0.35, ge=-1, le=1000)
    """Score below which the target counts as lost; -1: never."""
    learn_score: float = Field(default=0.0, ge=0, le=1000)
    """Score below which a frame is not learned from, though the track goes on."""
    score: Literal["peak", "psr"] = "peak"
    """What the response is measured by: its peak, or the peak-to-sidelobe ratio."""
    scale_step: float = Field(default=1.0, ge=1, le=2)
    """Above 1: also search one size smaller and larger by this factor."""
    scale_penalty: float = Field(default=0.98, gt=0, le=1)
    """Factor on the response of the other sizes."""
    scale_every: int = Field(default=1, ge=1, le=100)
    """Frames from one search over the three sizes to the next."""
    scale_filter: bool = False
    """Estimate the size by a one-dimensional filter over scales (DSST)."""
    scales: int = Field(default=33, ge=3, le=101)
    """Sizes that the filter over scales looks at."""
    scales_step: float = Field(default=1.02, gt=1, le=1.2)
    """Ratio of one of those sizes to the next."""
    recrop_cells: float = Field(default=1.0, ge=0, le=100)
    """Motions smaller than this many cells are learned without cutting a new window."""
    temporal: float = Field(default=0.0, ge=0, le=1e8)
    """STRCF: weight of the previous frame's filter."""
    steps: int = Field(default=2, ge=1, le=100)
    """STRCF: ADMM iterations per frame."""
    warps: int = Field(default=0, ge=0, le=1000)
    """MOSSE: random affine copies of the first window that the filter starts from."""
    patience: int = Field(default=0, ge=0, le=10_000)
    """Frames with a low response that are bridged at constant velocity before a track ends."""
    batch: int = Field(default=0, ge=0, le=1_000_000)
    """Boxes per step; 0: 32 on a CPU, 4096 on a GPU."""
    device: str = "cpu"
    """Where the filters run: cpu, or cuda."""


class MedianFlowSettings(TrackerSettings):
    """Median flow: points on a grid in the box, checked forward and backward."""

    grid: int = Field(default=10, ge=2, le=100)
    """Points on a side of the grid."""
    max_fb_error: float = Field(default=2.0, gt=0, le=1000)
    """Median forward-backward error, in pixels, above which the target counts as lost."""
    max_spread: float = Field(default=10.0, gt=0, le=1000)
    """Median deviation of the points' shifts, in pixels, above which it counts as lost."""


class AffinitySettings(TrackerSettings):
    """Label propagation on image features (the contrastive random walk's evaluation)."""

    height: int = Field(default=256, ge=32, le=2160)
    """Height in pixels that frames are resized to."""
    stride: int = Field(default=8, ge=2, le=64)
    """Pixels per cell of the feature map."""
    temperature: float = Field(default=0.05, gt=0, le=100)
    """Temperature of the softmax over the most similar cells."""
    top_k: int = Field(default=10, ge=1, le=10_000)
    """Most similar cells that a cell takes its mask from."""
    radius: float = Field(default=12.0, gt=0, le=1000)
    """Cells farther apart than this do not exchange masks."""
    memory: int = Field(default=7, ge=0, le=1000)
    """Recent frames that are kept beside the first."""
    min_mass: float = Field(default=0.3, ge=0, le=1)
    """Share of the first mask's mass below which the target counts as lost."""
    device: str = "cpu"
    """Where the features are computed: cpu, or cuda."""


class OpenCVSettings(TrackerSettings):
    """A tracker of OpenCV, as it is."""


_declared: dict[str, TrackerSettings] = {}


def declare_tracker(name: str, settings: TrackerSettings) -> None:
    """Make a tracker's settings known: the model, with the tracker's own values as defaults."""
    _declared[name] = settings


def declared_tracker(name: str) -> TrackerSettings | None:
    """The settings of a tracker with its defaults; None for one that declares none."""
    return _declared.get(name)


def tracker_options(name: str, given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Those settings of a tracker that were given, checked and converted.

    A tracker that declares no settings gets the words as they are; `trackers.build` then refuses
    those that it does not take. Raises SettingError for an unknown or wrong one.
    """
    known = declared_tracker(name)
    if known is None:
        return dict(given)
    checked = check(type(known), {**known.model_dump(), **given}, prefix)
    return {key: getattr(checked, key) for key in given}


for _name, _settings in {
    "mosse": CorrelationSettings(
        own_shape=False, pixels=64, rate=0.125, target_sigma=2.0 / 64 * 2.5,  # 2 px of the 64
        score="psr", min_score=7.0, warps=8,
    ),
    "dcf-grey": CorrelationSettings(
        own_shape=False, kernel_sigma=0.0, target_sigma=1 / 16, rate=0.075, min_score=0.25
    ),
    "kcf-grey": CorrelationSettings(
        own_shape=False, kernel_sigma=0.2, target_sigma=0.08, rate=0.075, min_score=0.5
    ),
    "dcf-hog": CorrelationSettings(kernel_sigma=0.0),
    "kcf-hog": CorrelationSettings(),
    "kcf-hog-scale": CorrelationSettings(scale_step=1.05),
    "dsst-hog": CorrelationSettings(kernel_sigma=0.0, scale_filter=True),
    "dcf-colour": CorrelationSettings(kernel_sigma=0.0, colour_weight=0.3, min_score=0.02),
    "dcf-colour-scale": CorrelationSettings(
        kernel_sigma=0.0, colour_weight=0.3, scale_step=1.03, scale_penalty=0.99, min_score=0.02
    ),
    "staple": CorrelationSettings(
        kernel_sigma=0.0, colour_weight=0.3, scale_filter=True, min_score=0.02
    ),
    "strcf": CorrelationSettings(
        pixels=160, window=4.0, rate=0.01, target_sigma=1 / 16, temporal=1e4,
        colour_weight=0.3, scale_filter=True, min_score=0.1,
    ),
    "median-flow": MedianFlowSettings(),
    "affinity": AffinitySettings(),
    **{f"opencv-{n}": OpenCVSettings() for n in ("kcf", "csrt", "mosse", "medianflow", "mil")},
}.items():  # fmt: skip
    declare_tracker(_name, _settings)
