"""Does each player of an adversarial game get the gradient of its own loss, and no other?"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from marey.models.objectives.adversarial import play


def _players() -> tuple[nn.Linear, nn.Sequential]:
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    return nn.Linear(2, 3), judge


def test_one_backward_gives_each_player_the_gradient_of_its_own_loss() -> None:
    maker, judge = _players()
    noise, real = torch.randn(16, 2), torch.randn(16, 3)
    game = play(judge, real, maker(noise))
    (game.discriminator.mean() + 0.3 * game.generator.mean()).backward()
    got = [p.grad.clone() for p in (*maker.parameters(), *judge.parameters())]

    ones, zeros = torch.ones(16, 1), torch.zeros(16, 1)
    loss = functional.binary_cross_entropy_with_logits
    against = (loss(judge(real), ones) + loss(judge(maker(noise).detach()), zeros)) / 2
    of_judge = torch.autograd.grad(against, list(judge.parameters()))
    of_maker = torch.autograd.grad(0.3 * loss(judge(maker(noise)), ones), list(maker.parameters()))
    for ours, theirs in zip(got, (*of_maker, *of_judge), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_terms_stop_at_the_other_player() -> None:
    maker, judge = _players()
    game = play(judge, torch.randn(4, 3), maker(torch.randn(4, 2)))
    for term, stopped in ((game.discriminator, maker), (game.generator, judge)):
        grads = torch.autograd.grad(
            term.sum(), list(stopped.parameters()), allow_unused=True, retain_graph=True
        )
        assert all(grad is None for grad in grads)


def test_a_judge_that_cannot_tell_has_log_2_everywhere() -> None:
    judge = nn.Linear(3, 1)
    nn.init.zeros_(judge.weight)
    nn.init.zeros_(judge.bias)
    game = play(judge, torch.randn(5, 3), torch.randn(5, 3))
    for term in (game.discriminator, game.generator):
        torch.testing.assert_close(term, torch.full((5,), math.log(2)))


def test_statistics_of_the_judge_count_the_made_batch_once() -> None:
    _, judge = _players()
    play(judge, torch.randn(8, 3), torch.randn(8, 3))
    assert judge[1].num_batches_tracked.item() == 2  # one real batch, one made


def test_extreme_scores_stay_finite() -> None:
    judge = nn.Linear(1, 1)
    made = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    with torch.no_grad():
        judge.weight.fill_(1.0)
        judge.bias.zero_()
    game = play(judge, -made.detach(), made)
    (game.discriminator.sum() + game.generator.sum()).backward()
    assert torch.isfinite(made.grad).all()
    assert game.told.mean().item() == pytest.approx(0.5)


def test_the_game_moves_a_maker_to_the_real_mean() -> None:
    torch.manual_seed(0)
    maker = nn.Linear(1, 1, bias=True)
    judge = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam([*maker.parameters(), *judge.parameters()], lr=0.01)
    start = maker(torch.zeros(1, 1)).item()
    for _ in range(400):
        game = play(judge, 3 + 0.5 * torch.randn(64, 1), maker(torch.randn(64, 1)))
        optimizer.zero_grad()
        (game.discriminator.mean() + game.generator.mean()).backward()
        optimizer.step()
    assert abs(start - 3) > 2
    assert maker(torch.randn(512, 1)).mean().item() == pytest.approx(3, abs=0.6)
