"""Clips: where they lie, how far apart, how often, and that no frame is ever repeated."""

import numpy as np
import pytest
from pydantic import ValidationError

from marey.configs.sampling import ClipsSampling
from marey.pipeline.sampling import build_sampler, event_rng
from tests.corpora import make_event, make_video


def drawn(config: ClipsSampling, event, count: int = 300) -> np.ndarray:
    """Frame numbers of many samples, [count, clips, num_frames]."""
    sampler = build_sampler(config)
    requests = [r for n in range(count) for r in sampler.plan(event, event_rng(n, 0, "e"))]
    times = np.stack([r.times_s for r in requests])
    fps = event.videos[0].fps
    return np.floor(times * fps).astype(int).reshape(len(times), config.clips, config.num_frames)


@pytest.mark.parametrize("fps", [10.0, 15.0, 23.976, 25.0, 29.97, 60.0])
@pytest.mark.parametrize("placement", ["anywhere", "in_order"])
def test_every_clip_has_even_steps_of_whole_frames_within_its_video(fps: float, placement: str):
    config = ClipsSampling(
        num_frames=5, spacing_s=0.13, clips=3, gap_s=0.4, placement=placement, per_video=4
    )
    frames = int(6 * fps)
    numbers = drawn(config, make_event(make_video(fps=fps, frames=frames)))
    steps = np.unique(np.diff(numbers, axis=2))
    assert len(steps) == 1
    assert abs(steps[0] - 0.13 * fps) <= 0.5 + 1e-9
    assert numbers.min() >= 0
    assert numbers.max() < frames
    if placement == "in_order":
        gaps = np.unique(numbers[:, 1:, 0] - numbers[:, :-1, -1])
        assert len(gaps) == 1
        assert abs(gaps[0] - 0.4 * fps) <= 0.5 + 1e-9


@pytest.mark.parametrize("placement", ["anywhere", "in_order"])
def test_the_shortest_video_that_fits_has_one_place_and_a_shorter_one_none(placement: str):
    config = ClipsSampling(num_frames=4, spacing_s=0.1, clips=2, gap_s=0.2, placement=placement)
    extent = 3 if placement == "anywhere" else 3 + 2 + 3
    numbers = drawn(config, make_event(make_video(fps=10.0, frames=extent + 1)), 20)
    assert (numbers == numbers[0]).all()
    sampler = build_sampler(config)
    assert sampler.count(make_event(make_video(fps=10.0, frames=extent))) == (0, "too_short")


def test_every_start_is_as_likely_as_any_other():
    config = ClipsSampling(num_frames=3, spacing_s=0.1, per_video=20)
    starts = drawn(config, make_event(make_video(fps=10.0, frames=12)))[:, 0, 0]
    _, counts = np.unique(starts, return_counts=True)
    assert len(counts) == 10
    assert np.abs(counts / counts.mean() - 1).max() < 0.2


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_the_time_between_two_clips_has_the_density_that_is_set(power: float):
    config = ClipsSampling(num_frames=2, spacing_s=0.1, clips=2, interval_power=power, per_video=50)
    starts = drawn(config, make_event(make_video(fps=10.0, frames=101)))[:, :, 0]
    apart = np.abs(starts[:, 0] - starts[:, 1])
    places = 100
    law = (1 - np.arange(places) / places) ** power
    if power == 1:
        law[0] /= 2  # two draws coincide half as often as they lie at one distance either way
    expected = law / law.sum()
    # mass in each fifth of the range, within three standard deviations
    bins = np.add.reduceat(expected, np.arange(0, places, 20))
    share = np.bincount(apart // 20, minlength=5) / len(apart)
    assert (np.abs(share - bins) < 3 * np.sqrt(bins * (1 - bins) / len(apart)) + 1e-4).all()
    assert abs((starts[:, 0] < starts[:, 1]).mean() - 0.5) < 0.03


def test_more_power_draws_nearer_clips():
    event = make_event(make_video(fps=10.0, frames=101))
    means = []
    for power in (0.0, 1.0, 4.0, 16.0):
        config = ClipsSampling(num_frames=2, clips=2, interval_power=power, per_video=20)
        starts = drawn(config, event)[:, :, 0]
        means.append(np.abs(starts[:, 0] - starts[:, 1]).mean())
    assert means == sorted(means, reverse=True)
    assert means[0] > 8 * means[-1]


@pytest.mark.parametrize(
    "changes", [{"clips": 3}, {"placement": "in_order"}, {"motion_weighted": True}]
)
def test_a_law_of_intervals_is_refused_where_there_is_no_such_interval(changes: dict):
    with pytest.raises(ValidationError, match="interval_power"):
        ClipsSampling.model_validate({"clips": 2, "interval_power": 2.0, **changes})


@pytest.mark.parametrize("placement", ["anywhere", "in_order"])
def test_clips_come_from_where_it_moves(placement: str):
    motion = np.array([0.0] * 10 + [5.0] * 2 + [0.0] * 8)  # moves from 5 s to 6 s of 10
    event = make_event(make_video(frames=300, motion=motion))
    config = ClipsSampling(
        num_frames=4, spacing_s=0.1, clips=2, gap_s=0.1, placement=placement, motion_weighted=True
    )
    numbers = drawn(config, event)
    whole = numbers.reshape(len(numbers), 1, -1) if placement == "in_order" else numbers
    assert (whole.max(axis=2) >= 150).all()
    assert (whole.min(axis=2) < 180).all()
    uniform = config.model_copy(update={"motion_weighted": False})
    assert (drawn(uniform, event).max(axis=(1, 2)) < 150).mean() > 0.1


def test_clips_refuse_what_does_not_move():
    still = make_event(make_video(motion=np.zeros(16)))
    config = ClipsSampling(num_frames=4, motion_weighted=True)
    assert build_sampler(config).count(still) == (0, "no_motion")
    assert build_sampler(config).plan(still, event_rng(0, 0, "e")) == []
    even = config.model_copy(update={"motion_weighted": False})
    assert build_sampler(even).count(still) == (0, "no_motion")


def test_clips_in_order_lie_in_one_shot():
    config = ClipsSampling(num_frames=3, spacing_s=0.1, clips=3, gap_s=0.3, placement="in_order")
    numbers = drawn(config, make_event(make_video(fps=10.0, frames=60, cuts=(3.0,))))
    before = (numbers < 30).reshape(len(numbers), -1)
    assert (before.all(1) | ~before.any(1)).all()
    assert 0.3 < before.all(1).mean() < 0.7


def test_views_that_fit_are_counted_and_others_left_out():
    config = ClipsSampling(num_frames=8, spacing_s=0.2, per_video=3)
    long = make_video("a0", event="a", view="0", frames=90)
    event = make_event(long, make_video("a1", event="a", view="1", frames=10))
    sampler = build_sampler(config)
    assert sampler.count(event) == (3, "")
    plan = sampler.plan(event, event_rng(0, 0, "a"))
    assert len(plan) == 3
    assert all((request.views == 0).all() for request in plan)
