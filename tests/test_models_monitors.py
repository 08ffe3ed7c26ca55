"""Do the monitors tell collapse from spread, and agreement from chance?"""

import math

import pytest
import torch

from marey.models.objectives.monitors import joint_embedding_metrics, over_pixels, pair_auc, spread


def test_isotropic_directions_have_spread_1() -> None:
    torch.manual_seed(0)
    assert spread(torch.randn(4096, 128)).item() == pytest.approx(1.0, abs=0.01)
    assert spread(1000 * torch.randn(4096, 128)).item() == pytest.approx(1.0, abs=0.01)


def test_a_single_direction_has_spread_0() -> None:
    torch.manual_seed(0)
    lengths = torch.rand(64, 1) + 0.5
    assert spread(lengths * torch.randn(1, 16)).item() == pytest.approx(0.0, abs=1e-6)
    assert spread(torch.zeros(64, 16)).item() == 0.0


def test_ten_orthogonal_clusters_have_the_spread_of_the_closed_form() -> None:
    """sqrt(128) times ten of 128 entries with deviation 0.3: low without being collapsed."""
    clusters = torch.eye(128)[torch.arange(1000) % 10]
    expected = math.sqrt(128) * 10 / 128 * math.sqrt(0.1 * 0.9)
    assert spread(clusters).item() == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(0.27, abs=0.01)


def test_pair_auc_is_1_for_perfect_pairs_and_half_for_strangers_and_collapse() -> None:
    torch.manual_seed(0)
    instance = torch.arange(256)
    first = torch.randn(256, 32)
    assert pair_auc(first, 3 * first, instance).item() == 1.0
    assert pair_auc(first, torch.randn(256, 32), instance).item() == pytest.approx(0.5, abs=0.05)
    same = torch.ones(256, 32)
    assert pair_auc(same, same, instance).item() == 0.5


def test_pair_auc_equals_a_count_and_ignores_crops_of_the_same_video() -> None:
    torch.manual_seed(0)
    instance = torch.tensor([0, 0, 1, 2, 2, 3])
    first, second = torch.randn(2, 6, 4)
    won = total = 0.0
    for row in range(6):
        own = torch.cosine_similarity(first[row], second[row], dim=0)
        for other in range(6):
            if instance[row] != instance[other]:
                won += float(own > torch.cosine_similarity(first[row], second[other], dim=0))
                total += 1
    assert pair_auc(first, second, instance).item() == pytest.approx(won / total)
    assert pair_auc(first, second, torch.zeros(6, dtype=torch.int64)).item() == 0.5


def test_autocast_does_not_round_what_is_compared() -> None:
    torch.manual_seed(0)
    first = torch.randn(1, 64) + 0.05 * torch.randn(48, 64)  # a narrow cone, as early in a run
    second = first + 0.02 * torch.randn(48, 64)
    instance = torch.arange(48)
    exact = pair_auc(first, second, instance)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pair_auc(first, second, instance), exact)


def test_several_frames_of_a_sample_are_one_instance() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 6, 4)
    metrics = joint_embedding_metrics(first, second, torch.tensor([5, 7, 9]))
    expected = pair_auc(first, second, torch.tensor([5, 5, 7, 7, 9, 9]))
    assert metrics["pair_auc"] == expected
    assert metrics["spread"] == (spread(first) + spread(second)) / 2


def test_pairs_of_one_colour_are_told_by_pixels_alone() -> None:
    """An embedding has to be better than the colours of the crops, of images or of clips."""
    colour = torch.rand(16, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    images = colour.expand(-1, -1, 8, 8)
    instance = torch.arange(16)
    for crops in (images, images[:, :, None].expand(-1, -1, 2, -1, -1)):
        found = over_pixels(torch.tensor(0.9), crops, crops, instance)
        assert found["pixel_auc"] == 1
        assert found["auc_over_pixels"].item() == pytest.approx(-0.1)
    noise = torch.rand(2, 256, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    told = over_pixels(torch.tensor(0.9), noise[0], noise[1], torch.arange(128))
    assert told["pixel_auc"].item() == pytest.approx(0.5, abs=0.05)
