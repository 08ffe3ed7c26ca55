"""What sets the correlation trackers apart, beside the numbers that `configs.tracking` gives each?

The window's shape, the colours' weight and the scales were tried on the tuning half of the
generated benchmark alone (`docs/tracking.md`).
"""

from dataclasses import dataclass, field
from typing import Literal

from marey.trackers.features import FHOG, Colour, Features, Grey, Stack


@dataclass(frozen=True)
class Variant:
    """What a correlation filter looks at, and how it learns. The defaults are KCF on FHOG."""

    features: Features = field(default_factory=lambda: FHOG(colour=True))
    filter: Literal["kernel", "mosse", "strcf"] = "kernel"
    calibration: tuple[float, ...] = ()
    """Constant and weights of `evidence.EVIDENCE`; none: the score is the peak, or the PSR."""


# `python -m benchmarks.tracker_scores` on the tuning half, every third sequence, two starts
_OF_COLOUR = (-7.224, 0.0, 0.527, 0.0, 1.722, 0.0, 6.517, 4.134)
_OF_COLOUR_SCALE = (-7.890, 0.0, 0.717, 0.0, 2.110, 0.0, 6.880, 3.341)
_OF_STRCF = (-8.267, 0.0, 1.988, 0.0, 0.0, 0.0, 5.243, 0.306)

VARIANTS: dict[str, Variant] = {
    "mosse": Variant(Grey(log=True), "mosse"),
    "dcf-grey": Variant(Grey()),
    "kcf-grey": Variant(Grey()),
    "dcf-colour": Variant(calibration=_OF_COLOUR),
    "dcf-colour-scale": Variant(calibration=_OF_COLOUR_SCALE),
    "staple": Variant(calibration=_OF_COLOUR),
    "strcf": Variant(Stack((FHOG(colour=True), Colour())), "strcf", calibration=_OF_STRCF),
}
"""Those that are not as the defaults."""
