"""Is a network left as it was found after a look at it?"""

import pytest
import torch
from torch import nn

from marey.models.encoders.modes import evaluating


def _network() -> nn.Sequential:
    """A frozen part in eval mode beside one that is trained."""
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    network[0].eval()
    return network


def _modes(network: nn.Module) -> list[bool]:
    return [part.training for part in network.modules()]


def test_every_part_gets_its_own_mode_back() -> None:
    network = _network()
    before = _modes(network)
    statistics = network[2].running_mean.clone()
    with evaluating(network):
        assert not any(_modes(network))
        assert not network(torch.randn(4, 2) + 1).requires_grad
    assert _modes(network) == before
    assert torch.equal(network[2].running_mean, statistics)
    assert torch.is_grad_enabled()


def test_modes_come_back_after_an_error_too() -> None:
    network = _network()
    before = _modes(network)
    with pytest.raises(RuntimeError, match="no such shape"), evaluating(network):
        raise RuntimeError("no such shape")
    assert _modes(network) == before
    assert torch.is_grad_enabled()
