"""Does BYOL predict its slow copy, move it by averaging alone, and show collapse?"""

import pytest
import torch
from torch import nn

from marey.models.contrastive.byol import BYOL, BYOLConfig
from marey.models.encoders.momentum import momentum_at
from marey.models.method import Progress
from marey.models.objectives.arithmetic import paired_cosine
from tests.joint_embedding import COLORS, crops_of_dots, dots, small_encoder, trained_parts
from tests.learning import train


def _method(**settings: object) -> BYOL:
    config = {"head_dim": 64, "projection_dim": 16, "momentum": 0.9, "crops": {"first": COLORS}}
    return BYOL(small_encoder(), BYOLConfig.model_validate({**config, **settings}))


def test_it_learns_to_tell_images_apart() -> None:
    method = _method()
    metrics = train(method, dots, steps=40)
    assert method.chance["pair_auc"] == 0.5
    assert metrics["pair_auc"] > 0.75
    assert metrics["spread"] > 0.7


def test_without_predictor_and_momentum_the_monitor_shows_collapse() -> None:
    method = _method(momentum=0.0)
    method.predictor = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    metrics = train(method, dots, steps=40, lr=0.01)
    assert metrics["loss"] < 0.05  # the better loss of the two
    assert metrics["spread"] < 0.2


def test_the_loss_is_the_squared_distance_of_unit_vectors_in_both_directions() -> None:
    method = _method().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = crops_of_dots(method)
    views = batch["images"][:, :, 0].unbind(dim=1)
    trunk, projector = method.target.copies
    distance = 0.0
    with torch.no_grad():
        for mine, other in (views, views[::-1]):
            predicted = method.predictor(method.projector(method.encoder(mine))).double()
            targets = projector(trunk(other)).double()
            for q, z in zip(predicted, targets, strict=True):
                distance += float(((q / q.norm() - z / z.norm()) ** 2).sum())
    expected = distance / (2 * len(views[0]))
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert 0.01 < expected < 4


def test_it_equals_the_loss_of_lightly() -> None:
    """Up to a line: 2 - 2 cos here, its negative cosine there."""
    reference = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    method = _method().eval()
    batch = crops_of_dots(method)
    first, second = batch["images"][:, :, 0].unbind(dim=1)
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        p = [method.predictor(method.projector(method.encoder(view))) for view in (first, second)]
        z = [method.target(view) for view in (second, first)]
        theirs = (reference(p[0], z[0]) + reference(p[1], z[1])) / 2
        torch.testing.assert_close(method(batch)["loss"], 2 + 2 * theirs, rtol=1e-5, atol=1e-5)


def test_the_loss_is_2_at_right_angles_and_0_along_whatever_the_length() -> None:
    a, b = torch.eye(4)[:2], torch.eye(4)[2:]
    torch.testing.assert_close(2 - 2 * paired_cosine(a, b), torch.full((2,), 2.0))
    torch.testing.assert_close(2 - 2 * paired_cosine(a, 9 * a), torch.zeros(2))
    torch.testing.assert_close(2 - 2 * paired_cosine(a, -a), torch.full((2,), 4.0))
    random = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: paired_cosine(x[0], x[1]), random)
    assert torch.isfinite(paired_cosine(torch.zeros(2, 3), torch.ones(2, 3))).all()


def test_swapping_the_crops_changes_nothing() -> None:
    method = _method().eval()
    batch = crops_of_dots(method)
    swapped = {**batch, "images": batch["images"].flip(1)}
    torch.testing.assert_close(method(batch)["loss"], method(swapped)["loss"])


def test_only_the_online_network_has_gradients() -> None:
    method = _method()
    method(crops_of_dots(method))["loss"].backward()
    assert trained_parts(method) == {"encoder", "projector", "predictor"}


def test_the_target_is_the_average_of_the_online_network() -> None:
    method = _method(momentum=0.9)
    weight = next(method.encoder.parameters())
    copy = next(method.target[0].parameters())
    expected = copy.detach().clone()
    for step in range(3):
        with torch.no_grad():
            weight.add_(1.0)
        method.after_step(Progress(step + 1, 10, 0))
        keep = momentum_at((step + 1) / 10, 0.9)
        expected = keep * expected + (1 - keep) * weight.detach()
    torch.testing.assert_close(copy.detach(), expected)
    untouched = copy.detach().clone()
    method.after_step(Progress(10, 10, 0))  # momentum has reached 1
    assert torch.equal(copy, untouched)


def test_second_crops_alone_are_solarised_by_default() -> None:
    crops = BYOLConfig().crops
    assert (crops.first.solarize, crops.first.blur) == (0.0, 1.0)
    assert crops.second is not None
    assert (crops.second.solarize, crops.second.blur) == (0.2, 0.1)
