"""Does relative position place patches apart, label pairs rightly, and learn layout, not noise?"""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from marey.configs.encoder import EncoderConfig
from marey.models.context.relative_position import (
    RelativePosition,
    RelativePositionConfig,
    neighbour_pairs,
)
from marey.models.encoders.encoder import Encoder
from tests.learning import train
from tests.pictures import batch_of, coordinates, noise, quilt, smooth

SMALL = {"patch": 8, "gap": 5, "jitter": 2, "patch_size": 8, "crop_scale": (1.0, 1.0)}


def _method(**settings: Any) -> RelativePosition:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(stages=3, image_size=32))
    config = RelativePositionConfig.model_validate({"hidden": (64,), **SMALL, **settings})
    return RelativePosition(encoder, config)


def test_a_pair_and_its_reverse_have_labels_that_sum_to_seven() -> None:
    pairs, label = neighbour_pairs(3)
    known = {
        tuple(pair): number for pair, number in zip(pairs.tolist(), label.tolist(), strict=True)
    }
    assert len(known) == 40
    assert all(known[second, first] == 7 - number for (first, second), number in known.items())
    assert known[4, 0] == 0  # above left of the middle
    assert known[4, 5] == 4  # right of it


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_opposite_classes_are_as_frequent_and_chance_is_that_of_the_commonest(grid: int) -> None:
    counts = neighbour_pairs(grid)[1].bincount(minlength=8)
    assert torch.equal(counts, counts.flip(0))
    assert counts[[1, 3, 4, 6]].unique().numel() == 1
    chance = _method(grid=grid).chance["accuracy"]
    assert chance == counts.max().item() / counts.sum().item()
    assert chance == pytest.approx(grid / (4 * (2 * grid - 1)))


def test_labels_are_where_the_pixels_came_from() -> None:
    """The oracle: 10,000 pairs, their direction read off planted coordinates, jitter and all."""
    torch.manual_seed(0)
    method = _method(grid=3, crop_scale=(0.5, 1.0))
    count = 250
    patches = method.cut(coordinates(60, 60).expand(count, -1, -1, -1))
    place = patches[:, :, :2].mean(dim=(3, 4))  # column, row
    first, second = method.pairs.unbind(1)
    apart = place[:, second] - place[:, first]
    # neighbours in one row or column differ there by at most twice the jitter
    pitch = (place[:, 1, 0] - place[:, 0, 0]).abs()[:, None, None]
    right, down = (apart / pitch).round().clamp(-1, 1).unbind(2)
    cell = ((down + 1) * 3 + right + 1).long()
    label = torch.where(cell > 4, cell - 1, cell)
    assert label.numel() == 10_000
    assert torch.equal(label, method.label.expand(count, -1))


def test_gap_and_jitter_are_exact() -> None:
    torch.manual_seed(0)
    method = _method(grid=3)
    assert method.config.board == 38
    patches = (255 * method.cut(coordinates(38, 38).expand(400, -1, -1, -1))).round().long()
    left, top = patches[:, :, 0].amin((2, 3)), patches[:, :, 1].amin((2, 3))
    assert torch.equal(patches[:, :, 0].amax((2, 3)), left + 7)  # whole pixels, none beyond
    base = torch.tensor([2, 15, 28])
    offset = torch.cat([left - base.repeat(3), top - base.repeat_interleave(3)])
    assert sorted(offset.unique().tolist()) == [-2, -1, 0, 1, 2]
    counts = torch.bincount(offset.flatten() + 2).float()
    assert ((counts - 1440) ** 2 / 1440).sum() < 18.5  # 4 degrees of freedom: one in a thousand
    gap = left[:, 1] - (left[:, 0] + 8)
    assert gap.min() == 1  # 5 - 2 x 2
    assert gap.max() == 9


def test_a_gap_ends_what_runs_on_from_patch_to_patch() -> None:
    """Facing edges are alike without a gap, and not with one as wide as the detail."""
    frames = smooth(200, 64, torch.Generator().manual_seed(0), cells=5)

    def alike(gap: int) -> float:
        torch.manual_seed(0)
        method = _method(grid=2, patch=16, gap=gap, jitter=0, patch_size=16)
        patches = method.cut(frames)
        edges = torch.stack([patches[:, 0, 0, :, -1].flatten(), patches[:, 1, 0, :, 0].flatten()])
        return torch.corrcoef(edges)[0, 1].item()

    assert alike(1) > 0.8
    assert abs(alike(16)) < 0.1


def test_exchanging_the_patches_of_each_pair_turns_its_label_around() -> None:
    pairs, label = neighbour_pairs(3)
    straight = {
        (*pair, number) for pair, number in zip(pairs.tolist(), label.tolist(), strict=True)
    }
    turned = {(b, a, 7 - number) for a, b, number in straight}
    assert straight == turned


def test_equal_logits_give_log_eight() -> None:
    method = _method()
    torch.nn.init.zeros_(method.classifier[-1].weight)
    torch.nn.init.zeros_(method.classifier[-1].bias)
    batch = method.augment(batch_of(noise(4, 40, torch.Generator().manual_seed(0))))
    assert method(batch)["loss"].item() == pytest.approx(math.log(8), abs=1e-6)


def test_flat_patches_take_their_pairs_out_of_the_loss() -> None:
    method = _method(grid=2, patch=12, gap=4, jitter=1).eval()
    frames = noise(3, 40, torch.Generator().manual_seed(0))
    frames[0, :, :20] = 128  # the left column: only the pair on the right is left
    batch = method.augment(batch_of(frames))
    assert batch["textured"][0, 0].tolist() == [False, True, False, True]
    metrics = method(batch)
    assert metrics["valid"].item() == pytest.approx((2 + 12 + 12) / 36)
    spoiled = {**batch, "patches": batch["patches"].clone()}
    spoiled["patches"][0, 0, 0] += 3.0
    assert torch.equal(method(spoiled)["loss"], metrics["loss"])


def test_flat_images_give_no_loss_and_no_gradient() -> None:
    method = _method()
    metrics = method(method.augment(batch_of(torch.full((4, 40, 40, 3), 90).byte())))
    metrics["loss"].backward()
    assert metrics["loss"].item() == 0
    assert metrics["valid"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_a_flat_image_shows_the_trunk_the_same_at_every_place() -> None:
    """Padding cannot say where a patch lay, since every patch goes through the trunk alone."""
    method = _method(colors="keep", pixelate=0.0).eval()
    patches = method.cut(torch.full((2, 40, 40, 3), 90).byte())
    features = method.encoder.features(method.shield(patches).flatten(0, 1))
    torch.testing.assert_close(features, features[:1].expand_as(features))


def test_patches_of_other_images_do_not_change_what_a_patch_gives() -> None:
    method = _method().eval()
    batch = method.augment(batch_of(noise(6, 40, torch.Generator().manual_seed(0))))
    one_by_one = [
        method({key: value[n : n + 1] for key, value in batch.items()})["loss"] for n in range(6)
    ]
    torch.testing.assert_close(torch.stack(one_by_one).mean(), method(batch)["loss"])


@pytest.mark.parametrize("colors", ["drop", "project"])
def test_it_learns_the_layout_of_pictures(colors: str) -> None:
    method = _method(grid=2, patch=12, gap=4, jitter=1, patch_size=16, colors=colors)
    metrics = train(method, lambda g: batch_of(quilt(32, 32, 2, g)), steps=24)
    assert metrics["accuracy"] > 0.5  # 0.167 for always the commonest class


def test_noise_teaches_nothing() -> None:
    method = _method(grid=2, patch=12, gap=4, jitter=1, patch_size=16)
    metrics = train(method, lambda g: batch_of(noise(48, 32, g)), steps=24)
    assert metrics["accuracy"] < method.chance["accuracy"] + 0.03


def test_patches_that_would_touch_are_refused() -> None:
    with pytest.raises(ValidationError, match="twice the jitter"):
        RelativePositionConfig(gap=14, jitter=7)
