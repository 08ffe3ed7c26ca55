"""Is retrieval scored as defined? Closed forms, chance levels, and what must not be retrieved."""

from dataclasses import replace
from math import comb

import numpy as np
import pytest

from marey.configs.errors import InputError, SettingError
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.retrieval import (
    chance_hit,
    copy_retrieval,
    ranking_figures,
    retrieval,
    video_means,
)
from marey.pipeline.evaluate.run import evaluate


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


def test_equal_frames_are_found_by_chance_however_they_are_sorted():
    figures = retrieval(videos(np.ones((400, 3))), "scene", window_s=0.05)
    assert figures["chance@10"] == pytest.approx(0.205, abs=0.01)
    assert abs(figures["hit@10"] - figures["chance@10"]) < 0.06


def test_ndcg_equals_its_definition_and_is_one_for_a_perfect_ranking():
    relevant = np.zeros((1, 30), bool)
    relevant[0, [0, 3, 20]] = True
    scores = -np.arange(30.0)[None]
    none = np.zeros_like(relevant)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    figures = ranking_figures(scores, relevant, none)
    assert figures["ndcg@10"] == pytest.approx([(1 + 1 / np.log2(5)) / ideal])
    best = np.where(relevant, 1.0, 0.0)
    assert ranking_figures(best, relevant, none)["ndcg@10"] == pytest.approx([1])
    many = np.arange(30)[None] < 15
    assert ranking_figures(scores, many, none)["ndcg@10"] == pytest.approx([1])


def labelled(embeddings, labels):
    values = np.empty(len(embeddings), dtype=object)
    values[:] = list(labels)
    return replace(embeddings, label=values)


def test_a_video_is_the_mean_of_evenly_spaced_frames():
    rows = videos(np.random.default_rng(5).normal(size=(40, 3)), length=20)
    means = video_means(rows, samples=4)
    assert len(means) == 2
    own = rows.features[rows.video_id == "1"]
    assert np.allclose(means.features[1], own[[0, 6, 13, 19]].mean(axis=0))
    assert np.allclose(video_means(rows, samples=50).features[1], own.mean(axis=0))
    with pytest.raises(InputError, match="one label a video"):
        video_means(labelled(rows, range(40)))


def test_test_videos_look_for_their_label_in_a_gallery_of_others():
    rng = np.random.default_rng(6)
    centre = rng.normal(size=(5, 16))
    kind = np.repeat(np.arange(20) % 5, 10)
    noisy = [centre[kind] + 3 * rng.normal(size=(200, 16)) for _ in range(2)]
    test, train = (labelled(videos(x), kind) for x in noisy)
    train.event[:] = [f"train {name}" for name in train.event]
    train.video_id[:] = [f"train {name}" for name in train.video_id]
    whole = evaluate("retrieval", test, gallery=train, task="video")
    single = evaluate("retrieval", test, gallery=train, task="semantic")
    assert whole["queries"] == 20
    assert whole["chance@1"] == pytest.approx(0.2)
    assert whole["hit@1"] > single["hit@1"] > 0.25
    assert single["queries"] == 200
    assert {"hit@50", "ndcg@10", "mean_average_precision_macro"} <= whole.keys()
    assert evaluate("retrieval", test, task="video")["queries"] == 20
    with pytest.raises(SettingError, match="leave the gallery"):
        evaluate("retrieval", test, gallery=train, task="scene")


def test_a_copy_is_to_find_its_frame_among_the_clean_ones():
    rng = np.random.default_rng(7)
    clean = videos(rng.normal(size=(200, 32)), fps=1.0)
    twice = clean.take(np.repeat(np.arange(200), 2))
    number = np.tile([0, 1], 200)

    def copies(noise):
        features = twice.features + noise * rng.normal(size=twice.features.shape)
        return replace(twice, copy=number, features=features.astype(np.float32))

    exact, near, lost = (copy_retrieval(copies(noise), clean) for noise in (0, 1.3, 30))
    assert exact["hit@1"] == exact["mean_average_precision"] == 1
    assert exact["align_copies"] == pytest.approx(0, abs=1e-6)
    assert exact["queries"] == 400
    assert exact["chance@1"] == pytest.approx(1 / 200)
    assert 0.5 < near["hit@1"] < 1
    assert lost["hit@1"] < 0.05
    assert lost["align_copies"] == pytest.approx(2, abs=0.3)
    slow = [replace(part, time_s=part.time_s / 4) for part in (copies(1.3), clean)]
    dense = copy_retrieval(*slow)
    assert dense["chance@1"] > exact["chance@1"]
    with pytest.raises(InputError, match="--copies"):
        copy_retrieval(clean, clean)
    with pytest.raises(SettingError, match="--gallery"):
        evaluate("copies", copies(1))


@pytest.mark.parametrize(("task", "views"), [("semantic", 1), ("semantic", 2), ("video", 2)])
def test_a_label_is_never_found_in_the_query_s_own_video(task, views):
    """Features that name the video, and nothing else, score by chance."""
    rng = np.random.default_rng(8)
    own = np.repeat(rng.normal(size=(200 // views, 64)), 2 * views, axis=0)
    kind = np.repeat(np.arange(200 // views) % 2, 2 * views)
    figures = evaluate("retrieval", labelled(videos(own, length=2), kind), task=task)
    assert abs(figures["hit@1"] - 0.5) < 0.17
