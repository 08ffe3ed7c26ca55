"""Do VICReg's three terms have the values of their equations, and does it learn?"""

import pytest
import torch

from marey.models.contrastive.vicreg import (
    VICReg,
    VICRegConfig,
    squared_covariances,
    variance_hinge,
)
from tests.joint_embedding import COLORS, crops_of_dots, dots, small_encoder, trained_parts
from tests.learning import train


def _method(**settings: object) -> VICReg:
    config = {"projection_dim": 32, "crops": {"first": COLORS}, **settings}
    return VICReg(small_encoder(), VICRegConfig.model_validate(config))


def test_it_learns_to_tell_images_apart() -> None:
    method = _method()
    before = method(crops_of_dots(method))["embedding_std"]
    metrics = train(method, dots, steps=40)
    assert metrics["pair_auc"] > 0.85
    assert metrics["embedding_std"] > before


def test_the_terms_equal_loops_over_dimensions() -> None:
    torch.manual_seed(0)
    rows = 0.7 * torch.randn(9, 4, dtype=torch.float64)
    hinge, squares = 0.0, 0.0
    for i in range(4):
        hinge += max(0.0, 1 - (rows[:, i].var().item() + 1e-4) ** 0.5) / 4
        for j in range(4):
            if i != j:
                squares += torch.cov(rows[:, [i, j]].T)[0, 1].item() ** 2 / 4
    assert variance_hinge(rows).item() == pytest.approx(hinge, rel=1e-6)
    assert squared_covariances(rows).item() == pytest.approx(squares, rel=1e-6)


def test_constant_embeddings_are_a_saddle_of_known_height() -> None:
    """25 (1 - 0.01) = 24.75, with a gradient of exactly 0."""
    rows = torch.full((8, 6), 2.5, dtype=torch.float64, requires_grad=True)
    loss = 25 * variance_hinge(rows) + squared_covariances(rows)
    assert loss.item() == pytest.approx(24.75)
    loss.backward()
    assert rows.grad is not None
    assert not rows.grad.any()


def test_wide_uncorrelated_rows_cost_nothing_and_a_small_batch_cannot_have_them() -> None:
    torch.manual_seed(0)
    raw = torch.randn(32, 8, dtype=torch.float64)
    rows = torch.linalg.qr(raw - raw.mean(dim=0)).Q * 32**0.5
    assert variance_hinge(rows).item() == 0
    assert squared_covariances(rows).item() == pytest.approx(0, abs=1e-12)
    few = torch.randn(4, 8, dtype=torch.float64)
    assert squared_covariances(few / few.std(dim=0)).item() > 0.5


def test_one_row_is_finite() -> None:
    row = torch.randn(1, 4, requires_grad=True)
    loss = variance_hinge(row) + squared_covariances(row)
    loss.backward()
    assert loss.item() == pytest.approx(0.99)
    assert row.grad is not None
    assert torch.isfinite(row.grad).all()


def test_the_gradients_are_those_of_the_values() -> None:
    torch.manual_seed(0)
    rows = (0.5 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(variance_hinge, rows)
    assert torch.autograd.gradcheck(squared_covariances, rows)


def test_half_precision_does_not_reach_the_covariances() -> None:
    torch.manual_seed(0)
    rows = torch.randn(16, 8)
    expected = squared_covariances(rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(squared_covariances(rows), expected)


def test_identical_crops_have_no_invariance_term_and_weights_weigh() -> None:
    method = _method().eval()
    batch = crops_of_dots(method)
    batch["images"] = batch["images"][:, :1].expand(-1, 2, *batch["images"].shape[2:])
    metrics = method(batch)
    assert metrics["invariance"].item() == pytest.approx(0, abs=1e-9)
    weighed = 25 * metrics["variance"] + metrics["covariance"]
    torch.testing.assert_close(metrics["loss"].detach(), weighed)
    metrics["loss"].backward()
    assert trained_parts(method) == {"encoder", "projector"}


def test_it_equals_the_loss_of_lightly() -> None:
    reference = pytest.importorskip("lightly.loss").VICRegLoss()
    torch.manual_seed(0)
    first, second = 0.8 * torch.randn(2, 64, 12)
    ours = (
        25 * (first - second).square().mean()
        + 25 * (variance_hinge(first) + variance_hinge(second)) / 2
        + squared_covariances(first)
        + squared_covariances(second)
    )
    torch.testing.assert_close(ours, reference(first, second), rtol=1e-4, atol=0)
