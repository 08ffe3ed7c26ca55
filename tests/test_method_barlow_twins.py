"""Does Barlow Twins decorrelate dimensions, with the values its equation gives?"""

import pytest
import torch

from marey.models.contrastive.barlow_twins import (
    BarlowTwins,
    BarlowTwinsConfig,
    barlow_twins_terms,
    cross_correlation,
)
from tests.joint_embedding import COLORS, crops_of_dots, dots, small_encoder, trained_parts
from tests.learning import train


def _method(**settings: object) -> BarlowTwins:
    config = {"projection_dim": 32, "crops": {"first": COLORS}, **settings}
    return BarlowTwins(small_encoder(), BarlowTwinsConfig.model_validate(config))


def _loss(first: torch.Tensor, second: torch.Tensor, weight: float = 0.0051) -> torch.Tensor:
    alignment, redundancy = barlow_twins_terms(cross_correlation(first, second))
    return alignment + weight * redundancy


def test_it_learns_to_tell_images_apart() -> None:
    method = _method()
    metrics = train(method, dots, steps=40)
    assert method.chance == {"auc_over_pixels": 0.0, "pair_auc": 0.5, "correlation": 0.0}
    assert metrics["pair_auc"] > 0.75
    assert metrics["correlation"] > 0.5


def test_the_loss_equals_a_loop_over_pairs_of_dimensions() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 40, 5, dtype=torch.float64)
    expected = 0.0
    for i in range(5):
        for j in range(5):
            pair = torch.stack([first[:, i], second[:, j]])
            c = torch.corrcoef(pair)[0, 1].item()
            expected += (1 - c) ** 2 if i == j else 0.0051 * c**2
    assert _loss(first, second).item() == pytest.approx(expected, rel=1e-4)  # epsilon in variances


def test_identical_decorrelated_crops_have_loss_0_and_a_sign_flip_4_for_each_dimension() -> None:
    torch.manual_seed(0)
    raw = torch.randn(64, 8, dtype=torch.float64)
    rows = torch.linalg.qr(raw - raw.mean(dim=0)).Q * 8  # uncorrelated, variance 1
    assert _loss(rows, rows).item() == pytest.approx(0, abs=1e-8)
    assert _loss(rows, -rows).item() == pytest.approx(4 * 8, rel=1e-4)


def test_constant_features_correlate_with_nothing() -> None:
    constant = torch.full((16, 8), 3.0, requires_grad=True)
    loss = _loss(constant, constant)
    loss.backward()
    assert loss.item() == pytest.approx(8)
    assert constant.grad is not None
    assert torch.isfinite(constant.grad).all()


def test_scale_and_shift_of_a_dimension_do_not_matter() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 32, 6)
    moved = first * torch.tensor([1.0, 5.0, 0.5, 3.0, 9.0, 2.0]) + torch.arange(6)
    torch.testing.assert_close(_loss(moved, second), _loss(first, second), rtol=1e-3, atol=0)


def test_the_gradient_is_that_of_the_value() -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _loss(x[0], x[1]), rows)


def test_half_precision_does_not_reach_the_correlation() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 16, 8)
    expected = cross_correlation(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cross_correlation(first, second), expected)


def test_the_method_trains_encoder_and_projector_by_this_loss() -> None:
    method = _method()
    batch = crops_of_dots(method)
    method.eval()
    metrics = method(batch)
    metrics["loss"].backward()
    assert trained_parts(method) == {"encoder", "projector"}
    z = [method.projector(method.encoder(batch["images"][:, view, 0])) for view in (0, 1)]
    torch.testing.assert_close(metrics["loss"], _loss(z[0], z[1]), rtol=1e-4, atol=0)


def test_it_equals_the_loss_of_lightly() -> None:
    reference = pytest.importorskip("lightly.loss").BarlowTwinsLoss(lambda_param=0.0051)
    torch.manual_seed(0)
    first, second = torch.randn(2, 64, 12)
    torch.testing.assert_close(_loss(first, second), reference(first, second), rtol=1e-4, atol=0)
