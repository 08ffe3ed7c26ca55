"""Does SwAV swap evenly shared codes between crops, keep its queue, and learn?"""

import math

import pytest
import torch

from marey.models.contrastive.swav import SwAV, SwAVConfig
from marey.models.method import Progress
from marey.models.objectives.prototypes import cross_prediction, sinkhorn
from tests.joint_embedding import COLORS, COUNT, crops_of_dots, dots, small_encoder, trained_parts
from tests.learning import train

SMALL_CROPS = {"first": COLORS, "small": COLORS, "small_crops": 2, "small_size": 16}


def _method(**settings: object) -> SwAV:
    config = {
        "head_dim": 64,
        "projection_dim": 16,
        "prototypes": 32,
        "temperature": 0.2,
        "frozen_epochs": 0,
        "crops": {"first": COLORS, "small_crops": 0},
    }
    return SwAV(small_encoder(), SwAVConfig.model_validate({**config, **settings}))


def test_it_learns_to_tell_images_apart() -> None:
    method = _method()
    metrics = train(method, dots, steps=50)
    assert metrics["pair_auc"] > 0.8
    assert metrics["loss"] < 0.8 * method.chance["loss"]
    assert metrics["usage"] > 0.2


def test_the_loss_crosses_codes_of_large_crops_with_every_other_crop() -> None:
    method = _method(crops=SMALL_CROPS).eval()
    batch = crops_of_dots(method)
    assert batch["small"].shape == (COUNT, 2, 1, 3, 16, 16)
    crops = [batch["images"][:, 0, 0], batch["images"][:, 1, 0]]
    crops += [batch["small"][:, 0, 0], batch["small"][:, 1, 0]]
    directions = torch.nn.functional.normalize(method.prototypes.weight, dim=1)
    total, pairs = torch.tensor(0.0), 0
    scores = []
    for crop in crops:
        z = method.projector(method.encoder(crop))
        scores.append(z / z.norm(dim=1, keepdim=True) @ directions.T)
    for large in (0, 1):
        codes = sinkhorn(scores[large].detach(), 0.05, 3)
        for other in range(4):
            if other != large:
                total = total - (codes * (scores[other] / 0.2).log_softmax(1)).sum(1).mean()
                pairs += 1
    torch.testing.assert_close(method(batch)["loss"], total / pairs)


def test_a_network_that_cannot_tell_prototypes_apart_pays_log_k() -> None:
    method = _method().eval()
    with torch.no_grad():
        method.prototypes.weight.copy_(method.prototypes.weight[:1].expand(32, -1))
    loss = method(crops_of_dots(method))["loss"].item()
    assert loss == pytest.approx(math.log(32), rel=1e-4)
    assert method.chance["loss"] == pytest.approx(math.log(32))


def test_codes_carry_no_gradient() -> None:
    method = _method().eval()
    batch = crops_of_dots(method)
    method(batch)["loss"].backward()
    assert trained_parts(method) == {"encoder", "projector", "prototypes"}
    got = method.prototypes.weight.grad
    assert got is not None
    got = got.clone()
    method.zero_grad()
    units = [
        torch.nn.functional.normalize(method.projector(method.encoder(crop)))
        for crop in batch["images"][:, :, 0].unbind(1)
    ]
    scores = torch.stack([method.prototypes(u) for u in units])
    constant = torch.stack([sinkhorn(s, 0.05, 3) for s in scores.detach()]).clone()
    cross_prediction(constant, (scores / 0.2).log_softmax(2)).backward()
    torch.testing.assert_close(got, method.prototypes.weight.grad, rtol=1e-3, atol=1e-6)


def test_prototypes_are_unit_vectors_after_each_step_and_stay_while_frozen() -> None:
    method = _method(frozen_epochs=1)
    drawn = method.prototypes.weight.detach().clone()
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.05, weight_decay=0.1)
    for epoch in (0, 1):
        method.before_epoch(Progress(epoch, 2, epoch))
        method(crops_of_dots(method, epoch))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(Progress(epoch + 1, 2, epoch))
        weight = method.prototypes.weight.detach()
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(32))
        if epoch == 0:
            torch.testing.assert_close(weight, drawn)  # decay changes lengths only
    assert (method.prototypes.weight - drawn).abs().max() > 0.01


def test_the_queue_holds_the_latest_embeddings_of_each_crop() -> None:
    method = _method(queue=80, queue_from=1)
    arrived = []
    for step in range(3):
        method(crops_of_dots(method, step))
        arrived.append(method._arrived[-1])
        method.after_step(Progress(step + 1, 9, 0))
        assert method.queued.sum() == min(80, COUNT * (step + 1))
    assert arrived[0].shape == (2, COUNT, 16)
    expected = torch.cat(arrived[::-1], dim=1)[:, :80]
    assert torch.equal(method.queue, expected)
    method.eval()(crops_of_dots(method))
    method.after_step(Progress(4, 9, 0))
    assert torch.equal(method.queue, expected)  # evaluation leaves it alone


def test_from_its_epoch_on_the_queue_shares_the_codes() -> None:
    method = _method(queue=80, queue_from=1)
    for step in range(2):
        method(crops_of_dots(method, step))
        method.after_step(Progress(step + 1, 9, 0))
    method.eval()
    batch = crops_of_dots(method, 5)
    method.before_epoch(Progress(2, 9, 0))
    alone = method(batch)["loss"]
    method.before_epoch(Progress(2, 9, 1))
    units = [
        torch.nn.functional.normalize(method.projector(method.encoder(crop)))
        for crop in batch["images"][:, :, 0].unbind(1)
    ]
    scores = torch.stack([method.prototypes(u) for u in units])
    filled = [method.prototypes(rows[: 2 * COUNT]) for rows in method.queue]  # 64 of 80 rows
    codes = torch.stack(
        [
            sinkhorn(torch.cat([mine, old]), 0.05, 3)[:COUNT]
            for mine, old in zip(scores, filled, strict=True)
        ]
    )
    together = method(batch)["loss"]
    torch.testing.assert_close(together, cross_prediction(codes, (scores / 0.2).log_softmax(2)))
    assert not torch.isclose(together, alone)


@pytest.mark.parametrize("setting", [{"temperature": 1e-3}, {"epsilon": 1e-4}, {"epsilon": 10.0}])
def test_extreme_settings_stay_finite_in_half_precision(setting: dict) -> None:
    method = _method(**setting)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(crops_of_dots(method))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_it_equals_the_loss_of_lightly() -> None:
    reference = pytest.importorskip("lightly.loss").SwaVLoss(
        temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05
    )
    torch.manual_seed(0)
    scores = torch.rand(4, 24, 6) * 2 - 1
    codes = torch.stack([sinkhorn(each, 0.05, 3) for each in scores[:2]])
    ours = cross_prediction(codes, (scores / 0.1).log_softmax(dim=2))
    torch.testing.assert_close(ours, reference(list(scores[:2]), list(scores[2:])).squeeze())
