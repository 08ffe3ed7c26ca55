"""Does SIGReg measure distance from a Gaussian, with the values its integral has?"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from marey.models.contrastive.lejepa import LeJEPA, LeJEPAConfig, sigreg
from marey.models.method import Progress
from tests.joint_embedding import COLORS, crops_of_dots, dots, small_encoder, trained_parts
from tests.learning import train

SMALL_CROPS = {"first": COLORS, "small": COLORS, "small_crops": 2, "small_size": 16}


def _method(**settings: object) -> LeJEPA:
    config = {
        "head_dim": 64,
        "projection_dim": 8,
        "directions": 64,
        "crops": {"first": COLORS, "small_crops": 0},
    }
    return LeJEPA(small_encoder(), LeJEPAConfig.model_validate({**config, **settings}))


def _directions(count: int, dim: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, dim, dtype=torch.float64), dim=1)


def test_it_learns_to_tell_images_apart() -> None:
    method = _method()
    before = method(crops_of_dots(method))
    metrics = train(method, dots, steps=40)
    assert metrics["pair_auc"] > 0.85
    assert metrics["spread"] > 0.8
    assert metrics["sigreg"] < 0.5 * before["sigreg"]


def test_the_statistic_equals_the_integral_of_complex_characteristic_functions() -> None:
    torch.manual_seed(0)
    rows = 1.3 * torch.randn(11, 3, dtype=torch.float64) + 0.4
    directions = _directions(5, 3)
    t = np.linspace(0, 3, 17)
    statistics = []
    for direction in directions.numpy():
        projected = rows.numpy() @ direction
        characteristic = np.array([np.exp(1j * each * projected).mean() for each in t])
        error = np.abs(characteristic - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
        statistics.append(2 * len(projected) * np.trapezoid(error, t))
    assert sigreg(rows, directions).item() == pytest.approx(np.mean(statistics), rel=1e-9)


@pytest.mark.parametrize("count", [16, 256])
def test_gaussian_rows_have_the_expected_statistic(count: int) -> None:
    torch.manual_seed(0)
    directions = _directions(64, 6)
    draws = [sigreg(torch.randn(count, 6), directions).item() for _ in range(200)]
    assert np.mean(draws) == pytest.approx(1.0525, abs=4 * np.std(draws) / math.sqrt(200) + 0.02)


def test_collapsed_rows_have_a_statistic_of_known_height() -> None:
    directions = _directions(16, 6)
    for count in (8, 64):
        value = sigreg(torch.zeros(count, 6), directions).item()
        assert value == pytest.approx(0.4020 * count, rel=1e-3)


def test_unit_vectors_are_not_gaussian() -> None:
    """Their length must be about sqrt(D): the projection is never normalised."""
    torch.manual_seed(0)
    directions, rows = _directions(64, 16), torch.randn(512, 16)
    normal = functional.normalize(rows, dim=1)
    assert sigreg(normal, directions) > 50 * sigreg(rows, directions)
    assert sigreg(4 * normal, directions) < 3


def test_the_statistic_has_the_gradient_of_its_value() -> None:
    torch.manual_seed(0)
    directions = _directions(4, 3)
    rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sigreg(x, directions), rows)


def test_half_precision_does_not_reach_the_statistic() -> None:
    torch.manual_seed(0)
    directions, rows = _directions(8, 6), torch.randn(64, 6)
    expected = sigreg(rows, directions)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sigreg(rows, directions), expected)


def test_the_loss_is_the_weighted_sum_over_all_crops() -> None:
    method = _method(crops=SMALL_CROPS, weight=0.1).eval()
    batch = crops_of_dots(method)
    metrics = method(batch)
    crops = [*batch["images"][:, :, 0].unbind(1), *batch["small"][:, :, 0].unbind(1)]
    z = torch.stack([method.projector(method.encoder(crop)) for crop in crops])
    mean = (z[0] + z[1]) / 2  # of the large ones
    invariance = torch.stack([(each - mean).square().mean() for each in z]).mean()
    gaussianity = torch.stack([sigreg(each, method.directions) for each in z]).mean()
    torch.testing.assert_close(metrics["loss"], 0.9 * invariance + 0.1 * gaussianity)
    metrics["loss"].backward()
    assert trained_parts(method) == {"encoder", "projector"}


def test_directions_are_new_each_step_and_survive_a_checkpoint() -> None:
    method = _method()
    first = method.directions.clone()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(64))
    torch.manual_seed(9)  # the step's own seed must not matter: it differs between processes
    method.after_step(Progress(1, 10, 0))
    second = method.directions.clone()
    assert (first - second).abs().max() > 0.1
    other = _method()
    torch.manual_seed(4)
    other.after_step(Progress(1, 10, 0))
    assert torch.equal(other.directions, second)
    resumed = _method()
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.directions, second)


def test_it_equals_the_loss_of_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss.lejepa_loss")
    torch.manual_seed(0)
    rows = 1.5 * torch.randn(3, 64, 4)
    torch.manual_seed(7)
    directions = functional.normalize(torch.randn(4, 256), dim=0).T
    torch.manual_seed(7)  # so that it draws the same directions
    expected = lightly.SIGReg(num_vectors=256)(rows)
    ours = torch.stack([sigreg(each, directions) for each in rows]).mean()
    torch.testing.assert_close(ours, expected)
    method = _method(crops=SMALL_CROPS).eval()
    batch = crops_of_dots(method)
    crops = [*batch["images"][:, :, 0].unbind(1), *batch["small"][:, :, 0].unbind(1)]
    z = torch.stack([method.projector(method.encoder(crop)) for crop in crops])
    invariance = lightly.lejepa_invariance_loss(all_proj=z, global_proj=z[:2])
    torch.testing.assert_close(method(batch)["invariance"], invariance.detach())
