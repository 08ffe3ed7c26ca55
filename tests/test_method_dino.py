"""Does DINO's student follow a centred, sharpened teacher that only averaging moves?"""

import math

import pytest
import torch

from marey.models.contrastive.dino import DINO, DINOConfig
from marey.models.encoders.momentum import momentum_at
from marey.models.method import Progress
from marey.models.objectives.prototypes import cross_prediction
from tests.joint_embedding import COLORS, COUNT, crops_of_dots, dots, small_encoder, trained_parts
from tests.learning import train

SMALL_CROPS = {"first": COLORS, "small": COLORS, "small_crops": 2, "small_size": 16}


def _method(**settings: object) -> DINO:
    config = {
        "head_dim": 64,
        "head_norm": True,
        "bottleneck_dim": 16,
        "outputs": 32,
        "momentum": 0.9,
        "frozen_epochs": 0,
        "warm_epochs": 0,
        "teacher_temperature": 0.04,
        "crops": {"first": COLORS, "small_crops": 0},
    }
    return DINO(small_encoder(), DINOConfig.model_validate({**config, **settings}))


def test_it_learns_to_tell_images_apart() -> None:
    method = _method()
    metrics = train(method, dots, steps=40)
    assert metrics["pair_auc"] > 0.75
    assert metrics["loss"] < 0.85 * method.chance["loss"]
    assert 0.05 < metrics["teacher_entropy"] < 0.7


def test_the_loss_crosses_the_teacher_of_large_crops_with_every_other_crop() -> None:
    method = _method(crops=SMALL_CROPS).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        method.center.normal_().mul_(0.1)
        for parameter in method.teacher.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    batch = crops_of_dots(method)
    crops = [*batch["images"][:, :, 0].unbind(1), *batch["small"][:, :, 0].unbind(1)]
    terms = []
    for large in (0, 1):
        raw = method.teacher[1](method.teacher[0](crops[large])).double()
        probability = ((raw - method.center) / 0.04).softmax(dim=1)
        for other in range(4):
            if other != large:
                student = (method.head(method.encoder(crops[other])).double() / 0.1).log_softmax(1)
                terms.append(-(probability * student).sum(dim=1).mean())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(method(batch)["loss"].double(), expected, rtol=1e-4, atol=0)


def test_only_the_student_has_gradients() -> None:
    method = _method(crops=SMALL_CROPS)
    method(crops_of_dots(method))["loss"].backward()
    assert trained_parts(method) == {"encoder", "head"}


def test_the_teacher_is_the_average_of_the_student_and_is_what_is_exported() -> None:
    method = _method(momentum=0.9)
    assert method.exported is method.teacher[0]
    weight, copy = next(method.encoder.parameters()), next(method.exported.parameters())
    expected = copy.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    method.after_step(Progress(1, 10, 0))
    keep = momentum_at(0.1, 0.9)
    torch.testing.assert_close(copy.detach(), keep * expected + (1 - keep) * weight.detach())


def test_the_centre_is_the_running_mean_of_raw_outputs() -> None:
    """Of outputs before centring and temperature, over the rounds of a step."""
    method = _method()
    raw = []
    for seed in (0, 1):
        batch = crops_of_dots(method, seed)
        raw.append(method.teacher(batch["images"].transpose(0, 1).flatten(0, 2)).mean(dim=0))
        method(batch)
    assert not method.center.any()  # from the next step on
    method.after_step(Progress(1, 10, 0))
    torch.testing.assert_close(method.center, 0.1 * torch.stack(raw).mean(dim=0))
    before = method.center.clone()
    method.eval()(crops_of_dots(method))
    method.after_step(Progress(2, 10, 0))
    assert torch.equal(method.center, before)  # evaluation leaves it alone


def test_the_two_collapses_show_in_the_entropy() -> None:
    sharp, flat = _method(teacher_temperature=1e-3), _method(teacher_temperature=10.0)
    batch = crops_of_dots(sharp)
    assert sharp(batch)["teacher_entropy"] < 0.02
    assert flat(batch)["teacher_entropy"] > 0.99
    one_class = _method()
    with torch.no_grad():
        one_class.center[3] = -10.0
    metrics = one_class(batch)
    assert metrics["teacher_entropy"] < 0.02
    assert metrics["usage"].item() == pytest.approx(1 / 32)


def test_a_student_without_preference_pays_log_k() -> None:
    method = _method(student_temperature=10.0)
    assert method(crops_of_dots(method))["loss"].item() == pytest.approx(math.log(32), abs=0.05)
    assert DINOConfig().outputs == 65_536
    assert math.log(DINOConfig().outputs) == pytest.approx(11.0904, abs=1e-4)


def test_the_teacher_warms_up_by_epochs() -> None:
    method = _method(warm_epochs=11, warm_temperature=0.04, teacher_temperature=0.06)
    seen = []
    for epoch in (0, 5, 10, 30):
        method.before_epoch(Progress(0, 100, epoch))
        seen.append(method.temperature)
    assert seen == pytest.approx([0.04, 0.05, 0.06, 0.06])


def test_the_last_layer_stays_in_the_first_epoch() -> None:
    method = _method(frozen_epochs=1)
    for epoch, moves in ((0, False), (1, True)):
        method.before_epoch(Progress(epoch, 2, epoch))
        method.zero_grad()
        method(crops_of_dots(method))["loss"].backward()
        gradient = method.head.last.weight.grad
        assert gradient is not None
        assert bool(gradient.any()) is moves
        assert len(crops_of_dots(method)["images"]) == COUNT


def test_it_equals_the_loss_of_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 24, 6), torch.randn(2, 24, 6)
    reference = lightly.DINOLoss(
        output_dim=6, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1
    )
    expected = reference(list(teacher), list(student), epoch=0)  # the centre starts at 0
    ours = cross_prediction((teacher / 0.04).softmax(2), (student / 0.1).log_softmax(2))
    torch.testing.assert_close(ours, expected)


def test_the_default_crops_are_those_of_the_released_code() -> None:
    crops = DINOConfig().crops
    assert crops.second is not None
    assert crops.small is not None
    assert (crops.small_crops, crops.small_size) == (8, 96)
    recipes = [(crop.crop_scale, crop.blur, crop.solarize)
               for crop in (crops.first, crops.second, crops.small)]  # fmt: skip
    assert recipes == [((0.4, 1.0), 1.0, 0.0), ((0.4, 1.0), 0.1, 0.2), ((0.05, 0.4), 0.5, 0.0)]
