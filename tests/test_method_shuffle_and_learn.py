"""Does Shuffle and Learn tell ordered from misordered tuples, and nothing from noise?"""

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.shuffle_and_learn import (
    ShuffleAndLearn,
    ShuffleAndLearnConfig,
    looks_valid,
)
from tests.learning import draw_dots, train

VARIED = AugmentConfig(crop_scale=(0.8, 1.0), jitter=0.5, brightness=0.2)


def _method(augment: AugmentConfig = VARIED, **sampling: float) -> ShuffleAndLearn:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        stages=2, image_size=32, pool="spatial_softmax", pool_norm=True, embedding_dim=8
    )
    config = ShuffleAndLearnConfig.model_validate(
        {"augment": augment, "sampling": {"kind": "tuples", **sampling}}
    )
    return ShuffleAndLearn(Encoder(encoder), config)


def _tuples(generator: torch.Generator, informative: bool = True) -> Batch:
    """Dots that cross the picture; a middle frame out of order lies outside the other two."""
    count = 32
    label = (torch.rand(count, generator=generator) < 0.25).long()
    ends = torch.tensor([0.35, 0.65]).repeat(count, 1)
    ends += 0.1 * (torch.rand(count, 2, generator=generator) - 0.5)
    outside = torch.rand(count, generator=generator) < 0.5
    jitter = 0.05 * torch.rand(count, generator=generator)
    middle = torch.where(
        label == 1, 0.45 + 2 * jitter, torch.where(outside, 0.1 + jitter, 0.9 - jitter)
    )
    if not informative:
        label = label[torch.randperm(count, generator=generator)]
    x = torch.stack([ends[:, 0], middle, ends[:, 1]], dim=1)
    background = (torch.rand(count, 1, 3, generator=generator) * 0.6).expand(-1, 3, -1)
    y = torch.rand(count, 1, generator=generator).expand(-1, 3) * 0.6 + 0.2
    frames = draw_dots(x.flatten(), y.flatten(), background.reshape(-1, 3))
    return {
        "frames": frames.unflatten(0, (count, 3)),
        "label": label,
        "time_s": torch.zeros(count, 3),
        "instance": torch.arange(count),
    }


@pytest.mark.parametrize("compare", ["concatenation", "differences"])
def test_it_learns_to_verify_order(compare: str) -> None:
    method = _method()
    method.config = method.config.model_copy(update={"compare": compare})
    metrics = train(method, _tuples, steps=50)
    assert method.chance["balanced_accuracy"] == 0.5
    assert metrics["balanced_accuracy"] > 0.75
    assert metrics["accuracy"] > method.chance["accuracy"]


def test_labels_without_information_stay_at_chance() -> None:
    metrics = train(_method(), lambda g: _tuples(g, informative=False), steps=50)
    assert metrics["balanced_accuracy"] == pytest.approx(0.5, abs=0.08)


def test_both_classes_weigh_the_same() -> None:
    """A classifier that always says `invalid` with confidence has the loss of its opposite."""
    method = _method()
    label = torch.tensor([1, 0, 0, 0])  # the sampler's shares
    images = torch.zeros(4, 3, 3, 32, 32)
    losses = []
    for bias in ([5.0, -5.0], [-5.0, 5.0]):
        last = method.classifier[-1]
        torch.nn.init.zeros_(last.weight)
        last.bias.data = torch.tensor(bias)
        batch = {"images": images, "label": label, "counted": torch.ones(4, dtype=torch.bool)}
        losses.append(method(batch)["loss"])
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_has_finite_metrics(label: int) -> None:
    method = _method()
    batch = _tuples(torch.Generator().manual_seed(0))
    metrics = method(method.augment({**batch, "label": torch.full((32,), label)}))
    assert all(value.isfinite() for value in metrics.values())


def test_a_tuple_shares_its_crop_and_each_frame_has_its_own_colours() -> None:
    batch = _tuples(torch.Generator().manual_seed(0))
    same = {**batch, "frames": batch["frames"][:, :1].expand(-1, 3, -1, -1, -1)}
    torch.manual_seed(0)
    cropped = _method(AugmentConfig(crop_scale=(0.3, 0.6))).augment(same)["images"]
    assert torch.equal(cropped[:, 0], cropped[:, 2])
    varied = _method(AugmentConfig(jitter=1.0, brightness=0.4)).augment(same)["images"]
    assert not torch.equal(varied[:, 0], varied[:, 2])


@pytest.mark.parametrize("crops", ["shared", "each_frame"])
def test_crops_and_mirror_images_are_the_tuples_or_each_frames(crops: str) -> None:
    batch = _tuples(torch.Generator().manual_seed(0))
    plain = _method(AugmentConfig()).augment(batch)["images"]
    torch.manual_seed(0)
    method = _method(AugmentConfig(flip=0.5))
    method.config = method.config.model_copy(update={"crops": crops})
    images = method.augment(batch)["images"]
    mirrored = torch.isclose(images, plain.flip(4), atol=1e-5).flatten(2).all(2)
    kept = torch.isclose(images, plain, atol=1e-5).flatten(2).all(2)
    assert (mirrored | kept).all()
    assert 0.3 < mirrored.float().mean() < 0.7
    whole = mirrored.sum(dim=1) % 3 == 0  # all frames of a tuple or none of them
    assert whole.all() if crops == "shared" else not whole.all()


def test_what_is_coded_on_black_borders_does_not_reach_the_encoder() -> None:
    bars = _tuples(torch.Generator().manual_seed(0))
    bars["frames"] = bars["frames"].clamp(min=60)
    bars["frames"][:, :, :4] = 0
    noisy = {**bars, "frames": bars["frames"].clone()}
    noisy["frames"][:, :, :4] = torch.tensor([2, 9, 16], dtype=torch.uint8).view(3, 1, 1, 1)
    method = _method(AugmentConfig(crop_scale=(0.8, 1.0), jitter=1.0, brightness=0.3, contrast=0.3))
    given = []
    for batch in (bars, noisy):
        torch.manual_seed(0)
        given.append(method.augment(batch))
    assert torch.equal(given[0]["images"], given[1]["images"])
    assert torch.equal(given[0]["counted"], given[1]["counted"])


def test_cyclic_and_static_tuples_out_of_order_count_nothing() -> None:
    """A middle frame that looks like an end may lie between the ends: only positives may."""
    x = torch.tensor([[0.2, 0.8, 0.5], [0.2, 0.21, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    frames = draw_dots(x.flatten(), torch.full((12,), 0.5), torch.zeros(12, 3)).unflatten(0, (4, 3))
    assert looks_valid(frames, 0.1).tolist() == [False, True, True, True]
    batch = {"frames": frames, "label": torch.tensor([0, 0, 0, 1])}
    assert _method().augment(batch)["counted"].tolist() == [True, False, False, True]


def test_a_tuple_that_looks_as_if_in_order_counts_nothing_where_the_frame_in_order_is_known() -> (
    None
):
    """Cyclic motion: long after d, or before b, the picture is that of c again."""
    x = torch.tensor([[0.2, 0.5, 0.8, 0.5], [0.2, 0.5, 0.8, 0.4], [0.2, 0.5, 0.8, 0.5]])
    frames = draw_dots(x.flatten(), torch.full((12,), 0.5), torch.zeros(12, 3)).unflatten(0, (3, 4))
    batch = {"frames": frames, "label": torch.tensor([0, 0, 1])}
    torch.manual_seed(0)
    given = _method(inner=True).augment(batch)
    assert given["counted"].tolist() == [False, True, True]
    # only the guard sees the fourth frame, and without it the tuple counts
    torch.manual_seed(0)
    three = _method().augment({**batch, "frames": frames[:, :3]})
    assert torch.equal(given["images"], three["images"])
    assert three["counted"].all()


def test_tuples_that_do_not_count_do_not_change_the_loss() -> None:
    method = _method().eval()
    batch = method.augment(_tuples(torch.Generator().manual_seed(0)))
    batch["counted"] = torch.arange(32) < 20
    some = method({key: value[:20] for key, value in batch.items()})["loss"]
    torch.testing.assert_close(method(batch)["loss"], some)
    none = method({**batch, "counted": torch.zeros(32, dtype=torch.bool)})
    none["loss"].backward()
    assert none["loss"] == 0
    assert none["balanced_accuracy"] == 0.5
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())
