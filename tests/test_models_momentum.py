"""Does a momentum copy follow its source, and only by its own update?"""

import pytest
import torch
from torch import nn

from marey.models.encoders.momentum import MomentumCopy, momentum_at


def _network() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return trunk, nn.Linear(4, 2)


def test_it_starts_as_an_exact_copy_without_gradient() -> None:
    trunk, head = _network()
    target = MomentumCopy(trunk, head).eval()
    inputs = torch.randn(5, 3, requires_grad=True)
    expected = head(trunk.eval()(inputs))
    output = target(inputs)
    assert torch.equal(output, expected)
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_after_three_steps_its_weights_are_the_average_computed_by_hand() -> None:
    trunk, head = _network()
    target = MomentumCopy(trunk, head)
    expected = head.weight.detach().clone()
    for step in range(3):
        with torch.no_grad():
            for parameter in (*trunk.parameters(), *head.parameters()):
                parameter.add_(step + 1.0)
        target.update(trunk, head, keep=0.9)
        expected = 0.9 * expected + 0.1 * head.weight.detach()
    assert isinstance(target[1], nn.Linear)
    torch.testing.assert_close(target[1].weight.detach(), expected)
    # 173 updates halve the distance at 0.996
    for _ in range(173):
        target.update(trunk, head, keep=0.996)
    gap = (head.weight - target[1].weight).abs() / (head.weight - expected).abs()
    torch.testing.assert_close(gap, torch.full_like(gap, 0.5), atol=0.005, rtol=0)


def test_batch_statistics_are_those_of_its_own_forward_passes() -> None:
    trunk, head = _network()
    target = MomentumCopy(trunk, head).train()
    for _ in range(200):
        trunk(torch.randn(64, 3) + 5)
        target(torch.randn(64, 3) - 5)
    target.update(trunk, head, keep=0.0)
    own, other = target[0][1].running_mean, trunk[1].running_mean  # pyright: ignore
    linear = trunk[0]
    torch.testing.assert_close(own, linear(torch.full((3,), -5.0)).detach(), atol=0.5, rtol=0)
    torch.testing.assert_close(other, linear(torch.full((3,), 5.0)).detach(), atol=0.5, rtol=0)


def test_modules_of_another_shape_are_refused() -> None:
    trunk, head = _network()
    target = MomentumCopy(trunk, head)
    with pytest.raises(ValueError, match="made of"):
        target.update(head, trunk, keep=0.5)
    with pytest.raises(ValueError, match="made of"):
        target.update(trunk, keep=0.5)


def test_momentum_rises_along_half_a_cosine() -> None:
    assert momentum_at(0.0, 0.996) == pytest.approx(0.996)
    assert momentum_at(0.5, 0.996) == pytest.approx(0.998)
    assert momentum_at(1.0, 0.996) == pytest.approx(1.0)
    assert momentum_at(2.0, 0.9, 0.99) == pytest.approx(0.99)
    assert momentum_at(0.25, 0.0, 1.0) == pytest.approx(0.5 * (1 - 2**-0.5))
