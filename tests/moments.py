"""FrameIds of made-up frames."""

from collections.abc import Sequence

import torch

from marey.models.objectives.fingerprints import UNKNOWN
from marey.models.objectives.info_nce import FrameIds


def unseen(instance: Sequence[int], time_s: Sequence[float] | None = None) -> FrameIds:
    """Frames of these videos at these times (0 where none is given), whose pictures are unknown."""
    times_s = [0.0] * len(instance) if time_s is None else list(time_s)
    of = torch.tensor(list(instance))
    return FrameIds(of, torch.tensor(times_s), torch.full_like(of, UNKNOWN))
