"""Are codes shared out evenly, predictions crossed between crops, and prototypes directions?"""

import math

import pytest
import torch
from torch.nn import functional

from marey.models.objectives.prototypes import Prototypes, cross_prediction, sinkhorn, usage


def _slow_sinkhorn(scores: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """The iteration of the paper on the matrix itself, prototypes in rows."""
    codes = (scores.double() / epsilon).exp().T
    codes /= codes.sum()
    prototypes, samples = codes.shape
    for _ in range(iterations):
        for row in range(prototypes):
            codes[row] /= codes[row].sum() * prototypes
        for column in range(samples):
            codes[:, column] /= codes[:, column].sum() * samples
    return (codes * samples).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_equals_the_iteration_on_the_matrix(iterations: int) -> None:
    torch.manual_seed(0)
    scores = torch.rand(24, 6, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(
        sinkhorn(scores, 0.05, iterations), _slow_sinkhorn(scores, 0.05, iterations)
    )


def test_codes_of_a_sample_sum_to_1_and_prototypes_are_used_equally() -> None:
    torch.manual_seed(0)
    scores = torch.rand(240, 8) * 2 - 1 + torch.linspace(0, 0.5, 8)  # some are favoured
    few, many = sinkhorn(scores, 0.05, 3), sinkhorn(scores, 0.05, 100)
    torch.testing.assert_close(few.sum(dim=1), torch.ones(240))
    torch.testing.assert_close(few.sum(dim=0), torch.full((8,), 30.0), rtol=0.25, atol=0)
    torch.testing.assert_close(many.sum(dim=0), torch.full((8,), 30.0), rtol=1e-3, atol=0)


def test_no_epsilon_overflows() -> None:
    """exp(1 / 0.05) has no float16, exp(1 / 0.0005) no float64."""
    torch.manual_seed(0)
    scores = torch.rand(16, 4) * 2 - 1
    for epsilon in (5e-4, 0.05, 50.0):
        codes = sinkhorn(scores.half(), epsilon, 3)
        assert codes.dtype == torch.float32
        torch.testing.assert_close(codes.sum(dim=1), torch.ones(16))


def test_rows_that_take_no_part_change_nothing() -> None:
    torch.manual_seed(0)
    scores = torch.rand(12, 5)
    valid = torch.arange(12) % 3 != 0
    codes = sinkhorn(scores, 0.05, 3, valid)
    torch.testing.assert_close(codes[valid], sinkhorn(scores[valid], 0.05, 3))
    assert not codes[~valid].any()


def test_cross_prediction_equals_a_loop_over_pairs_of_crops() -> None:
    torch.manual_seed(0)
    targets = torch.randn(2, 6, 5, dtype=torch.float64).softmax(dim=2)
    predicted = torch.randn(4, 6, 5, dtype=torch.float64).log_softmax(dim=2)
    terms = [
        -(targets[t, n] * predicted[v, n]).sum()
        for t in range(2)
        for v in range(4)
        if v != t
        for n in range(6)
    ]
    torch.testing.assert_close(cross_prediction(targets, predicted), torch.stack(terms).mean())


def test_uniform_predictions_cost_log_k() -> None:
    targets = torch.randn(2, 3, 4096).softmax(dim=2)
    uniform = torch.zeros(3, 3, 4096).log_softmax(dim=2)
    assert cross_prediction(targets, uniform).item() == pytest.approx(math.log(4096), rel=1e-5)


def test_the_cross_prediction_has_the_gradient_of_its_value() -> None:
    torch.manual_seed(0)
    targets = torch.randn(2, 3, 4, dtype=torch.float64).softmax(dim=2)
    logits = torch.randn(3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: cross_prediction(targets, x.log_softmax(dim=2)), logits
    )


def test_scores_are_cosines_whatever_the_lengths_of_weights() -> None:
    torch.manual_seed(0)
    layer = Prototypes(8, 5)
    units = functional.normalize(torch.randn(3, 8), dim=1)
    before = layer(units)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(5, 1) + 0.5)
    torch.testing.assert_close(layer(units), before)
    layer.to_unit_length()
    torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(layer(units), before)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(units), layer(units.float()))


def test_frozen_prototypes_have_a_gradient_of_zero() -> None:
    torch.manual_seed(0)
    layer = Prototypes(8, 5)
    units = functional.normalize(torch.randn(3, 8), dim=1).requires_grad_()
    free = layer(units)
    layer.frozen = True
    assert torch.equal(layer(units), free)
    layer(units).square().sum().backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()
    assert units.grad is not None
    assert units.grad.any()


def test_usage_is_the_share_of_prototypes_that_can_be_reached() -> None:
    assert usage(torch.eye(6)).item() == pytest.approx(1.0)
    assert usage(torch.eye(6)[:3]).item() == pytest.approx(1.0)  # 3 rows cannot choose more than 3
    assert usage(torch.eye(6)[[2, 2, 2, 2, 2, 2]]).item() == pytest.approx(1 / 6)
    assert usage(torch.eye(6)[[0, 0, 0, 4, 4, 4]]).item() == pytest.approx(2 / 6)
