"""Is the box still on what it started on? What a step knows of it, to be weighed on truth.

A filter that drifted onto the background answers with a high and sharp peak there: the height of
the peak does not tell a right track from a lost one. What tells them apart is whether the box still
looks like it did in the first frame, and whether its colours are still those of the target and not
of its surroundings. `python -m benchmarks.tracker_scores` fits weights on the tuning half of the
generated benchmark: a variant's `calibration`.
"""

import torch
from torch import Tensor

EVIDENCE = ("peak", "sharpness", "trend", "likeness", "inside", "contrast", "colours")
"""peak: height of the filter's response. sharpness: its ratio to the side lobe, log1p. trend: log
of the peak over its own running mean. likeness: correlation of the window's features with those of
the first frame, -1..1. inside: mean likelihood of the box's colours, 0-1. contrast: that, less the
window's mean. colours: overlap of the box's colour histogram with the first frame's, 0-1."""
WITHOUT_COLOUR = 4
"""Trackers without colour know the first four."""


def likeness(first: Tensor, now: Tensor) -> Tensor:
    """float32 [N]: correlation of S x S feature maps given by spectra complex64 [N, C, S, S//2+1].

    A channel's mean says little, so its zero frequency is left out.
    """
    a, b = torch.view_as_real(first), torch.view_as_real(now)

    def inner(x: Tensor, y: Tensor) -> Tensor:
        both = (x * y).sum(dim=(1, 4))  # [N, S, S//2+1]
        # all but the first column, and the last of an even S, stand for their mirror image too
        whole = 2.0 * both.sum(dim=(1, 2)) - both[:, :, 0].sum(dim=1)
        if both.shape[1] % 2 == 0:
            whole = whole - both[:, :, -1].sum(dim=1)
        return whole - both[:, 0, 0]

    return inner(a, b) / (inner(a, a) * inner(b, b)).clamp_min(1e-20).sqrt()
