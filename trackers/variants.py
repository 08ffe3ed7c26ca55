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
    """Constant and weights of `evidence.EVIDENCE`."""


VARIANTS: dict[str, Variant] = {
    "mosse": Variant(Grey(log=True), "mosse"),
    "dcf-grey": Variant(Grey()),
    "kcf-grey": Variant(Grey()),
    "strcf": Variant(Stack((FHOG(colour=True), Colour())), "strcf"),
}
"""Those that are not as the defaults."""
