"""Are turns exact, does rotation learn which way is up, and nothing where there is no up?"""

import math
from typing import Any

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.transformations import COLOR_ORDERS, color_orders, quarter_turns
from marey.models.batch import Batch
from marey.models.context.rotation import Rotation, RotationConfig, predictive_entropy
from marey.models.encoders.encoder import Encoder
from tests.learning import train
from tests.pictures import batch_of, noise, smooth


def _method(**settings: Any) -> Rotation:
    torch.manual_seed(0)
    config = RotationConfig.model_validate({"augment": AugmentConfig(), **settings})
    return Rotation(Encoder(EncoderConfig(stages=2, image_size=32)), config)


def _skies(generator: torch.Generator) -> Batch:
    """Noise that is brighter above."""
    light = torch.linspace(1.0, 0.4, 32)[None, :, None, None]
    return batch_of((smooth(16, 32, generator) * light).byte())


def _rings(generator: torch.Generator) -> Batch:
    """Pictures that look the same however they are turned: random profiles over the radius."""
    axis = torch.arange(32) - 15.5
    radius = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt().round().long()
    profile = torch.randint(0, 256, (24, 3, 24), generator=generator)
    return batch_of(profile[:, :, radius].permute(0, 2, 3, 1).byte())


def test_four_quarter_turns_are_nothing_bit_for_bit() -> None:
    images = torch.rand(2, 3, 9, 9)
    turned = images
    for _ in range(4):
        turned = quarter_turns(turned, [1])[:, 0]
    assert torch.equal(turned, images)
    for k in range(4):
        there = quarter_turns(images, [k])[:, 0]
        assert torch.equal(quarter_turns(there, [4 - k])[:, 0], images)


def test_one_turn_is_counter_clockwise() -> None:
    image = torch.zeros(1, 3, 4, 4)
    image[0, :, 0, 3] = 1  # top right goes to top left
    assert quarter_turns(image)[0, 1, :, 0, 0].tolist() == [1, 1, 1]
    flipped = image.transpose(-1, -2).flip(-2)
    assert torch.equal(quarter_turns(image)[:, 1], flipped)


def test_only_squares_are_turned() -> None:
    with pytest.raises(ValueError, match="square"):
        quarter_turns(torch.zeros(1, 3, 4, 5))


def test_orders_of_colours_are_all_different_and_begin_with_their_own() -> None:
    pixel = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    for count, orders in COLOR_ORDERS.items():
        shown = color_orders(pixel, orders)[:, :, 0, 0]
        assert len({tuple(row) for row in shown.tolist()}) == count
        assert shown[0].tolist() == [1, 2, 3]


def test_a_turned_picture_gives_the_same_four_images_in_another_order() -> None:
    method = _method()
    frames = noise(3, 32, torch.Generator().manual_seed(0))
    straight = method.augment(batch_of(frames))["images"]
    turned = method.augment(batch_of(frames.rot90(1, (1, 2))))["images"]
    torch.testing.assert_close(turned, straight.roll(-1, dims=2))


def test_all_four_turns_show_one_crop_and_the_mirror_comes_first() -> None:
    method = _method(augment=AugmentConfig(crop_scale=(0.3, 0.6), flip=0.5))
    images = method.augment(batch_of(noise(8, 40, torch.Generator().manual_seed(0))))["images"]
    for k in range(4):
        assert torch.equal(images[:, :, k], images[:, :, 0].rot90(k, (-2, -1)))


def test_equal_logits_give_log_four() -> None:
    method = _method()
    torch.nn.init.zeros_(method.classifier.weight)
    torch.nn.init.zeros_(method.classifier.bias)
    metrics = method(method.augment(_skies(torch.Generator().manual_seed(0))))
    assert metrics["loss"].item() == pytest.approx(math.log(4), abs=1e-6)
    assert metrics["orientation_entropy"].item() == pytest.approx(math.log(4), abs=1e-6)
    assert metrics["accuracy"].item() == 0.25  # every batch holds all four alike


def test_the_loss_is_that_of_each_copy_and_its_turn() -> None:
    method = _method().eval()
    batch = method.augment(_skies(torch.Generator().manual_seed(0)))
    terms = []
    for copies in batch["images"][:, 0]:
        logits = method.classifier(method.encoder(copies)).double()
        terms += [-logits.log_softmax(dim=1)[k, k] for k in range(4)]
    assert method(batch)["loss"].item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-5)


def test_entropy_is_that_of_the_predictions() -> None:
    share = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.7, 0.1, 0.1, 0.1]]).double()
    wanted = -(share * share.log()).sum(dim=1).mean()
    assert predictive_entropy(share.log()).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_it_learns_which_way_is_up() -> None:
    metrics = train(_method(), _skies, steps=25)
    assert metrics["accuracy"] > 0.7  # chance 0.25


def test_what_looks_the_same_all_around_teaches_nothing() -> None:
    metrics = train(_method(), _rings, steps=25)
    assert metrics["accuracy"] == pytest.approx(0.25, abs=0.01)
    assert metrics["orientation_entropy"] == pytest.approx(math.log(4), abs=0.2)


def test_noise_teaches_nothing() -> None:
    metrics = train(_method(), lambda g: batch_of(noise(32, 32, g)), steps=20)
    assert metrics["accuracy"] == pytest.approx(0.25, abs=0.06)


def test_a_flat_picture_is_at_chance_exactly() -> None:
    method = _method()
    flat = torch.arange(0, 240, 30)[:, None, None, None].expand(-1, 32, 32, 3).byte()
    assert method(method.augment(batch_of(flat)))["accuracy"].item() == 0.25
