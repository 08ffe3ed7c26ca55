"""Samplers: their inequalities over many draws, their counts, their determinism, their refusals."""

from itertools import combinations

import numpy as np
import pytest
from pydantic import ValidationError

from marey.configs.sampling import (
    ClipsSampling,
    FramesSampling,
    TimePairsSampling,
    TuplesSampling,
    ViewPairsSampling,
)
from marey.pipeline.sampling import build_sampler, event_rng
from tests.corpora import make_event, make_video

ALL = [
    FramesSampling(per_video=5),
    TimePairsSampling(pairs=8, per_video=3),
    ViewPairsSampling(pairs=8, per_event=3),
    TuplesSampling(per_video=6),
    ClipsSampling(num_frames=8, clips=2, per_video=3),
]


def two_views(**settings):
    return make_event(
        make_video("a0", event="a", view="0", **settings),
        make_video("a1", event="a", view="1", **settings),
    )


def draws(config, event, seeds):
    sampler = build_sampler(config)
    return [r for seed in seeds for r in sampler.plan(event, event_rng(seed, 0, event.event_id))]


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)
def test_count_is_kept_and_plans_depend_on_seed_epoch_and_event_alone(config):
    event = two_views()
    sampler = build_sampler(config)
    count, reason = sampler.count(event)
    assert count > 0
    assert reason == ""

    def times(seed, epoch, name):
        plan = sampler.plan(event, event_rng(seed, epoch, name))
        assert len(plan) == count
        assert all(len(r.times_s) == len(r.views) == sampler.num_frames for r in plan)
        return np.stack([r.times_s for r in plan])

    first = times(0, 0, "a")
    assert np.array_equal(first, times(0, 0, "a"))
    for other in (times(1, 0, "a"), times(0, 1, "a"), times(0, 0, "b")):
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)
@pytest.mark.parametrize("fps", [10.0, 23.976, 29.97, 60.0])
def test_every_time_lies_in_its_video_at_any_frame_rate(config, fps):
    event = two_views(fps=fps, frames=int(8 * fps))
    for request in draws(config, event, range(40)):
        assert (request.times_s >= 0).all()
        assert (request.times_s < event.videos[0].frames / fps).all()


@pytest.mark.parametrize("fps", [10.0, 29.97, 60.0])
def test_time_pairs_keep_their_windows(fps):
    config = TimePairsSampling(pairs=8, window_s=3.0)
    event = make_event(make_video(fps=fps, frames=int(20 * fps)))
    gaps = []
    for request in draws(config, event, range(1500)):
        anchors, positives = request.times_s[:8], request.times_s[8:]
        assert len(np.unique(anchors)) == 8
        gap = np.abs(anchors - positives)
        assert (gap > 0.5 / fps).all()
        assert (gap <= config.positive_s + 1e-9).all()
        assert np.ptp(request.times_s) <= config.window_s
        gaps.append(positives - anchors)
    # before and after, near and far are equally likely
    signed = np.concatenate(gaps)
    reach = int(config.positive_s * fps)
    steps, counts = np.unique(np.round(signed * fps).astype(int), return_counts=True)
    assert set(steps) == set(range(-reach, reach + 1)) - {0}
    assert counts.min() > 0.8 * counts.mean()


def test_time_pairs_refuse_a_shot_without_negatives_and_take_the_shortest_legal_one():
    config = TimePairsSampling(pairs=2, positive_s=0.2, negative_s=0.4)
    sampler = build_sampler(config)
    needed = 0.4 * 30 + 2
    short = make_event(make_video(frames=int(needed) - 1))
    assert sampler.count(short) == (0, "too_short")
    assert sampler.plan(short, event_rng(0, 0, "a")) == []
    assert sampler.count(make_event(make_video(frames=int(needed))))[0] == 1


@pytest.mark.parametrize("fps", [10.0, 23.976, 29.97, 30.0, 60.0])
@pytest.mark.parametrize("window_s", [0.41, 0.6, 3.0])
@pytest.mark.parametrize("pairs", [2, 3, 8])
def test_time_pairs_always_hold_a_negative(fps, window_s, pairs):
    config = TimePairsSampling(pairs=pairs, negative_s=0.4, window_s=window_s)
    for request in draws(config, make_event(make_video(fps=fps, frames=int(5 * fps))), range(200)):
        anchors = request.targets["time_s"][:pairs]
        assert (np.diff(anchors) > 0.5 / fps).all()
        assert np.ptp(anchors) > config.negative_s


def test_anchors_with_a_negative_are_equally_likely():
    config = TimePairsSampling(pairs=3, positive_s=0.1, negative_s=0.3, window_s=0.7)
    event = make_event(make_video(fps=10.0, frames=7))
    drawn = [np.floor(r.times_s[:3] * 10) for r in draws(config, event, range(4000))]
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    wanted = [t for t in combinations(range(7), 3) if t[-1] - t[0] > 3]
    assert found.astype(int).tolist() == [list(t) for t in wanted]
    assert counts.min() > 0.75 * counts.mean()


def test_time_pairs_refuse_a_window_without_negatives():
    with pytest.raises(ValidationError, match=r"window_s \(0.4\) must exceed negative_s"):
        TimePairsSampling(window_s=0.4)


def test_windows_never_reach_over_a_cut():
    cut = 4.0
    event = make_event(make_video(frames=240, cuts=(cut,)))
    configs = [
        TimePairsSampling(pairs=8),
        TuplesSampling(max_span_s=1.0, min_gap_s=0.3),
        ClipsSampling(num_frames=8, spacing_s=0.2),
    ]
    for config in configs:
        sides = [request.times_s < cut for request in draws(config, event, range(300))]
        assert all(side.all() or not side.any() for side in sides), config.kind
        assert 0.2 < np.mean([side.all() for side in sides]) < 0.8, config.kind


def test_view_pairs_are_simultaneous_in_the_events_clock_and_from_two_views():
    slow = make_video("a0", event="a", view="0", offset_s=0.5)
    drifting = make_video("a1", event="a", view="1", rate=1.01, frames=300)
    event = make_event(slow, drifting, make_video("a2", event="a", view="2", fps=25.0))
    config = ViewPairsSampling(pairs=8, window_s=4.0)
    orders = set()
    for request in draws(config, event, range(200)):
        clock = [
            (t - event.videos[v].clock_offset_s) / event.videos[v].clock_rate
            for t, v in zip(request.times_s, request.views, strict=True)
        ]
        assert np.allclose(clock[:8], clock[8:])
        assert np.allclose(request.targets["time_s"], clock, atol=1e-5)
        assert (request.views[:8] != request.views[8:]).all()
        assert len(np.unique(np.round(clock[:8], 6))) == 8
        orders |= set(zip(request.views[:8], request.views[8:], strict=True))
    assert len(orders) == 6


def test_times_before_a_gap_are_drawn_too():
    """Two cameras show 0 to 15 s and 40 to 100 s; a range of 20 s fits into the second only."""
    views = [
        make_video("a0", event="a", view="0", frames=3000),
        make_video("a1", event="a", view="1", frames=450),
        make_video("a2", event="a", view="2", frames=1800, offset_s=-40.0),
    ]
    requests = draws(ViewPairsSampling(pairs=8), make_event(*views), range(300))
    clock = np.array([request.targets["time_s"][:8] for request in requests])
    assert (np.ptp(clock, axis=1) <= 20.0).all()
    drawn, _ = np.histogram(clock, bins=[0, 5, 10, 15, 40, 60, 80, 100])
    assert drawn[3] == 0
    assert (np.delete(drawn, 3) > 20).all()


def test_one_view_anchors_stay_in_one_view():
    config = ViewPairsSampling(pairs=8, anchors="one_view")
    views = [tuple(np.unique(r.views[:8])) for r in draws(config, two_views(), range(50))]
    assert set(views) == {(0,), (1,)}


def test_first_view_anchors_keep_left_and_right_apart_also_for_a_single_pair():
    third = make_video("a2", event="a", view="2")
    config = ViewPairsSampling(pairs=1, anchors="first_view", per_event=4)
    event = make_event(*two_views().videos, third)
    requests = draws(config, event, range(50))
    assert {tuple(request.views) for request in requests} == {(0, 1)}
    assert all(request.times_s[0] == request.times_s[1] for request in requests)
    assert len({request.times_s[0] for request in requests}) > 100
    # the second and third view are no stereo pair
    dead = make_event(make_video("a0", event="a", frames=0, fps=0.0), *event.videos[1:])
    assert build_sampler(config).count(dead) == (0, "missing_view")


def test_view_pairs_refuse_a_missing_view():
    sampler = build_sampler(ViewPairsSampling())
    assert sampler.count(make_event(make_video())) == (0, "missing_view")
    dead = make_event(make_video("a0", event="a"), make_video("a1", event="a", frames=0, fps=0.0))
    assert sampler.count(dead) == (0, "missing_view")
    assert sampler.count(two_views(frames=10)) == (0, "too_short")


@pytest.mark.parametrize("frames", [240, 80, 45])
def test_tuples_hold_the_papers_inequalities(frames):
    config = TuplesSampling(max_span_s=1.0, min_gap_s=0.3, per_video=10)
    event = make_event(make_video(frames=frames))
    labels = []
    for request in draws(config, event, range(400)):
        first, middle, last = np.round(request.times_s * 30 - 0.5).astype(int)
        low, high = min(first, last), max(first, last)
        assert 4 <= high - low <= 30
        labels.append(int(request.targets["label"]))
        if labels[-1]:
            assert low < middle < high
        else:
            outside = low - middle if middle < low else middle - high
            assert 6 <= outside <= 30  # the gap shrinks with a short shot, to no less than 0.2 s
        assert min(low, middle) >= 0
        assert max(high, middle) < frames
    assert abs(np.mean(labels) - 0.25) < 0.03


def test_tuples_run_backwards_half_of_the_time_with_the_same_labels():
    config = TuplesSampling(max_span_s=1.0, min_gap_s=0.3, per_video=10)
    requests = draws(config, make_event(make_video()), range(300))
    backward = np.array([r.times_s[0] > r.times_s[2] for r in requests])
    label = np.array([r.targets["label"] for r in requests])
    assert abs(backward.mean() - 0.5) < 0.04
    assert abs(label[backward].mean() - label[~backward].mean()) < 0.05


def test_tuples_come_from_where_it_moves():
    motion = np.array([0.0] * 10 + [5.0] * 2 + [0.0] * 8)  # moves from 5 s to 6 s of 10
    video = make_video(frames=300, motion=motion)
    config = TuplesSampling(max_span_s=0.8, min_gap_s=0.3, per_video=10)
    times = np.array([r.times_s.mean() for r in draws(config, make_event(video), range(100))])
    assert ((times > 3.5) & (times < 7.5)).all()
    uniform = config.model_copy(update={"motion_weighted": False})
    spread = np.array([r.times_s.mean() for r in draws(uniform, make_event(video), range(100))])
    assert ((spread < 3.5) | (spread > 7.5)).mean() > 0.4


def test_tuples_refuse_what_does_not_move_and_what_is_too_short():
    sampler = build_sampler(TuplesSampling(max_span_s=1.0, min_gap_s=0.3))
    still = make_event(make_video(motion=np.zeros(16)))
    assert sampler.count(still) == (0, "no_motion")
    assert sampler.count(make_event(make_video(frames=8))) == (0, "too_short")


def test_clips_are_evenly_spaced_and_never_repeat_a_frame():
    config = ClipsSampling(num_frames=8, spacing_s=0.2, clips=2)
    for request in draws(config, make_event(make_video(fps=10.0, frames=80)), range(100)):
        for clip in np.split(request.times_s, 2):
            assert np.allclose(np.diff(clip), 0.2)
    sampler = build_sampler(config.model_copy(update={"spacing_s": 0.05}))
    assert sampler.count(make_event(make_video(fps=10.0)))[1] == "frame_rate_too_low"


def test_frames_are_spread_over_time_and_a_short_video_gives_each_frame_once():
    config = FramesSampling(per_video=6)
    event = make_event(make_video(frames=60))
    for seed in range(50):
        numbers = [int(r.times_s[0] * 30) for r in draws(config, event, [seed])]
        assert [n // 10 for n in numbers] == list(range(6))
    three = [int(r.times_s[0] * 30) for r in draws(config, make_event(make_video(frames=3)), [0])]
    assert three == [0, 1, 2]


def test_an_unreadable_video_is_refused_by_its_status():
    video = make_video(frames=0, fps=0.0)
    event = make_event(type(video)(**{**_fields(video), "status": "unreadable"}))
    for config in (FramesSampling(), TimePairsSampling(), TuplesSampling(), ClipsSampling()):
        assert build_sampler(config).count(event) == (0, "unreadable")


def _fields(video):
    return {name: getattr(video, name) for name in video.__slots__}
