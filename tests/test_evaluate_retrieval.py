"""Is retrieval scored as defined? Closed forms, chance levels, and what must not be retrieved."""

from math import comb

import numpy as np
import pytest

from configs.errors import InputError, SettingError
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.retrieval import chance_hit, ranking_figures, retrieval


def videos(features, length=10, fps=1.0):
    """Videos of `length` frames; two consecutive ones are the views of an event."""
    count = len(features) // length
    number = np.repeat(np.arange(count), length)
    return Embeddings(
        video_id=number.astype(str).astype(object),
        event=(number // 2).astype(str).astype(object),
        view=(number % 2).astype(str).astype(object),
        frame=np.tile(np.arange(length), count),
        time_s=np.tile(np.arange(length) / fps, count),
        features=np.asarray(features, dtype=np.float32),
    )


def slow_average_precision(scores, relevant):
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], j))
    hits, total = 0, 0.0
    for rank, j in enumerate(order, start=1):
        if relevant[j]:
            hits += 1
            total += hits / rank
    return total / hits


def test_average_precision_of_a_perfect_and_of_a_reversed_ranking():
    relevant = np.array([[True] * 4 + [False] * 16] * 2)
    scores = np.array([-np.arange(20.0), np.arange(20.0)])
    none = np.zeros_like(relevant)
    figures = ranking_figures(scores, relevant, none)
    closed = np.mean([i / (16 + i) for i in range(1, 5)])
    assert figures["average_precision"] == pytest.approx([1, closed])
    assert figures["hit@5"].tolist() == [1, 0]
    assert figures["precision@5"].tolist() == [0.8, 0]


def test_average_precision_equals_the_slow_formulation():
    rng = np.random.default_rng(0)
    scores, relevant = rng.normal(size=(8, 30)), rng.uniform(size=(8, 30)) < 0.2
    relevant[:, 0] = True
    figures = ranking_figures(scores, relevant, np.zeros_like(relevant))
    slow = [slow_average_precision(s, r) for s, r in zip(scores, relevant, strict=True)]
    assert figures["average_precision"] == pytest.approx(slow)


def test_the_chance_formula_matches_binomials_and_a_random_ranking():
    relevant, size = np.array([3, 1, 10, 9]), np.array([10, 50, 10, 10])
    exact = [
        1 - comb(g - r, min(5, g)) / comb(g, min(5, g)) for r, g in zip(relevant, size, strict=True)
    ]
    assert chance_hit(relevant, size, 5) == pytest.approx(exact)
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(3000, 40))
    truth = np.zeros((3000, 40), bool)
    truth[:, :6] = True
    figures = ranking_figures(scores, truth, np.zeros_like(truth))
    for k in (1, 5, 10):
        chance = figures[f"chance@{k}"][0]
        spread = 3 * np.sqrt(chance * (1 - chance) / 3000)
        assert abs(figures[f"hit@{k}"].mean() - chance) < spread


def test_a_query_never_finds_itself_nor_its_neighbours_in_time():
    rng = np.random.default_rng(2)
    unrelated = rng.normal(size=(200, 32))
    figures = retrieval(videos(unrelated), "scene", window_s=3)
    assert figures["hit@1"] < 0.2
    figures = retrieval(videos(unrelated), "scene", window_s=0)
    assert figures["hit@1"] < 0.2, "an unrelated frame's only perfect match is itself"
    drift = np.cumsum(rng.normal(size=(20, 10, 32)), axis=1).reshape(200, 32)
    near = retrieval(videos(drift), "scene", window_s=0.5)
    far = retrieval(videos(drift), "scene", window_s=6)
    assert near["mean_average_precision"] > far["mean_average_precision"] + 0.1
    assert near["queries"] == 200
    assert far["queries_without_relevant"] == 40


def test_temporal_retrieval_looks_only_into_the_other_views():
    rng = np.random.default_rng(3)
    state = rng.normal(size=(10, 10, 16))
    both = np.stack([state, state], axis=1).reshape(200, 16)
    figures = retrieval(videos(both), "temporal", delta_s=0.2)
    assert figures["hit@1"] == 1
    assert figures["chance@1"] == pytest.approx(0.1)
    own_view_only = np.stack([state, rng.normal(size=state.shape)], axis=1).reshape(200, 16)
    assert retrieval(videos(own_view_only), "temporal")["hit@1"] < 0.3


def test_hubs_are_reported_and_nonsense_is_refused():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 64))
    spread = retrieval(videos(x), "scene", window_s=2)["hubness"]
    cone = rng.normal(size=64)
    x[0] = cone * 5
    hub = retrieval(videos(x * 0.8 + cone), "scene", window_s=2)["hubness"]
    assert hub > spread + 2
    with pytest.raises(SettingError, match="scene, semantic, temporal"):
        retrieval(videos(x), "copies")
    with pytest.raises(InputError, match="no query"):
        retrieval(videos(x), "scene", window_s=100)
