"""Stacks and several views: those of embeddings, no cut crossed, no frame shared, any two views."""

import numpy as np
import pytest
from pydantic import ValidationError

from marey.configs.sampling import SpreadSampling, TimePairsSampling, ViewPairsSampling
from marey.pipeline.sampling import build_sampler, event_rng
from marey.pipeline.sampling.lookback import clip_times
from tests.corpora import make_event, make_video

RATES = [10.0, 15.0, 23.976, 29.97, 60.0]


def draws(config, event, seeds):
    sampler = build_sampler(config)
    return [r for seed in seeds for r in sampler.plan(event, event_rng(seed, 0, event.event_id))]


def views(*settings):
    return make_event(*(make_video(f"a{n}", event="a", view=str(n), **s)
                        for n, s in enumerate(settings)))  # fmt: skip


def same_shot(times_s, cut_s):
    return ((times_s < cut_s).all(axis=1) | (times_s >= cut_s).all(axis=1)).all()


@pytest.mark.parametrize("fps", RATES)
def test_view_pairs_of_stacks(fps):
    config = ViewPairsSampling(pairs=6, stack=3, stack_s=0.2, window_s=6.0)
    cut = round(4 * fps) / fps
    event = views({"fps": fps, "frames": int(10 * fps), "cuts": (cut,)},
                  {"fps": fps, "frames": int(10 * fps)})  # fmt: skip
    sampler = build_sampler(config)
    assert sampler.num_frames == 36
    for request in draws(config, event, range(500)):
        stacks = request.times_s.reshape(12, 3)
        assert np.allclose(np.diff(stacks, axis=1), int(0.2 * fps + 0.5) / fps)
        assert (np.diff(np.floor(stacks * fps + 1e-6), axis=1) > 0).all()
        assert (stacks >= 0).all()
        assert same_shot(stacks, cut)  # also in the view that has no cut: both show the instant
        assert np.allclose(stacks[:6], stacks[6:])
        assert (request.views.reshape(12, 3) == request.views.reshape(12, 3)[:, :1]).all()
        assert (np.diff(stacks[:6, -1]) > 0.4).all()
        assert np.ptp(stacks[:6, -1]) <= 6.0 + 1e-6


STACK_S = [0.1, 0.134, 0.25]


@pytest.mark.parametrize("stack_s", STACK_S)
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (TimePairsSampling, {"pairs": 4, "negative_s": 0.8}),
        (SpreadSampling, {"num_frames": 6}),
        (ViewPairsSampling, {"pairs": 4}),
    ],
)
def test_stacks_are_the_clips_that_embeddings_see(kind, settings, stack_s):
    config = kind(**settings, stack=4, stack_s=stack_s)
    # the views have different rates, and so have different stacks
    for rates in [(25.0, 25.0), (30.0, 23.976), (12.5, 29.97), (15.0, 60.0)]:
        event = views(*[{"fps": fps, "frames": int(12 * fps)} for fps in rates])
        for request in draws(config, event, range(30)):
            seen = request.views.reshape(-1, 4)[:, 0]
            stacks = request.times_s.reshape(-1, 4)
            for view, stack in zip(seen, stacks, strict=True):
                clip, _ = clip_times(event.videos[view], stack[-1:], 4, stack_s)
                assert np.allclose(stack, clip[0])


@pytest.mark.parametrize("stack_s", STACK_S)
def test_stacks_of_two_times_share_no_frame_at_any_rate(stack_s):
    config = ViewPairsSampling(pairs=8, stack=4, stack_s=stack_s)
    for fps in [*RATES, 12.5, 25.0]:
        event = views(*[{"fps": fps, "frames": int(12 * fps)}] * 2)
        for request in draws(config, event, range(30)):
            numbers = np.floor(request.times_s.reshape(2, -1) * fps + 1e-6)
            assert all(len(np.unique(side)) == 32 for side in numbers)


def test_the_shortest_event_that_holds_the_stacks():
    config = ViewPairsSampling(pairs=4, stack=3, stack_s=0.2)
    # 0.4 s at 30 frames/s: the first end is frame 12, and ends are 13 frames apart
    for frames, count in ((12 + 3 * 13, 0), (12 + 3 * 13 + 1, 1)):
        event = views({"frames": frames}, {"frames": frames})
        assert build_sampler(config).count(event) == (count, "" if count else "too_short")
    (request,) = draws(config, event, [0])
    assert np.floor(request.times_s.reshape(8, 3)[:4, -1] * 30).tolist() == [12, 25, 38, 51]


def test_all_times_that_keep_the_gap_are_equally_likely():
    config = ViewPairsSampling(pairs=2, stack=2, stack_s=0.1)
    event = views({"fps": 10.0, "frames": 7}, {"fps": 10.0, "frames": 7})
    found = [tuple(np.floor(r.times_s.reshape(4, 2)[:2, -1] * 10 + 1e-6).astype(int))
             for r in draws(config, event, range(3000))]  # fmt: skip
    pairs, counts = np.unique(found, axis=0, return_counts=True)
    wanted = {(a, b) for a in range(1, 7) for b in range(1, 7) if b - a >= 2}
    assert {tuple(map(int, p)) for p in pairs} == wanted
    assert counts.min() > 0.8 * counts.mean()


@pytest.mark.parametrize("anchors", ["any_view", "one_view"])
def test_any_ordered_pair_of_many_views_is_equally_likely(anchors):
    config = ViewPairsSampling(pairs=4, anchors=anchors)
    event = views(*[{"frames": 120}] * 4)
    orders = [
        tuple(map(int, pair))
        for r in draws(config, event, range(3000))
        for pair in zip(r.views[:4], r.views[4:], strict=True)
    ]
    pairs, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(pairs) == 12
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert counts.min() > 0.75 * counts.mean()


@pytest.mark.parametrize("anchors", ["any_view", "one_view"])
def test_a_view_that_misses_a_stretch_is_left_out_there_only(anchors):
    config = ViewPairsSampling(pairs=4, anchors=anchors, window_s=20.0)
    # the third camera joins after 6 s of 10
    event = views({"frames": 300}, {"frames": 300}, {"frames": 120, "offset_s": -6.0})
    late, times = [], []
    for request in draws(config, event, range(300)):
        clock = request.targets["time_s"][:4]
        with_third = (request.views.reshape(2, 4) == 2).any(axis=0)
        assert (clock[with_third] >= 6.0 - 1e-3).all()
        assert ((request.times_s >= 0) & (request.times_s < 10)).all()
        late.append(with_third.any())
        times.append(clock)
    assert np.mean(late) > 0.2
    assert np.min(times) < 1
    assert np.max(times) > 9


def test_a_dead_view_beside_two_others_does_not_matter():
    event = views({}, {"frames": 0, "fps": 0.0}, {})
    assert {tuple(np.unique(r.views)) for r in draws(ViewPairsSampling(), event, range(20))} == {
        (0, 2)
    }


def test_one_view_is_an_error_and_never_paired_with_itself():
    for config in (ViewPairsSampling(), ViewPairsSampling(stack=2)):
        assert build_sampler(config).count(views({})) == (0, "missing_view")


def test_views_whose_frames_are_too_far_apart_for_a_stack_are_refused():
    config = ViewPairsSampling(pairs=2, stack=2, stack_s=0.1)
    event = views({"fps": 5.0, "frames": 100}, {"fps": 30.0, "frames": 600})
    assert build_sampler(config).count(event) == (0, "frame_rate_too_low")


@pytest.mark.parametrize("fps", RATES)
def test_time_pairs_of_stacks(fps):
    config = TimePairsSampling(pairs=5, stack=3, stack_s=0.15, negative_s=0.5, window_s=3.0)
    cut = round(3 * fps) / fps
    event = make_event(make_video(fps=fps, frames=int(8 * fps), cuts=(cut,)))
    for request in draws(config, event, range(500)):
        stacks = request.times_s.reshape(10, 3)
        assert np.allclose(np.diff(stacks, axis=1), int(0.15 * fps + 0.5) / fps)
        assert (stacks >= 0).all()
        assert same_shot(np.floor(stacks * fps + 1e-6), round(3 * fps))
        apart = abs(stacks[:5, -1] - stacks[5:, -1])
        assert ((apart > 0.5 / fps) & (apart <= config.positive_s + 1e-9)).all()


def test_the_shortest_shot_that_holds_time_pairs_of_stacks():
    config = TimePairsSampling(pairs=2, stack=3, stack_s=0.1, negative_s=0.4)
    needed = 0.2 * 30 + 0.4 * 30 + 2
    assert build_sampler(config).count(make_event(make_video(frames=int(needed))))[0] == 1
    short = make_event(make_video(frames=int(needed) - 1))
    assert build_sampler(config).count(short) == (0, "too_short")


def test_negatives_that_would_share_frames_are_refused():
    with pytest.raises(ValidationError, match="share frames"):
        TimePairsSampling(stack=5, stack_s=0.2)
