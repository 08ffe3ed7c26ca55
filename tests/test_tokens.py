"""Are k-means words found, the same each time, and each feature's own?"""

from itertools import pairwise

import pytest
import torch

from marey.configs.errors import InputError, SettingError
from marey.models.objectives.tokens import (
    Tokenizer,
    encode,
    fit,
    kmeans,
    leaves,
    normalized_entropy,
)


def _clouds(count: int = 400, clusters: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    middles = 10 * torch.randn(clusters, 6, generator=generator)
    label = torch.randint(clusters, (count,), generator=generator)
    return middles[label] + 0.1 * torch.randn(count, 6, generator=generator), label


def test_separate_clouds_become_separate_words() -> None:
    features, label = _clouds()
    tokens = encode(fit(features, 5), features)
    for cloud in range(5):
        assert len(tokens[label == cloud].unique()) == 1
    assert len(tokens.unique()) == 5


@pytest.mark.parametrize(("branching", "levels"), [(32, 1), (3, 3), (2, 5), (12, 2)])
def test_every_centre_is_its_own_word(branching: int, levels: int) -> None:
    features = torch.randn(600, 6, generator=torch.Generator().manual_seed(1))
    codebook = fit(features, branching, levels)
    words, centres = leaves(codebook)
    assert codebook.size == branching**levels
    assert torch.equal(encode(codebook, centres), words)
    assert set(encode(codebook, features).tolist()) <= set(words.tolist())


def test_a_word_depends_on_its_feature_alone() -> None:
    features, _ = _clouds()
    for codebook in (fit(features, 16), fit(features, 4, 2)):
        whole = encode(codebook, features)
        apart = torch.cat([encode(codebook, row[None]) for row in features[:40]])
        assert torch.equal(whole[:40], apart)
        order = torch.randperm(len(features))
        assert torch.equal(encode(codebook, features[order]), whole[order])


def test_a_flat_word_is_the_nearest_centre() -> None:
    features, _ = _clouds()
    codebook = fit(features, 20)
    nearest = torch.cdist(features.double(), codebook.centres[0][0].double()).argmin(1)
    assert torch.equal(encode(codebook, features), nearest)


def test_a_hierarchical_word_is_read_from_the_root_down() -> None:
    features = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    codebook = fit(features, 3, 2)
    token = encode(codebook, features)
    top = torch.cdist(features, codebook.centres[0][0]).argmin(1)
    assert torch.equal(token // 3, top)


@pytest.mark.parametrize(("branching", "levels"), [(64, 1), (8, 2)])
def test_half_precision_does_not_reach_the_words(branching: int, levels: int) -> None:
    """Also of features that share a brightness, which the products of matrices must cancel."""
    generator = torch.Generator().manual_seed(6)
    features = 4 + 0.3 * torch.randn(600, 12, generator=generator)
    codebook = fit(features, branching, levels)
    expected = encode(codebook, features)
    words, centres = leaves(codebook)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encode(codebook, features), expected)
        assert torch.equal(encode(codebook, centres), words)


def test_the_same_seed_gives_the_same_vocabulary_and_another_seed_another() -> None:
    features = torch.randn(500, 6, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    first = fit(features, 16, seed=4)
    torch.manual_seed(1)
    assert fit(features, 16, seed=4).digest() == first.digest()
    assert fit(features, 16, seed=5).digest() != first.digest()


def test_neither_order_nor_repetition_of_features_changes_the_vocabulary() -> None:
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(3))
    again = torch.cat([features[torch.randperm(200)], features[:50]])
    assert fit(again, 16).digest() == fit(features, 16).digest()


def test_an_empty_cluster_begins_again_at_the_largest_ones_farthest_point() -> None:
    from marey.models.objectives.tokens import _refilled

    points, centres = torch.tensor([[1.0], [4.0], [2.0]]), torch.tensor([[0.0], [90.0]])
    assert _refilled(torch.zeros(3, dtype=torch.long), points, centres).tolist() == [0, 1, 0]


def test_kmeans_lowers_the_error_of_its_seeds_to_a_fixed_point() -> None:
    points = torch.randn(300, 3, generator=torch.Generator().manual_seed(4)).double()
    centres, assigned = kmeans(points, 8, torch.Generator().manual_seed(0))
    for number in range(8):
        torch.testing.assert_close(points[assigned == number].mean(0), centres[number])


def test_fewer_distinct_features_than_words_leave_words_unused() -> None:
    features = torch.eye(3).repeat(10, 1)
    codebook = fit(features, 8)
    assert leaves(codebook)[0].tolist() == [0, 1, 2]
    assert len(encode(codebook, features).unique()) == 3
    assert encode(codebook, torch.randn(50, 3)).max() < 3
    flat = fit(torch.zeros(20, 3), 4, 3)
    assert encode(flat, torch.randn(5, 3)).tolist() == [0] * 5


@pytest.mark.parametrize("features", [torch.zeros(0, 3), torch.tensor([[1.0, float("nan")]])])
def test_features_that_are_none_or_not_finite_are_refused(features: torch.Tensor) -> None:
    with pytest.raises(InputError, match="finite features"):
        fit(features, 4)


def test_a_tokenizer_learns_in_its_first_steps_only_and_checkpoints_all() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(6, 4, fit_steps=2, capacity=100)
    tokenizer.learn(torch.randn(80, 6))
    first = tokenizer.digest.clone()
    assert int(tokenizer.held) == 50  # half of the reservoir for each step
    tokenizer.learn(torch.randn(80, 6))
    second = tokenizer.digest.clone()
    assert not torch.equal(first, second)
    tokenizer.learn(torch.randn(80, 6))
    assert torch.equal(tokenizer.digest, second)
    assert bytes(second.tolist()) == tokenizer.codebook.digest()
    other = Tokenizer(6, 4, fit_steps=2, capacity=100)
    other.load_state_dict(tokenizer.state_dict())
    features = torch.randn(3, 5, 6)
    assert torch.equal(other(features), tokenizer(features))
    assert other.mark() == tokenizer.mark()


def test_a_tokenizer_goes_on_from_any_checkpoint_and_then_drops_what_it_was_fitted_on() -> None:
    parts = torch.randn(5, 40, 6, generator=torch.Generator().manual_seed(0))
    whole = Tokenizer(6, 4, fit_steps=5, capacity=200)
    digests = []
    for number, part in enumerate(parts):
        resumed = Tokenizer(6, 4, fit_steps=5, capacity=200)
        resumed.load_state_dict(whole.state_dict())
        whole.learn(part)
        resumed.learn(part)
        assert torch.equal(whole.digest, resumed.digest)
        assert whole.reservoir.shape == ((200, 6) if number < 4 else (0, 6))
        digests.append(bytes(whole.digest.tolist()))
    # fitted at the first, second, fourth and last call
    assert [a != b for a, b in pairwise([b"", *digests])] == [True, True, False, True, True]
    assert digests[-1] == fit(parts.flatten(0, 1), 4).digest()
    assert not any("reservoir" in name for name, _ in whole.named_buffers())
    resumed = Tokenizer(6, 4, fit_steps=5, capacity=200)
    resumed.load_state_dict(whole.state_dict())
    assert bytes(resumed.digest.tolist()) == digests[-1]


def test_distances_in_parts_are_those_of_all_at_once(monkeypatch) -> None:
    points = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    whole = fit(points, 7)
    monkeypatch.setattr("marey.models.objectives.tokens.DISTANCES", 100)
    assert fit(points, 7).digest() == whole.digest()


def test_fewer_features_than_steps_are_refused() -> None:
    with pytest.raises(SettingError, match="3 features"):
        Tokenizer(6, 4, fit_steps=5, capacity=3)


def test_entropy_is_one_for_equally_frequent_words_and_zero_for_a_single_one() -> None:
    assert normalized_entropy(torch.arange(16), 16).item() == pytest.approx(1.0)
    assert normalized_entropy(torch.zeros(9, dtype=torch.long), 16).item() == pytest.approx(0.0)
