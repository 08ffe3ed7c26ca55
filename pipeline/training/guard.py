"""Which steps are not taken: those whose gradient is out of all proportion, or not finite."""

from __future__ import annotations

import math

from torch import Tensor

USUAL_AFTER = 20
"""Steps after which it is known how large gradients usually are."""
MEMORY = 0.98
"""Share of the usual norm that a step keeps."""
HOPELESS = 50
"""Steps left out in a row after which a run is taken as lost."""


class Guard:
    """Holds each step's gradient norm against the running mean of those before.

    The mean begins anew when a run is resumed.
    """

    def __init__(self, factor: float | None) -> None:
        """factor: how many times the usual norm is too large; None takes every step, and never
        waits for the device."""
        self.factor = factor
        self.skipped = 0
        """Steps that were not taken."""
        self._in_a_row = 0
        self._usual = 0.0
        self._seen = 0

    def hopes(self) -> bool:
        """Whether a loss that is not finite may be that of steps that were left out."""
        return self.skipped > 0 and self._in_a_row < HOPELESS

    def takes(self, norm: Tensor) -> bool:
        """Whether the step of this gradient norm, a scalar, is to be taken."""
        if self.factor is None:
            return True
        value = float(norm)
        known = self._seen >= USUAL_AFTER
        if not math.isfinite(value) or (known and value > self.factor * self._usual):
            self.skipped += 1
            self._in_a_row += 1
            return False
        self._in_a_row = 0
        # the mean of all at first, then of the last ones
        keep = min(MEMORY, self._seen / (self._seen + 1))
        self._usual = keep * self._usual + (1 - keep) * value
        self._seen += 1
        return True
