"""An exponential moving average (EMA) of the exported encoder's weights, as `trainer.ema` asks."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from marey.models.encoders.encoder import Encoder
from marey.models.encoders.momentum import follow


def decay_at(step: int, decay: float) -> float:
    """The share of the old average that update `step` (from 1) keeps: at most `decay`.

    It warms up as (1 + step) / (10 + step), so that a run of a few steps exports what it has
    learned and not the random weights that it started from (Abadi et al., TensorFlow's
    `ExponentialMovingAverage` with `num_updates`).
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """Holds `encoder`, the average of another encoder's weights and running statistics."""

    def __init__(self, encoder: Encoder, decay: float) -> None:
        """Starts as a copy of `encoder`; decay: the share kept per step once it has warmed up."""
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, encoder: Encoder, step: int) -> None:
        """Move towards the weights of `encoder` after optimiser step `step` (from 1)."""
        averages, values = [], []
        theirs = encoder.state_dict()
        for name, mine in self.encoder.state_dict().items():
            if mine.is_floating_point():
                averages.append(mine)
                values.append(theirs[name])
            else:
                mine.copy_(theirs[name])
        follow(averages, values, 1 - decay_at(step, self.decay))

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint."""
        return self.encoder.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a checkpoint's; also those of versions that wrapped them in `AveragedModel`."""
        own = {name.removeprefix("module."): t for name, t in state.items() if name != "n_averaged"}
        self.encoder.load_state_dict(own)
