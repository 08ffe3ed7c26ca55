"""Are few-label draws nested, complete and by video? Does progression find each phase's start?"""

from itertools import pairwise

import numpy as np
import pytest

from marey.configs.errors import InputError, SettingError
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.few_labels import few_rows, over_draws
from marey.pipeline.evaluate.label_protocols import _grid
from marey.pipeline.evaluate.labels import Labels
from marey.pipeline.evaluate.linear import PENALTIES
from marey.pipeline.evaluate.progression import progression_targets
from marey.pipeline.evaluate.run import evaluate

LENGTH, PHASES = 24, 3


def corpus(events=40, noise=0.2, seed=0, dim=12):
    """One-view events: three phases whose starts differ, embedded as a noisy path of progress."""
    rng = np.random.default_rng(seed)
    starts = np.stack([rng.integers(4, 9, events), rng.integers(12, 18, events)], axis=1)
    frame = np.tile(np.arange(LENGTH), events)
    event = np.repeat(np.arange(events), LENGTH)
    phase = (frame >= starts[event, 0]).astype(int) + (frame >= starts[event, 1])
    state = np.concatenate([(frame[:, None] - starts[event]) / LENGTH, np.eye(PHASES)[phase]], 1)
    mixing = np.random.default_rng(7).normal(size=(state.shape[1], dim))
    names = np.array([f"e{n}" for n in event], dtype=object)
    label = np.empty(len(phase), dtype=object)
    label[:] = phase.tolist()
    return Embeddings(
        video_id=names, event=names, view=np.full(len(frame), "0", dtype=object), frame=frame,
        time_s=(frame + 0.5) / 5, label=label,
        features=(state @ mixing + noise * rng.normal(size=(len(frame), dim))).astype(np.float32),
    )  # fmt: skip


def test_draws_are_nested_class_complete_whole_videos_and_repeat_by_seed():
    rng = np.random.default_rng(0)
    group = np.array([f"v{n}" for n in np.repeat(np.arange(200), 5)], dtype=object)
    labels = np.repeat(rng.integers(0, 4, 200), 5)
    previous: set[int] = set()
    for share in (0.01, 0.1, 0.5, 1.0):
        rows = few_rows(labels, group, share=share, seed=3)
        assert previous <= set(rows)
        assert set(labels[rows]) == {0, 1, 2, 3}
        assert len(rows) == 5 * len(set(group[rows])), "not whole videos"
        for label in range(4):
            own = len(set(group[labels == label]))
            assert len(set(group[rows][labels[rows] == label])) == int(np.ceil(share * own))
        previous = set(rows)
    assert len(previous) == 1000
    shots = [few_rows(labels, group, shots=k, seed=3) for k in (1, 2, 5, 10)]
    assert [len(rows) for rows in shots] == [20, 40, 100, 200]
    assert all(set(a) <= set(b) for a, b in pairwise(shots))
    again, other = (few_rows(labels, group, shots=1, seed=seed) for seed in (3, 4))
    assert np.array_equal(again, shots[0])
    assert not np.array_equal(other, shots[0])


def test_a_video_of_all_classes_is_one_shot_of_each():
    group = np.repeat(np.array([f"v{n}" for n in range(30)], dtype=object), 4)
    labels = np.tile(np.arange(4), 30)
    assert len(few_rows(labels, group, share=0.1)) == 3 * 4
    assert len(few_rows(labels, group, shots=1)) == 4


def test_impossible_shares_are_refused():
    labels, group = np.zeros(4, int), np.array(list("abcd"), dtype=object)
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"shots": -1}, {"share": 0.5, "shots": 2}):
        with pytest.raises(SettingError):
            few_rows(labels, group, **wrong)


def test_draws_are_summed_up_as_mean_and_deviation():
    draws = [
        {"accuracy": 0.5, "k": 3, "accuracy_interval": [0, 1]},
        {"accuracy": 0.7, "k": 3, "accuracy_interval": [0, 1]},
    ]
    expected = {"accuracy": 0.6, "accuracy_std": 0.02**0.5, "k": 3, "draws": 2}
    assert over_draws(draws) == pytest.approx(expected)


@pytest.mark.parametrize("protocol", ["knn", "linear"])
@pytest.mark.parametrize("with_gallery", [True, False])
def test_more_labelled_videos_score_better_and_draws_differ(protocol, with_gallery):
    test, gallery = corpus(noise=1.5), corpus(noise=1.5, seed=1)
    gallery = gallery.take(np.arange(len(gallery)))
    gallery.event[:] = [f"train {name}" for name in gallery.event]
    options = {"gallery": gallery if with_gallery else None}
    if protocol == "linear":
        options["penalties"] = 5
    few = evaluate(protocol, test, labelled=0.05, **options)
    one = evaluate(protocol, test, shots=1, draws=3, **options)
    whole = evaluate(protocol, test, **options)
    assert few["draws"] == 5
    assert one["draws"] == 3
    assert 0 < few["accuracy_std"] < 0.2
    assert whole["accuracy"] > few["accuracy"] + 0.03
    assert "accuracy_std" not in whole
    if protocol == "knn":
        assert few["gallery"] == 2 * LENGTH
        assert one["gallery"] == LENGTH
        if not with_gallery:
            assert few["queries"] == 38 * LENGTH, "labelled events must not be queries"
    else:
        assert few["events_train"] == 2
        assert few["events_validation"] == 1
        assert few["frames_test"] == whole["frames_test"]


def test_targets_are_signed_shares_of_the_video_to_the_start_of_a_phase():
    rows = corpus(events=2)
    assert rows.label is not None
    phase = rows.label.astype(int)
    targets = progression_targets(rows, phase, PHASES)
    assert np.isnan(targets[:, 0]).all(), "the first phase has no visible start"
    own = rows.video_id == "e1"
    start = np.flatnonzero(phase[own] == 2)[0]
    expected = (start - np.arange(LENGTH)) / LENGTH
    assert np.allclose(targets[own, 2], expected)
    backwards = rows.take(np.arange(len(rows))[::-1])
    again = progression_targets(backwards, phase[::-1], PHASES)
    assert np.array_equal(again[::-1], targets, equal_nan=True)


def test_progression_rewards_embeddings_that_know_how_far_it_is():
    good = evaluate("progression", corpus(), penalties=5, draws=2)
    assert good["progression_r2"] > 0.9
    assert good["key_events"] == ["1", "2"]
    assert len(good["progression_r2_per_event"]) == 2
    accuracies = [good[f"accuracy_{share}_labelled"] for share in ("10%", "50%", "100%")]
    assert accuracies[0] > good["accuracy_chance"] + 0.2
    assert accuracies[2] >= accuracies[0]
    assert good["accuracy_100%_labelled_std"] == 0
    rng = np.random.default_rng(5)
    rows = corpus()
    noise = Embeddings(
        rows.video_id, rows.event, rows.view, rows.frame, rows.time_s,
        rng.normal(size=rows.features.shape).astype(np.float32), rows.label,
    )  # fmt: skip
    bad = evaluate("progression", noise, penalties=5, draws=2)
    assert bad["progression_r2"] < 0.05
    assert bad["accuracy_100%_labelled"] < bad["accuracy_chance"] + 0.1


def test_videos_that_lack_a_phase_do_not_count_for_it():
    rows = corpus()
    assert rows.label is not None
    rows.label[np.isin(rows.event, [f"e{n}" for n in range(20)]) & (rows.label == 2)] = 1
    figures = evaluate("progression", rows, penalties=5, draws=1)
    assert figures["key_events"] == ["1", "2"]
    assert figures["progression_r2"] > 0.8
    still = np.empty(len(rows), dtype=object)
    still[:] = 0
    with pytest.raises(InputError, match="begins after the first frame"):
        evaluate("progression", rows, Labels(still, "test"))
    lists = np.empty(len(rows), dtype=object)
    lists[:] = [[0.1, 0.2]] * len(rows)
    with pytest.raises(InputError, match="lists"):
        evaluate("progression", rows, Labels(lists, "test"))


def test_the_crosscheck_stands_beside_the_probe():
    figures = evaluate("linear", corpus(), penalties=5, crosscheck=True)
    assert figures["accuracy_sgd"] == pytest.approx(figures["accuracy"], abs=0.03)


def test_few_penalties_span_the_whole_range():
    assert _grid(1) == (pytest.approx(10**-0.5),)
    assert _grid(2) == (PENALTIES[0], PENALTIES[-1])
    assert _grid(45) == _grid(100) == PENALTIES
    with pytest.raises(SettingError, match="penalties=0"):
        _grid(0)
