"""Is SLA's joint question put, averaged and distilled as the paper says, and does it learn?"""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.context.sla import (
    SLA,
    SLAConfig,
    aggregate,
    distillation_terms,
    joint_labels,
    joint_terms,
)
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus
from tests.learning import train
from tests.pictures import batch_of, noise, smooth

CLASSES = 3


def _method(**settings: Any) -> SLA:
    torch.manual_seed(0)
    config = SLAConfig.model_validate({"augment": AugmentConfig(), **settings})
    method = SLA(Encoder(EncoderConfig(stages=2, image_size=32)), config)
    torch.manual_seed(1)
    method.prepare(Corpus(places=100, classes=CLASSES))
    return method


def _stripes(generator: torch.Generator) -> Batch:
    """Three classes by the width of stripes that get brighter above."""
    label = torch.randint(0, CLASSES, (24,), generator=generator)
    phase = 6.28 * torch.rand(24, 1, 1, generator=generator)
    period = torch.tensor([3.0, 6.0, 12.0])[label][:, None, None]
    waves = 0.5 + 0.4 * torch.sin(6.28 * torch.arange(32)[None, None] / period + phase)
    light = torch.linspace(1, 0.4, 32)[None, :, None]
    frames = (255 * waves * light).byte()[..., None].expand(-1, -1, -1, 3).contiguous()
    return batch_of(frames, label)


def test_the_joint_class_says_both() -> None:
    label = torch.tensor([0, 2, 5])
    joint = joint_labels(label, 4)
    assert torch.equal(joint // 4, label[:, None].expand(-1, 4))
    assert torch.equal(joint % 4, torch.arange(4).expand(3, -1))


def test_the_objective_equals_a_slow_formulation_and_its_gradient_is_right() -> None:
    joint = torch.randn(5, 4, 12, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 2, 1, 1, 0])
    for image in range(5):
        slow = 0.0
        for j in range(4):
            shares = joint[image, j].exp() / joint[image, j].exp().sum()
            slow -= shares[label[image] * 4 + j].log().item() / 4
        assert joint_terms(joint, label)[image].item() == pytest.approx(slow, abs=1e-9)
    assert torch.autograd.gradcheck(lambda z: joint_terms(z, label), joint)


def test_logits_are_averaged_and_not_probabilities() -> None:
    joint = torch.randn(6, 4, CLASSES * 4) * 3
    scores = aggregate(joint)
    for image in range(6):
        for kind in range(CLASSES):
            own = [joint[image, j, kind * 4 + j].item() for j in range(4)]
            assert scores[image, kind].item() == pytest.approx(sum(own) / 4, abs=1e-5)
    # two copies for class 0 with little doubt, two against it with none: averaged probabilities
    # would say 0
    torn = torch.zeros(1, 4, 2 * 4)
    torn[0, [0, 1], [0, 1]] = 3.0
    torn[0, [2, 3], [2, 3]] = -9.0
    by_probability = torch.stack([torn[0, j].view(2, 4)[:, j].softmax(0) for j in range(4)]).mean(0)
    assert aggregate(torn).argmax().item() == 1
    assert aggregate(torn)[0, 0].item() == -3.0
    assert by_probability[0] > 0.47  # nearly a tie


def test_equal_copies_aggregate_to_one_alone() -> None:
    by_class = torch.randn(5, CLASSES)
    joint = by_class.repeat_interleave(4, dim=1)[:, None].expand(-1, 4, -1)
    torch.testing.assert_close(aggregate(joint), by_class)


def test_one_transformation_is_plain_cross_entropy() -> None:
    method = _method(turns=1, colors=1, distillation=0.0).eval()
    batch = method.augment(_stripes(torch.Generator().manual_seed(0)))
    logits = method.joint(method.encoder(batch["images"][:, 0, 0]))
    wanted = functional.cross_entropy(logits, batch["class_id"])
    torch.testing.assert_close(method(batch)["loss"], wanted)


@pytest.mark.parametrize(("turns", "colors"), [(4, 1), (2, 1), (1, 3), (1, 6), (2, 3), (4, 6)])
def test_equal_logits_give_log_of_all_joint_classes(turns: int, colors: int) -> None:
    method = _method(turns=turns, colors=colors)
    for head in (method.joint, method.student):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    metrics = method(method.augment(_stripes(torch.Generator().manual_seed(0))))
    wanted = math.log(CLASSES * turns * colors) + math.log(CLASSES)  # the student's labels; KL 0
    assert metrics["loss"].item() == pytest.approx(wanted, abs=1e-5)


def test_the_teacher_gets_no_gradient_from_its_student() -> None:
    method = _method(student_labels=0.0)
    batch = method.augment(_stripes(torch.Generator().manual_seed(0)))
    joint = method.joint(method.encoder(batch["images"].flatten(0, 2))).unflatten(0, (-1, 4))
    student = torch.randn(24, CLASSES, requires_grad=True)
    distillation_terms(student, aggregate(joint)).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert method.joint.weight.grad is None


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64)
    for heat in (1.0, 3.0):
        p, q = (teacher / heat).softmax(1), (student / heat).softmax(1)
        slow = (p * (p / q).log()).sum(dim=1) * heat**2
        torch.testing.assert_close(distillation_terms(student, teacher, heat), slow)
    assert torch.autograd.gradcheck(lambda s: distillation_terms(s, teacher, 2.0), student)
    assert distillation_terms(teacher, teacher).abs().max() < 1e-12


def test_the_order_of_transformations_does_not_matter() -> None:
    joint, label = torch.randn(5, 4, CLASSES * 4), torch.tensor([0, 2, 1, 1, 0])
    order = torch.tensor([2, 0, 3, 1])
    columns = (torch.arange(CLASSES)[:, None] * 4 + order[None]).flatten()
    other = joint[:, order][:, :, columns]
    torch.testing.assert_close(joint_terms(other, label), joint_terms(joint, label))
    torch.testing.assert_close(aggregate(other), aggregate(joint))


def test_copies_are_told_apart_in_colour_and_turn_and_the_first_is_unchanged() -> None:
    method = _method(turns=4, colors=6)
    images = torch.rand(2, 3, 8, 8)
    copies = method.transformed(images)
    assert copies.shape == (2, 24, 3, 8, 8)
    torch.testing.assert_close(copies[:, 0], method.encoder.normalize(images))
    assert len(copies[0].flatten(1).unique(dim=0)) == 24
    turned = method.encoder.normalize(images.rot90(2, (-2, -1)))
    torch.testing.assert_close(_method(turns=2).transformed(images)[:, 1], turned)


def test_a_grey_picture_has_equal_copies_and_can_cost_no_less_than_log_m() -> None:
    method = _method(turns=1, colors=6)
    gray = torch.rand(3, 1, 8, 8).expand(-1, 3, -1, -1)
    copies = method.transformed(gray)
    torch.testing.assert_close(copies, copies[:, :1].expand_as(copies))
    logits = torch.full((1, 6, CLASSES * 6), -50.0)
    logits[:, :, 6:12] = 50.0  # sure of class 1, undecided of the colours
    assert joint_terms(logits, torch.tensor([1])).item() == pytest.approx(math.log(6), abs=1e-5)


def test_images_without_a_label_are_left_out() -> None:
    method = _method().eval()
    batch = method.augment(_stripes(torch.Generator().manual_seed(0)))
    some = batch | {"class_id": batch["class_id"].clone()}
    some["class_id"][8:] = -1
    known = {key: value[:8] for key, value in batch.items()}
    torch.testing.assert_close(method(some)["loss"], method(known)["loss"])
    none = method(batch | {"class_id": torch.full_like(batch["class_id"], -1)})
    none["loss"].backward()
    assert none["loss"].item() == none["valid"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_data_without_labels_are_refused_with_a_way_out() -> None:
    method = SLA(Encoder(EncoderConfig(stages=2, image_size=32)), SLAConfig())
    with pytest.raises(SettingError, match=r"column `label`.*--views"):
        method.prepare(Corpus(places=10, classes=0))


def test_there_is_nothing_to_distil_from_one_copy() -> None:
    with pytest.raises(ValidationError, match="nothing to distil"):
        SLAConfig(turns=1, colors=1)


def test_it_learns_classes_and_turns_together() -> None:
    method = _method()
    metrics = train(method, _stripes, steps=30)
    assert metrics["accuracy"] > 0.75  # chance 0.333
    assert metrics["joint_accuracy"] > 0.4  # chance 0.083
    assert metrics["student_accuracy"] > 0.6
    drawn = _stripes(torch.Generator().manual_seed(9))
    said = method.eval().predict(drawn["frames"][:, 0]).argmax(dim=1)
    assert (said == drawn["class_id"]).float().mean() > 0.75


def test_labels_that_say_nothing_of_the_picture_stay_at_chance() -> None:
    def draw(generator: torch.Generator) -> Batch:
        label = torch.randint(0, CLASSES, (24,), generator=generator)
        return batch_of(noise(24, 32, generator), label)

    assert train(_method(), draw, steps=20)["accuracy"] == pytest.approx(1 / 3, abs=0.15)


def test_predictions_are_the_aggregated_logits_of_the_copies() -> None:
    method = _method().eval()
    frames = smooth(3, 32, torch.Generator().manual_seed(0))
    images = method.augment(batch_of(frames, torch.zeros(3).long()))["images"]
    joint = method.joint(method.encoder(images.flatten(0, 2))).unflatten(0, (3, 4))
    torch.testing.assert_close(method.predict(frames), aggregate(joint), atol=1e-4, rtol=1e-4)
