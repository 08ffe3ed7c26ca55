"""Does S4L use the labels that it may, every image in its pretext task, and learn from both?"""

import colorsys
import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.context.s4l import S4L, S4LConfig
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus
from marey.models.objectives.exemplars import (
    HSVNoise,
    apply_hsv_noise,
    batch_hard_terms,
    distances,
    draw_hsv_noise,
)
from marey.models.objectives.info_nce import NearDuplicates
from tests.learning import train
from tests.pictures import batch_of, noise, smooth

CLASSES = 3


def _method(classes: int = CLASSES, **settings: Any) -> S4L:
    torch.manual_seed(0)
    config = S4LConfig.model_validate(
        {"augment": AugmentConfig(), "crops": 3, "embedding_dim": 16, **settings}
    )
    method = S4L(Encoder(EncoderConfig(stages=2, image_size=32)), config)
    torch.manual_seed(1)
    method.prepare(Corpus(places=100, classes=classes))
    return method


def _stripes(generator: torch.Generator, count: int = 24) -> Batch:
    """Three classes by the width of stripes that get brighter above."""
    label = torch.randint(0, CLASSES, (count,), generator=generator)
    phase = 6.28 * torch.rand(count, 1, 1, generator=generator)
    period = torch.tensor([3.0, 6.0, 12.0])[label][:, None, None]
    waves = 0.5 + 0.4 * torch.sin(6.28 * torch.arange(32)[None, None] / period + phase)
    light = torch.linspace(1, 0.4, 32)[None, :, None]
    frames = (255 * waves * light).byte()[..., None].expand(-1, -1, -1, 3).contiguous()
    return batch_of(frames, label)


@pytest.mark.parametrize("task", ["rotation", "exemplar"])
def test_the_pretext_term_is_the_mean_of_both_halves_each_for_itself(task: str) -> None:
    method = _method(task=task).eval()
    batch = method.augment(_stripes(torch.Generator().manual_seed(0)))
    batch["class_id"][6:] = -1  # a quarter has labels
    halves = []
    for half in (batch["class_id"] >= 0, batch["class_id"] < 0):
        part = {name: value[half] for name, value in batch.items()} | {}
        part["class_id"] = torch.full_like(part["class_id"], -1)
        halves.append(method(part)["loss"])
    taught, _ = method._classes(
        method.encoder(batch["images"].flatten(0, 2)).unflatten(0, (24, -1)), batch["class_id"], 1
    )
    torch.testing.assert_close(method(batch)["loss"], taught + (halves[0] + halves[1]) / 2)
    assert method(batch)["labelled"].item() == 0.25


@pytest.mark.parametrize("task", ["rotation", "exemplar"])
def test_no_weight_on_the_pretext_task_is_supervised_training_on_all_copies(task: str) -> None:
    method = _method(task=task, self_weight=0.0).eval()
    batch = method.augment(_stripes(torch.Generator().manual_seed(0)))
    copies = batch["images"][:, 0]
    logits = method.classifier(method.encoder(copies.flatten(0, 1))).double()
    label = batch["class_id"].repeat_interleave(copies.shape[1])
    wanted = functional.cross_entropy(logits, label)
    assert method(batch)["loss"].item() == pytest.approx(wanted.item(), abs=1e-5)


def test_equal_logits_give_the_logs_of_both_tasks() -> None:
    method = _method(self_weight=0.7)
    for parameter in (*method.classifier.parameters(), *method.pretext.parameters()):
        torch.nn.init.zeros_(parameter)
    metrics = method(method.augment(_stripes(torch.Generator().manual_seed(0))))
    assert metrics["loss"].item() == pytest.approx(math.log(3) + 0.7 * math.log(4), abs=1e-5)
    assert metrics["turn_accuracy"].item() == 0.25


@pytest.mark.parametrize("task", ["rotation", "exemplar"])
def test_a_batch_without_labels_has_the_pretext_term_alone(task: str) -> None:
    def unlabelled() -> Batch:
        batch = _stripes(torch.Generator().manual_seed(0))
        return batch | {"class_id": torch.full_like(batch["class_id"], -1)}

    method = _method(task=task)
    metrics = method(method.augment(unlabelled()))
    metrics["loss"].backward()
    alone = _method(classes=0, task=task)
    without = _stripes(torch.Generator().manual_seed(0))
    del without["class_id"]
    torch.manual_seed(5)
    first = alone(alone.augment(without))["loss"]
    torch.manual_seed(5)
    second = method(method.augment(unlabelled()))["loss"]
    torch.testing.assert_close(first, second)
    assert metrics["labelled"].item() == metrics["accuracy"].item() == 0
    grads = {name: p.grad for name, p in method.named_parameters()}
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads.values())
    assert not any(grads[f"classifier.{part}"].any() for part in ("weight", "bias"))


def test_without_classes_there_is_no_class_head() -> None:
    method = _method(classes=0)
    assert not any("classifier" in name for name, _ in method.named_parameters())
    assert set(method.chance) == {"turn_accuracy"}


def test_hsv_noise_equals_a_slow_formulation() -> None:
    torch.manual_seed(0)
    images = torch.rand(6, 3, 3, 3)
    drawn = draw_hsv_noise(6)
    found = apply_hsv_noise(images, drawn)
    for n in range(6):
        for y in range(3):
            for x in range(3):
                hue, *rest = colorsys.rgb_to_hsv(*images[n, :, y, x].tolist())
                rest = [
                    min(1.0, max(0.0, v ** drawn.power[n, k].item() * drawn.factor[n, k].item()
                        + drawn.shift[n, k].item())) for k, v in enumerate(rest)
                ]  # fmt: skip
                wanted = colorsys.hsv_to_rgb((hue + drawn.hue[n].item()) % 1, *rest)
                torch.testing.assert_close(
                    found[n, :, y, x], torch.tensor(wanted), atol=2e-4, rtol=0
                )


def test_hsv_noise_has_the_papers_ranges_and_colours_no_grey() -> None:
    torch.manual_seed(0)
    drawn = draw_hsv_noise(4000)
    for amount, low, high in (
        (drawn.hue, -0.1, 0.1),
        (drawn.power.log2(), -2, 2),
        (drawn.factor.log2(), -0.5, 0.5),
        (drawn.shift, -0.1, 0.1),
    ):
        assert low <= amount.min() < low + 0.01 * (high - low)
        assert high >= amount.max() > high - 0.01 * (high - low)
    gray = torch.rand(50, 1, 4, 4).expand(-1, 3, -1, -1)
    shown = apply_hsv_noise(gray, HSVNoise(*(amount[:50] for amount in drawn)))
    torch.testing.assert_close(shown, shown[:, :1].expand_as(shown), atol=1e-4, rtol=0)


def test_identical_crops_of_orthogonal_images_have_the_closed_form() -> None:
    embeddings = torch.eye(4).repeat_interleave(2, dim=0)
    same = torch.arange(8)[:, None] // 2 == torch.arange(8)[None] // 2
    itself = torch.eye(8, dtype=torch.bool)
    terms, counted = batch_hard_terms(distances(embeddings, embeddings), same & ~itself, ~same)
    assert counted.all()
    torch.testing.assert_close(terms, torch.full((8,), math.log1p(math.exp(-math.sqrt(2)))))
    assert terms[0].item() == pytest.approx(0.2176, abs=1e-4)


def test_the_hardest_of_each_kind_count_and_the_gradient_is_right() -> None:
    torch.manual_seed(0)
    points = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    group = torch.tensor([0, 0, 0, 1, 1, 2, 3])
    positive = (group[:, None] == group[None]) & ~torch.eye(7, dtype=torch.bool)
    negative = group[:, None] != group[None]
    terms, counted = batch_hard_terms(distances(points, points), positive, negative)
    assert counted.tolist() == [True] * 5 + [False] * 2
    fixed = points.detach()
    for a in range(5):
        d = [(fixed[a] - fixed[b]).square().sum().sqrt() for b in range(7)]
        worst = max(d[b] for b in range(7) if positive[a, b])
        best = min(d[b] for b in range(7) if negative[a, b])
        assert terms[a].item() == pytest.approx(math.log1p((worst - best).exp()), abs=1e-6)
    assert not terms[5:].any()
    assert torch.autograd.gradcheck(
        lambda p: batch_hard_terms(distances(p, p), positive, negative)[0], points
    )


def test_near_frames_of_one_video_do_not_repel() -> None:
    method = _method(classes=0, task="exemplar", alike=NearDuplicates(within_s=10.0))
    batch = _stripes(torch.Generator().manual_seed(0), count=4)
    batch["instance"] = torch.tensor([0, 0, 0, 0])
    batch["time_s"] = torch.tensor([[0.0], [3.0], [5.0], [9.0]])
    metrics = method(method.augment(batch))
    metrics["loss"].backward()
    assert metrics["loss"].item() == metrics["valid"].item() == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())
    batch["time_s"][3] = 30.0  # far from the others: all have a negative now
    assert method(method.augment(batch))["valid"].item() == 1


def test_turns_and_a_few_labels_are_learned_together() -> None:
    def half(generator: torch.Generator) -> Batch:
        batch = _stripes(generator)
        batch["class_id"][::2] = -1
        return batch

    metrics = train(_method(), half, steps=30)
    assert metrics["turn_accuracy"] > 0.6  # chance 0.25
    assert metrics["accuracy"] > 0.6  # chance 0.333
    assert metrics["averaged_accuracy"] > 0.6


def test_exemplars_are_told_apart() -> None:
    method = _method(classes=0, task="exemplar")

    metrics = train(method, lambda g: batch_of(smooth(16, 32, g, cells=4)), steps=30)
    assert metrics["ordering"] > 0.75  # chance 0.5
    assert metrics["embedding_std"] > 0.15  # of 0.25; 0.02 after these steps without batch norm


def test_noise_teaches_neither_turns_nor_classes() -> None:
    def draw(generator: torch.Generator) -> Batch:
        label = torch.randint(0, CLASSES, (24,), generator=generator)
        return batch_of(noise(24, 32, generator), label)

    metrics = train(_method(), draw, steps=20)
    assert metrics["turn_accuracy"] == pytest.approx(0.25, abs=0.08)
    assert metrics["accuracy"] == pytest.approx(1 / 3, abs=0.15)


def test_copies_are_the_four_turns_or_as_many_crops() -> None:
    batch = batch_of(smooth(2, 32, torch.Generator().manual_seed(0)), torch.tensor([0, 1]))
    turned = _method().augment(batch)["images"]
    assert torch.equal(turned[:, :, 2], turned[:, :, 0].rot90(2, (-2, -1)))
    varied = _method(task="exemplar").augment(batch)["images"]
    assert varied.shape == (2, 1, 3, 3, 32, 32)
    assert not torch.equal(varied[:, :, 0], varied[:, :, 1])
