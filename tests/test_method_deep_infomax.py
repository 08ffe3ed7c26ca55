"""Are the estimators what they bound, does each player keep to its own loss, does DIM learn?"""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.batch import Batch
from marey.models.contrastive.deep_infomax import (
    DeepInfoMax,
    DeepInfoMaxConfig,
    Estimator,
    ScoreSpace,
    information_loss,
    pair_auc,
)
from marey.models.encoders.encoder import Encoder
from tests.joint_embedding import dots
from tests.learning import train

ESTIMATORS: list[Estimator] = ["jsd", "dv", "infonce"]


def _method(**settings: object) -> DeepInfoMax:
    torch.manual_seed(0)
    encoder = EncoderConfig(stages=3, image_size=32)
    config = DeepInfoMaxConfig.model_validate(
        {"summary_dim": 8, "summary_hidden": 32, "score_dim": 32, "reduction": 4, **settings}
    )
    return DeepInfoMax(Encoder(encoder), config)


def _images(generator: torch.Generator, count: int = 16) -> Batch:
    return dots(generator, count)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_summaries_learn_to_fit_their_own_image(estimator: Estimator) -> None:
    method = _method(estimator=estimator)
    metrics = train(method, _images, steps=30)
    assert method.chance["pair_auc"] == 0.5
    assert metrics["pair_auc"] > 0.8


def test_the_global_objective_learns_too() -> None:
    metrics = train(
        _method(global_weight=1.0, local_weight=0.0, prior_weight=1.0), _images, steps=30
    )
    assert metrics["pair_auc"] > 0.8


def _scores(rows: int = 4, places: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(rows, rows, places, generator=generator, dtype=torch.float64)
    return scores, ~torch.eye(rows, dtype=torch.bool)


def _slow(scores: Tensor, repels: Tensor, estimator: Estimator) -> Tensor:
    rows, _, places = scores.shape
    right = [scores[n, n, s] for n in range(rows) for s in range(places)]
    wrong = [scores[n, m, s] for n in range(rows) for m in range(rows) if repels[n, m]
             for s in range(places)]  # fmt: skip
    assert len(right) == rows * places
    if estimator == "jsd":
        of_right = sum(math.log(2) - (1 + (-u).exp()).log() for u in right) / len(right)
        of_wrong = sum((1 + u.exp()).log() - math.log(2) for u in wrong) / len(wrong)
        return of_wrong - of_right
    if estimator == "dv":
        return (sum(u.exp() for u in wrong) / len(wrong)).log() - sum(right) / len(right)
    losses = []
    for n in range(rows):
        others = sum(scores[n, m].exp().sum() for m in range(rows) if repels[n, m])
        losses += [-(u.exp() / (u.exp() + others)).log() for u in scores[n, n]]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_each_estimator_is_its_formula(estimator: Estimator) -> None:
    scores, repels = _scores()
    torch.testing.assert_close(
        information_loss(scores, repels, estimator), _slow(scores, repels, estimator)
    )
    repels[0, 2] = repels[2, 0] = repels[1, 3] = False  # near frames
    torch.testing.assert_close(
        information_loss(scores, repels, estimator), _slow(scores, repels, estimator)
    )
    assert torch.autograd.gradcheck(
        lambda u: information_loss(u, repels, estimator), scores.requires_grad_()
    )


def test_values_where_nothing_is_known() -> None:
    scores = torch.zeros(6, 6, 4)
    repels = ~torch.eye(6, dtype=torch.bool)
    assert information_loss(scores, repels, "jsd").item() == pytest.approx(0, abs=1e-6)
    assert information_loss(scores, repels, "dv").item() == pytest.approx(0, abs=1e-6)
    wanted = math.log(1 + 5 * 4)
    assert information_loss(scores, repels, "infonce").item() == pytest.approx(wanted, rel=1e-6)
    assert pair_auc(scores, repels) == 0.5


def test_only_donsker_varadhan_and_infonce_do_not_see_a_constant() -> None:
    scores, repels = _scores()
    for estimator in ESTIMATORS:
        before = information_loss(scores, repels, estimator)
        after = information_loss(scores + 3, repels, estimator)
        assert torch.allclose(before, after) is (estimator != "jsd")


def test_jensen_shannon_is_bounded_by_two_log_two() -> None:
    scores, repels = _scores()
    perfect = torch.where(repels[:, :, None], -50.0, 50.0).expand_as(scores)
    assert information_loss(perfect, repels, "jsd").item() == pytest.approx(-2 * math.log(2))
    assert information_loss(scores, repels, "jsd") > -2 * math.log(2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_without_negatives_nothing_is_learned_of_information(estimator: Estimator) -> None:
    scores = _scores()[0].requires_grad_()
    loss = information_loss(scores, torch.zeros(4, 4, dtype=torch.bool), estimator)
    loss.backward()
    assert loss == 0
    assert (scores.grad == 0).all()


def test_frames_of_near_moments_do_not_repel() -> None:
    method = _method(prior_weight=0.0).eval()
    batch = method.augment(_images(torch.Generator().manual_seed(0), 4))
    batch["instance"] = torch.tensor([3, 3, 3, 9])
    batch["time_s"] = torch.tensor([[0.0], [5.0], [30.0], [0.0]])
    maps = method.encoder.trunk.pyramid(batch["images"].flatten(0, 1))
    summary = method.local_summary(method.summary(method.encoder.embed(maps[-1])))
    places = method.local_places(maps[method.level].permute(0, 2, 3, 1).flatten(0, 2))
    scores = torch.einsum("rd,msd->rms", summary, places.unflatten(0, (4, 64))) / 32**0.5
    repels = ~torch.eye(4, dtype=torch.bool)
    repels[0, 1] = repels[1, 0] = False
    torch.testing.assert_close(
        method(batch)["loss"], information_loss(scores, repels, "jsd"), rtol=1e-4, atol=1e-5
    )


def test_the_discriminator_and_the_encoder_play_against_each_other() -> None:
    """At the start neither can tell: log 2 each; their gradients have opposite aims."""
    method = _method(local_weight=1.0, prior_weight=1.0).train()
    for parameter in method.discriminator[-1].parameters():
        torch.nn.init.zeros_(parameter)
    batch = method.augment(_images(torch.Generator().manual_seed(0)))
    assert 0 <= batch["prior"].min() <= batch["prior"].max() < 1
    with_prior = method(batch)["loss"]
    without = _method(local_weight=1.0, prior_weight=0.0).train()
    without.load_state_dict(method.state_dict(), strict=False)
    difference = with_prior - without(batch)["loss"]
    assert difference.item() == pytest.approx(2 * math.log(2), abs=1e-4)


def test_the_prior_spreads_summaries_over_the_unit_interval() -> None:
    """Sigmoids that begin all near one value move apart."""

    def deviation(weight: float) -> float:
        method = _method(local_weight=1e-6, prior_weight=weight)
        with torch.no_grad():
            method.summary[-1].weight.mul_(0.1)
            method.summary[-1].bias.fill_(2.0)
        train(method, _images, steps=40)
        batch = method.augment(_images(torch.Generator().manual_seed(5), 64))
        with torch.no_grad():
            summary = method.summary(method.encoder(batch["images"].flatten(0, 1))).sigmoid()
        return (summary.mean() - 0.5).abs().item()

    assert deviation(1.0) < 0.5 * deviation(1e-6)


def test_a_score_space_begins_near_the_identity() -> None:
    torch.manual_seed(0)
    shortcut = ScoreSpace(6, 10).shortcut.weight
    assert torch.equal(shortcut.diagonal(), torch.ones(6))
    assert (shortcut - torch.eye(10, 6)).abs().max() <= 0.01


@pytest.mark.parametrize("reduction", [3, 8])
def test_a_map_that_the_trunk_has_not_below_its_last_is_refused(reduction: int) -> None:
    with pytest.raises(SettingError, match=r"reduction.*2, 4"):
        _method(reduction=reduction)


def test_no_objective_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="both 0"):
        _method(local_weight=0.0, global_weight=0.0)
