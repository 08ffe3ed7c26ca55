"""How two players with opposite aims are trained by one optimiser and one backward pass.

The discriminator's terms see the generator's output detached; the generator's terms see the
discriminator's weights detached. The gradient of their sum is then, for each player, that of its
own loss alone, and both take one step from the same weights.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional


class Game(NamedTuple):
    """The terms of both players, one for each row."""

    discriminator: Tensor
    """float [N], gradient for the discriminator only: log 2 where it cannot tell."""
    generator: Tensor
    """float [N], gradient for the generator only (non-saturating): log 2 where none can tell."""
    told: Tensor
    """float [N], no gradient: of a real and a made row, the share told rightly; 0.5 is chance."""


def play(discriminator: nn.Module, real: Tensor, made: Tensor) -> Game:
    """One round of a generative adversarial game (Goodfellow et al. 2014, arXiv 1406.2661).

    discriminator: maps rows to one logit each, [N, ...] -> [N] or [N, 1]; high means real.
    real, made: float [N, ...]; `made` carries the generator's gradient.
    Scale `generator` by the weight of the adversarial term; `discriminator` needs no scale.
    """
    frozen = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    # its running statistics, if any, count each batch once
    frozen |= {name: buffer.clone() for name, buffer in discriminator.named_buffers()}
    of_real = discriminator(real.detach()).float().flatten()
    of_made = discriminator(made.detach()).float().flatten()
    of_generator = functional_call(discriminator, frozen, (made,)).float().flatten()
    right = (of_real.detach() > 0).float() + (of_made.detach() <= 0).float()
    return Game(
        discriminator=(functional.softplus(-of_real) + functional.softplus(of_made)) / 2,
        generator=functional.softplus(-of_generator),
        told=right / 2,
    )
