"""Does SimSiam learn by its stop-gradient, and does the monitor show what happens without?"""

import pytest
import torch
from torch import Tensor

from marey.configs.schema import OptimizerConfig
from marey.models.contrastive.simsiam import SimSiam, SimSiamConfig
from marey.pipeline.training.optim import build_optimizer
from tests.joint_embedding import COLORS, crops_of_dots, dots, small_encoder, trained_parts
from tests.learning import train

SMALL = {"projection_dim": 32, "predictor_dim": 8, "crops": {"first": COLORS}}
# Crops so small that they say little of each other: only collapse makes them agree.
STRANGERS = {"first": {**COLORS.model_dump(), "crop_scale": (0.04, 0.15)}}


class WithoutStopGradient(SimSiam):
    """The same with a gradient through the targets."""

    def targets(self, projected: Tensor) -> Tensor:
        return projected


def _method(kind: type[SimSiam] = SimSiam, **settings: object) -> SimSiam:
    return kind(small_encoder(), SimSiamConfig.model_validate({**SMALL, **settings}))


def test_it_learns_to_tell_images_apart() -> None:
    method = _method()
    metrics = train(method, dots, steps=40)
    assert method.chance["pair_auc"] == 0.5
    assert metrics["pair_auc"] > 0.75
    assert metrics["spread"] > 0.9


def test_without_stop_gradient_the_monitor_shows_collapse() -> None:
    healthy = train(_method(crops=STRANGERS), dots, steps=60, lr=0.03)
    collapsed = train(_method(WithoutStopGradient, crops=STRANGERS), dots, steps=60, lr=0.03)
    assert healthy["spread"] > 0.85
    assert collapsed["spread"] < 0.6
    assert collapsed["loss"] < -0.75  # the better loss of the two
    assert collapsed["pair_auc"] == pytest.approx(0.5, abs=0.1)


def test_the_loss_is_the_one_of_the_paper_and_targets_stand_still() -> None:
    """-1/2 [cos(p1, z2) + cos(p2, z1)], with the gradient that targets of constants give."""
    method = _method().eval()
    batch = crops_of_dots(method)
    loss = method(batch)["loss"]
    loss.backward()
    got = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    method.zero_grad()
    z = [method.projector(method.encoder(batch["images"][:, view, 0])) for view in (0, 1)]
    p = [method.predictor(each) for each in z]
    constant = [each.detach().clone() for each in z]
    cosine = torch.nn.functional.cosine_similarity
    expected = -(cosine(p[0], constant[1]).mean() + cosine(p[1], constant[0]).mean()) / 2
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for mine, other in zip(got, [p.grad for p in method.parameters()], strict=True):
        assert other is not None
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)
    assert trained_parts(method) == {"encoder", "projector", "predictor"}


def test_it_equals_the_loss_of_lightly() -> None:
    reference = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    method = _method().eval()
    batch = crops_of_dots(method)
    z = [method.projector(method.encoder(batch["images"][:, view, 0])) for view in (0, 1)]
    p = [method.predictor(each) for each in z]
    theirs = (reference(p[0], z[1].detach()) + reference(p[1], z[0].detach())) / 2
    torch.testing.assert_close(method(batch)["loss"], theirs, rtol=1e-5, atol=1e-5)


def test_swapping_the_crops_changes_nothing() -> None:
    method = _method().eval()
    batch = crops_of_dots(method)
    swapped = {**batch, "images": batch["images"].flip(1)}
    torch.testing.assert_close(method(batch)["loss"], method(swapped)["loss"])


def test_the_projection_ends_in_batch_norm_without_scale() -> None:
    """Section 4.4: the default; every dimension of the projection then has deviation 1."""
    method = _method()
    projected = method.projector(method.encoder(torch.rand(64, 3, 32, 32)))
    torch.testing.assert_close(
        projected.std(dim=0, correction=0), torch.ones(32), atol=0.05, rtol=0
    )
    names = [name for name, _ in method.projector.named_parameters()]
    assert len(names) == 3 + 2 * 2  # three weights; scale and shift of two norms


def test_the_predictor_keeps_its_rate() -> None:
    method = _method()
    groups = build_optimizer(method, OptimizerConfig(), method.constant_lr).param_groups
    steady = {id(p) for group in groups if group["steady"] for p in group["params"]}
    assert steady == {id(p) for p in method.predictor.parameters()}
