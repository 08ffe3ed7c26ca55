"""Are jigsaw's permutations far apart, its tiles in their cells, and its puzzles solvable?"""

import hashlib
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.permutations import permutation_set
from marey.models.context.jigsaw import Jigsaw, JigsawConfig
from marey.models.encoders.encoder import Encoder
from tests.learning import train
from tests.pictures import batch_of, coordinates, noise, quilt


def _method(**settings: Any) -> Jigsaw:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(stages=3, image_size=32))
    small = {"grid": 2, "permutations": 24, "patch_size": 16, "tile_dim": 32, "hidden": (64,)}
    return Jigsaw(encoder, JigsawConfig.model_validate(small | settings))


@pytest.mark.parametrize(
    ("tiles", "count", "smallest", "mean"),
    [
        (4, 4, 4, 4.0),
        (4, 12, 3, None),
        (4, 24, 2, None),
        (9, 9, 9, 9.0),
        (9, 72, 8, 8.113),
        (9, 100, 7, None),
        (9, 504, 7, 8.016),
        (9, 1000, 6, None),
        (9, 1512, 6, 8.005),
        (16, 240, 15, None),
    ],
)
def test_permutations_are_as_far_apart_as_they_can_be(
    tiles: int, count: int, smallest: int, mean: float | None
) -> None:
    table = permutation_set(tiles, count)
    assert table.shape == (count, tiles)
    assert torch.equal(table.sort(dim=1).values, torch.arange(tiles).expand(count, -1))
    differing = (table[:, None] != table[None]).sum(dim=2)
    apart = differing[~torch.eye(count, dtype=torch.bool)]
    assert apart.min().item() == smallest
    if mean:
        assert apart.float().mean().item() == pytest.approx(mean, abs=1e-3)


def test_the_table_is_the_same_for_ever() -> None:
    digest = hashlib.sha256(permutation_set(9, 504).numpy().tobytes()).hexdigest()
    assert digest[:16] == "ef6818ffa4e25b1d"
    digest = hashlib.sha256(permutation_set(9, 100).numpy().tobytes()).hexdigest()
    assert digest[:16] == "3850d8265d1a65ce"


@pytest.mark.parametrize(("tiles", "count"), [(9, 1513), (4, 25), (16, 241), (25, 10), (9, 1)])
def test_more_permutations_than_there_are_of_that_kind_are_refused(tiles: int, count: int) -> None:
    with pytest.raises(SettingError, match="permutations"):
        permutation_set(tiles, count)


def test_the_table_is_in_the_checkpoint() -> None:
    assert torch.equal(_method().state_dict()["permutations"], permutation_set(4, 24))


def test_the_inverse_permutation_restores_the_order() -> None:
    table = permutation_set(9, 504)
    inverse = table.argsort(dim=1)
    assert torch.equal(table.gather(1, inverse), torch.arange(9).expand(504, -1))
    labels = {tuple(row): number for number, row in enumerate(table.tolist())}
    assert len(labels) == 504  # the oracle: which tiles are shown says which class it is


def test_permutations_are_drawn_evenly_whatever_the_image() -> None:
    torch.manual_seed(0)
    method = _method(puzzles=64)
    frames = torch.cat(
        [noise(100, 16, torch.Generator().manual_seed(0)), torch.zeros(100, 16, 16, 3)]
    )
    drawn = method.augment(batch_of(frames.byte()))["permutation"]
    for part in (drawn[:100], drawn[100:]):
        counts = torch.bincount(part.flatten(), minlength=24).float()
        expected = part.numel() / 24
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < 50  # 23 degrees of freedom: one in a thousand


def test_no_channel_of_a_tile_leaves_its_cell() -> None:
    """With the paper's lengths on 255 px: also the gap between tiles is what it says."""
    torch.manual_seed(0)
    method = _method(grid=3, permutations=72, patch_size=64, crop_scale=(1.0, 1.0))
    assert method.config.room == 19
    tiles = (255 * method.cut(coordinates(255, 255).expand(60, -1, -1, -1))).round().long()
    low, high = tiles.amin((3, 4)), tiles.amax((3, 4))
    assert torch.equal(high - low, torch.full_like(low, 63))  # whole pixels
    columns = torch.arange(9) % 3
    for channel, cell in ((0, columns), (1, torch.arange(9) // 3), (2, columns)):
        offset = low[:, :, channel] - 85 * cell
        assert offset.min() == 0
        assert offset.max() == 21
        assert (offset + 64 <= 85).all()
    shifts = (low[:, :, 0] - low[:, :, 2]).unique()
    assert shifts.tolist() == [-2, -1, 0, 1, 2]  # red against blue
    gap = low[:, 1, 0] - high[:, 0, 0] - 1
    assert gap.min() >= 0
    assert gap.float().mean().item() == pytest.approx(21, abs=3)


def test_every_tile_has_mean_zero_and_deviation_one() -> None:
    method = _method(grid=3, permutations=72)
    tiles = method.augment(batch_of(noise(8, 60, torch.Generator().manual_seed(0))))["tiles"]
    assert tiles.mean(dim=(4, 5)).abs().max() < 1e-3
    assert (tiles.std(dim=(4, 5), correction=0) - 1).abs().max() < 1e-2


def test_colour_is_treated_alike_in_all_tiles_of_a_puzzle() -> None:
    frames = noise(200, 40, torch.Generator().manual_seed(0))
    method = _method(gray=0.3, project=0.5, channel_jitter=0)
    torch.manual_seed(0)
    raw = method.cut(frames)
    shown = method.shield(raw)
    gray = (shown - shown[:, :, :1]).abs().flatten(2).amax(dim=2) < 1e-5
    assert torch.equal(gray.all(dim=1), gray.any(dim=1))
    assert gray[:, 0].float().mean().item() == pytest.approx(0.3, abs=0.1)
    plain = _method(gray=0.0, project=0.0, channel_jitter=0).shield(raw)
    kept = torch.isclose(shown, plain, atol=1e-5).flatten(2).all(dim=2)
    assert torch.equal(kept.all(dim=1), kept.any(dim=1))
    assert kept[:, 0].float().mean().item() == pytest.approx(0.35, abs=0.1)


def test_shuffling_features_is_shuffling_tiles() -> None:
    method = _method(grid=3, permutations=72, puzzles=3).eval()
    batch = method.augment(batch_of(noise(5, 40, torch.Generator().manual_seed(0))))
    label, terms = batch["permutation"][:, 0], []
    for image in range(5):
        for number in label[image].tolist():
            tiles = batch["tiles"][image, 0][method.permutations[number]]
            joined = method.tile_layer(method.encoder(tiles)).flatten()[None]
            logits = method.classifier(joined).double()
            terms.append(-logits.log_softmax(dim=1)[0, number])
    assert method(batch)["loss"].item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-5)


def test_equal_logits_give_log_k() -> None:
    method = _method(grid=3, permutations=504)
    torch.nn.init.zeros_(method.classifier[-1].weight)
    torch.nn.init.zeros_(method.classifier[-1].bias)
    batch = method.augment(batch_of(noise(4, 40, torch.Generator().manual_seed(0))))
    assert method(batch)["loss"].item() == pytest.approx(math.log(504), abs=1e-5)
    assert method.chance["accuracy"] == 1 / 504


def test_the_order_of_the_table_does_not_matter() -> None:
    method = _method().eval()
    batch = method.augment(batch_of(noise(4, 40, torch.Generator().manual_seed(0))))
    before = method(batch)["loss"]
    order = torch.randperm(24)
    method.permutations.copy_(method.permutations[order])
    last = method.classifier[-1]
    last.weight.data, last.bias.data = last.weight.data[order], last.bias.data[order]
    batch["permutation"] = order.argsort()[batch["permutation"]]
    torch.testing.assert_close(method(batch)["loss"], before)


def test_a_puzzle_with_more_than_two_flat_tiles_is_left_out() -> None:
    method = _method(grid=3, permutations=72, crop_scale=(1.0, 1.0))
    frames = noise(3, 60, torch.Generator().manual_seed(0))
    frames[0, :20] = 77  # three tiles
    frames[1, :20, :40] = 77  # two
    assert method.augment(batch_of(frames))["solvable"][:, 0].tolist() == [False, True, True]
    flat = method(method.augment(batch_of(torch.full((4, 40, 40, 3), 77).byte())))
    flat["loss"].backward()
    assert flat["loss"].item() == flat["valid"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_it_learns_to_solve_puzzles() -> None:
    method = _method(puzzles=4, channel_jitter=2)
    metrics = train(method, lambda g: batch_of(quilt(32, 32, 2, g)), steps=24)
    assert metrics["accuracy"] > 0.3  # 1 in 24


def test_noise_teaches_nothing() -> None:
    metrics = train(_method(), lambda g: batch_of(noise(64, 32, g)), steps=24)
    assert metrics["accuracy"] < 1 / 24 + 0.03


def test_tiles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="must fit into"):
        JigsawConfig(cell=64, tile=64, channel_jitter=1)
