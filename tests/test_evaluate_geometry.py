"""Do the measures of geometry hold their closed forms, and do alarms ring exactly when due?"""

import numpy as np
import pytest

from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.bootstrap import split_by_group, video_interval
from marey.pipeline.evaluate.geometry import (
    align,
    collapse_signs,
    diagnose,
    lidar,
    pairs_in_time,
    participation_ratio,
    rankme,
    spectrum_decay,
    uniformity,
)
from marey.pipeline.evaluate.run import evaluate


def sphere(rng, n, d):
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_identical_views_align_to_zero_and_opposite_ones_to_four():
    x = sphere(np.random.default_rng(0), 50, 6)
    assert align(x, 3 * x) == pytest.approx(0, abs=1e-9)
    assert align(x, -x) == pytest.approx(4, abs=1e-6)


def test_uniformity_equals_the_slow_formulation_and_its_reference_values():
    rng = np.random.default_rng(1)
    x = sphere(rng, 40, 5)
    pairs = [(x[i] - x[j]) @ (x[i] - x[j]) for i in range(40) for j in range(i + 1, 40)]
    assert uniformity(x) == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(pairs)))), abs=1e-6)
    assert uniformity(np.ones((30, 8))) == pytest.approx(0, abs=1e-6)
    assert uniformity(sphere(rng, 1500, 3)) == pytest.approx(-2.08, abs=0.01)
    assert uniformity(sphere(rng, 1500, 128)) == pytest.approx(-3.938, abs=0.002)


def test_uniformity_within_videos_does_not_count():
    rng = np.random.default_rng(5)
    centres = sphere(rng, 40, 16)
    video = np.repeat(np.arange(40), 50)
    near = centres[video] + 0.01 * rng.normal(size=(2000, 16))
    assert uniformity(near, video) == pytest.approx(uniformity(centres), abs=0.02)
    assert uniformity(near) > uniformity(centres) + 0.5
    assert uniformity(near, np.zeros(2000)) == uniformity(near)
    assert diagnose(near, video)["uniformity"] == uniformity(near, video)


def test_pairs_in_time_are_a_second_apart_in_one_video_at_any_rate():
    times = [np.arange(40) / 15, np.arange(9) * 0.5, np.arange(5) * 3.0, np.array([0.0])]
    video = np.concatenate([np.full(len(t), n) for n, t in enumerate(times)])
    time_s = np.concatenate(times)
    first, second = pairs_in_time(video, time_s)
    assert np.array_equal(video[first], video[second])
    np.testing.assert_allclose(time_s[second] - time_s[first], 1.0)
    assert np.bincount(video[first], minlength=4).tolist() == [25, 7, 0, 0]
    jittered, _ = pairs_in_time(np.zeros(3), np.array([0.0, 0.96, 2.5]))
    assert jittered.tolist() == [0]


def test_rankme_of_known_matrices_and_its_invariances():
    rng = np.random.default_rng(2)
    assert rankme(np.eye(7)) == pytest.approx(7)
    assert rankme(np.outer(rng.normal(size=40), rng.normal(size=9))) == pytest.approx(1, abs=1e-4)
    clusters = np.eye(12)[np.repeat(np.arange(5), 20)]
    assert rankme(clusters) == pytest.approx(5)
    x = rng.normal(size=(200, 10)) * np.arange(1, 11)
    turn = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    assert rankme(1000 * x @ turn) == pytest.approx(rankme(x), rel=1e-6)
    assert rankme(x + 100, centred=True) == pytest.approx(rankme(x, centred=True), rel=1e-6)
    assert rankme(x + 100) < 3
    assert rankme(np.zeros((5, 3))) == 1


def test_rankme_and_participation_of_gaussian_features_match_published_bias():
    x = np.random.default_rng(3).normal(size=(4096, 128))
    assert rankme(x) == pytest.approx(127.5, abs=0.2)
    assert participation_ratio(x) == pytest.approx(124.1, abs=0.5)
    assert rankme(x + 10) == pytest.approx(25.7, abs=0.5)


@pytest.mark.parametrize(
    ("kind", "alarms"),
    [
        ("isotropic", []),
        ("constant", ["collapse", "cone", "dimensional_collapse", "dead_units"]),
        ("rank two", ["dimensional_collapse"]),
        ("cone", ["collapse", "cone", "dimensional_collapse"]),
        ("dead", ["dead_units"]),
    ],
)
def test_exactly_the_due_alarms_ring(kind, alarms):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(1000, 64)).astype(np.float32)
    if kind == "constant":
        x = np.repeat(x[:1], 1000, axis=0)
    elif kind == "rank two":
        x = x[:, :2] @ rng.normal(size=(2, 64))
    elif kind == "cone":
        x = 0.01 * x + rng.normal(size=64)
    elif kind == "dead":
        x[:, :20] = 0
    assert diagnose(x)["alarms"] == alarms


def test_diagnostics_equal_their_definitions():
    x = np.random.default_rng(5).normal(size=(60, 8)) + 0.5
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = [unit[i] @ unit[j] for i in range(60) for j in range(60) if i != j]
    figures = diagnose(x)
    assert figures["mean_cosine"] == pytest.approx(np.mean(cosine), abs=1e-6)
    assert figures["normalised_std"] == pytest.approx(np.sqrt(8) * unit.std(0).mean(), abs=1e-6)


def test_the_interval_redraws_videos_not_frames():
    rng = np.random.default_rng(6)
    per_video = rng.uniform(size=25)
    video = np.repeat(np.arange(25), 4).astype(str).astype(object)
    values = np.repeat(per_video, 4)
    low, high = video_interval(values, video)
    assert low < per_video.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * per_video.std() / 5, rel=0.15)
    more = video_interval(np.repeat(values, 10), np.repeat(video, 10))
    assert np.allclose((low, high), more)
    assert video_interval(values - values, video) == (0, 0)


def test_splits_hold_whole_videos_and_repeat_by_seed():
    video = np.array([f"v{i % 9}" for i in range(90)], dtype=object)
    first, second = split_by_group(video, (0.7, 0.3), 0), split_by_group(video, (0.7, 0.3), 0)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert sorted(np.concatenate(first)) == list(range(90))
    assert not set(video[first[0]]) & set(video[first[1]])
    assert len(set(video[first[0]])) == 6
    three = split_by_group(np.array(["a", "b", "c"], dtype=object), (0.98, 0.01, 0.01), 1)
    assert [len(part) for part in three] == [1, 1, 1]
    with pytest.raises(ValueError, match="parts"):
        split_by_group(np.array(["a"], dtype=object), (0.5, 0.5), 1)


def test_lidar_counts_the_directions_that_copies_leave_alone():
    rng = np.random.default_rng(7)
    frames = rng.normal(size=(4000, 1, 12))
    frames[..., 5:] = 0
    still = np.repeat(frames, 3, axis=1)
    assert lidar(still) == pytest.approx(5, abs=0.05)
    loud = still + np.concatenate([np.zeros(5), 30 * np.ones(7)]) * rng.normal(size=still.shape)
    assert rankme(loud[:, 0]) > 7, "rank alone is fooled by what copies change"
    assert lidar(loud) == pytest.approx(5, abs=0.1)
    assert lidar(np.ones((20, 2, 4))) == 1
    noise = rng.normal(size=(4000, 2, 6))
    assert lidar(1000 * noise) == pytest.approx(lidar(1e6 * noise), rel=1e-6)


def test_spectrum_decay_of_a_known_power_law():
    rng = np.random.default_rng(8)
    left = np.linalg.qr(rng.normal(size=(500, 100)))[0]
    left -= left.mean(axis=0)
    for alpha in (0.5, 1.0, 2.0):
        x = left * np.arange(1, 101) ** (-alpha / 2)
        assert spectrum_decay(x) == pytest.approx(alpha, abs=0.05)
    assert spectrum_decay(np.ones((50, 8))) is None


def test_cosines_within_a_shot_do_not_count():
    rng = np.random.default_rng(9)
    shot = np.repeat(np.array(list("abcd"), dtype=object), 25)
    x = np.repeat(np.eye(4), 25, axis=0) + 0.01 * rng.normal(size=(100, 4))
    assert collapse_signs(x, shot)["mean_cosine"] == pytest.approx(0, abs=0.02)
    assert collapse_signs(x)["mean_cosine"] == pytest.approx(24 / 99, abs=0.02)
    assert np.isnan(collapse_signs(x, np.zeros(100))["mean_cosine"])


def test_copies_give_lidar_and_their_own_distance():
    rng = np.random.default_rng(10)
    frames = np.repeat(rng.normal(size=(50, 8)), 3, axis=0) + 0.1 * rng.normal(size=(150, 8))
    video = np.repeat(np.array([f"v{n}" for n in range(10)], dtype=object), 15)
    rows = Embeddings(
        video_id=video, event=video, view=video, frame=np.tile(np.repeat(np.arange(5), 3), 10),
        time_s=np.tile(np.repeat(np.arange(5.0), 3), 10), features=frames.astype(np.float32),
        copy=np.tile(np.arange(3), 50),
    )  # fmt: skip
    figures = evaluate("geometry", rows)
    assert figures["frames"] == 50
    assert figures["copies"] == 3
    assert 0 < figures["align_aug"] < 0.1
    assert figures["lidar"] > 6
    whole = np.ones(len(rows), bool)
    whole[4] = False
    assert evaluate("geometry", rows.take(whole))["frames"] == 49
