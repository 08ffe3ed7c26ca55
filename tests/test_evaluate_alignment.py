"""Do the temporal measures hold their reference values, against slow formulations?"""

import numpy as np
import pytest
from scipy.stats import kendalltau

from marey.configs.errors import InputError
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.alignment import (
    alignment_error,
    alignment_errors,
    kendall_tau,
    nearest,
    nearest_class_error,
)
from marey.pipeline.evaluate.run import evaluate


def embeddings(per_video):
    """{(event, view): features [T, D]} as one table, 10 frames/s."""
    rows = [
        (event, view, t, vector)
        for (event, view), features in per_video.items()
        for t, vector in enumerate(features)
    ]
    return Embeddings(
        video_id=np.array([f"{r[0]}_{r[1]}" for r in rows], dtype=object),
        event=np.array([r[0] for r in rows], dtype=object),
        view=np.array([r[1] for r in rows], dtype=object),
        frame=np.array([r[2] for r in rows]),
        time_s=np.array([(r[2] + 0.5) / 10 for r in rows]),
        features=np.array([r[3] for r in rows], dtype=np.float32),
    )


def slow_alignment(a, b):
    total = 0.0
    for t in range(len(a)):
        distances = [float(((a[t] - b[u]) ** 2).sum()) for u in range(len(b))]
        total += abs(t - distances.index(min(distances))) / len(a)
    return total / len(a)


def test_identical_views_align_without_error():
    x = np.random.default_rng(0).normal(size=(30, 4))
    figures = alignment_error(embeddings({("e", "0"): x, ("e", "1"): x}))
    assert figures["alignment_error"] == 0
    assert figures["alignment_error_symmetric"] == 0


def test_the_error_equals_the_slow_formulation_in_both_directions():
    rng = np.random.default_rng(1)
    table, one_way, both = {}, [], []
    for event in "ab":
        views = [rng.normal(size=(25, 3)).astype(np.float32) for _ in range(3)]
        table |= {(event, str(v)): x for v, x in enumerate(views)}
        for i in range(3):
            for j in range(i + 1, 3):
                forth, back = slow_alignment(views[i], views[j]), slow_alignment(views[j], views[i])
                one_way.append(forth)
                both.append((forth + back) / 2)
    figures = alignment_error(embeddings(table))
    assert figures["alignment_error"] == pytest.approx(np.mean(one_way))
    assert figures["alignment_error_symmetric"] == pytest.approx(np.mean(both))
    assert figures["view_pairs"] == 6


@pytest.mark.parametrize("kind", ["collapsed", "random"])
def test_a_collapsed_and_a_random_embedding_score_one_third(kind):
    rng = np.random.default_rng(2)
    one = rng.normal(size=(1, 8)) * 3

    def view():
        return np.repeat(one, 100, axis=0) if kind == "collapsed" else rng.normal(size=(100, 8))

    table = embeddings({(f"e{i}", v): view() for i in range(20) for v in "01"})
    assert alignment_error(table)["alignment_error"] == pytest.approx(1 / 3, abs=0.02)


def test_a_reversed_view_and_a_constant_answer_have_their_closed_forms():
    time = np.arange(50) / 10
    line = np.arange(50.0)[:, None]
    forth, back = alignment_errors(line, line[::-1], time, time, np.random.default_rng(0))
    expected = np.abs(np.arange(50) - np.arange(50)[::-1]).mean() / 50
    assert forth == back == pytest.approx(expected)
    always_first = np.concatenate([np.zeros((1, 1)), np.full((49, 1), 1e3)])
    stuck, _ = alignment_errors(line * 0, always_first, time, time, np.random.default_rng(0))
    assert stuck == pytest.approx(49 / 2 / 50)


def test_only_the_common_time_counts():
    line = np.arange(40.0)[:, None]
    time = np.arange(40) / 10
    forth, back = alignment_errors(line, line[10:30], time, time[10:30], np.random.default_rng(0))
    assert forth == back == 0
    with pytest.raises(InputError, match="fewer than two"):
        alignment_errors(line, line, time, time + 100, np.random.default_rng(0))
    with pytest.raises(InputError, match="two views"):
        alignment_error(embeddings({("e", "0"): line, ("f", "0"): line}))


def test_the_interval_is_of_the_figure_where_events_have_unequal_numbers_of_views():
    """One event of four views whose frames match nothing, among five of two that match."""
    rng = np.random.default_rng(7)
    line = np.arange(20.0)[:, None]
    parts = {(f"e{n}", view): line for n in range(5) for view in "01"}
    parts |= {("noise", view): rng.normal(size=(20, 1)) for view in "0123"}
    figures = evaluate("alignment", embeddings(parts))
    low, high = figures["alignment_error_symmetric_interval"]
    assert low <= figures["alignment_error_symmetric"] <= high


def test_ties_are_broken_at_random_with_a_fixed_seed():
    query, gallery = np.zeros((400, 2)), np.zeros((10, 2))
    first = nearest(query, gallery, np.random.default_rng(0))
    assert np.array_equal(first, nearest(query, gallery, np.random.default_rng(0)))
    assert np.bincount(first, minlength=10).min() > 15


def test_phase_error_is_macro_over_all_classes_and_never_looks_into_its_own_sequence():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(90, 5)).astype(np.float32)
    label = rng.choice(4, 90, p=[0.6, 0.2, 0.15, 0.05])
    sequence = np.array([f"s{i}" for i in np.repeat(np.arange(6), 15)], dtype=object)
    recall = {c: [] for c in range(4)}
    for i in range(90):
        others = [j for j in range(90) if sequence[j] != sequence[i]]
        best = min(others, key=lambda j: ((x[i].astype(float) - x[j]) ** 2).sum())
        recall[label[i]].append(label[best] == label[i])
    figures = nearest_class_error(x, label, sequence)
    assert figures["phase_error"] == pytest.approx(
        1 - np.mean([np.mean(r) for r in recall.values()])
    )
    named = np.eye(6)[np.repeat(np.arange(6), 15)] + 1e-3 * rng.normal(size=(90, 6))
    within = np.repeat(np.arange(2), 45)
    assert nearest_class_error(named, within, sequence)["phase_error"] > 0.3


def test_kendall_tau_equals_the_slow_formulation():
    rng = np.random.default_rng(4)
    videos = [np.cumsum(rng.normal(size=(21, 3)), axis=0) for _ in range(3)]
    table = embeddings({(f"e{i}", "0"): x for i, x in enumerate(videos)})
    values = []
    for i in range(3):
        for j in range(3):
            if i != j:
                a, b = (videos[k].astype(np.float32)[::2] for k in (i, j))
                index = [int(np.argmin(((row - b) ** 2).sum(1))) for row in a]
                values.append(np.nan_to_num(kendalltau(range(len(a)), index)[0]))
    figures = kendall_tau(table, stride=2)
    assert figures["kendall_tau"] == pytest.approx(np.mean(values))
    assert figures["video_pairs"] == 6


def test_kendall_tau_is_one_in_order_minus_one_backwards_and_zero_when_collapsed():
    line = np.arange(20.0)[:, None]
    same = kendall_tau(embeddings({("a", "0"): line, ("b", "0"): line}), stride=1)
    back = kendall_tau(embeddings({("a", "0"): line, ("b", "0"): line[::-1]}), stride=1)
    assert same["kendall_tau"] == pytest.approx(1)
    assert back["kendall_tau"] == pytest.approx(-1)
    stuck = np.concatenate([np.zeros((1, 1)), np.full((19, 1), 1e4)])
    table = embeddings({("a", "0"): line, ("b", "0"): stuck})
    figures = kendall_tau(table, stride=1)
    assert figures["nan_fraction"] == 0.5
    assert figures["kendall_tau"] == pytest.approx(figures["kendall_tau_defined"] / 2)
