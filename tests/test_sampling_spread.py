"""Spread frames: one from each part of the video; stacks and positives cross no cut."""

import numpy as np
import pytest

from marey.configs.sampling import SpreadSampling
from marey.pipeline.sampling import build_sampler, event_rng
from tests.corpora import make_event, make_video

RATES = [10.0, 23.976, 29.97, 60.0]


def draws(config, event, seeds):
    sampler = build_sampler(config)
    return [r for seed in seeds for r in sampler.plan(event, event_rng(seed, 0, event.event_id))]


def numbers(request, fps):
    """Frame numbers shown at the requested times."""
    return np.floor(request.times_s * fps + 1e-6).astype(int)


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("frames", [20, 21, 47, 300])  # the smallest legal length first
def test_frames_are_distinct_in_order_and_one_of_each_part(fps, frames):
    config = SpreadSampling(num_frames=20)
    event = make_event(make_video(frames=frames, fps=fps))
    edges = np.linspace(0, frames, 21).round()
    for request in draws(config, event, range(500)):  # 10,000 frames
        found = numbers(request, fps)
        assert (found >= edges[:-1]).all()
        assert (found < edges[1:]).all()
        assert (np.diff(found) > 0).all()
        assert np.allclose(request.targets["progress"], (found + 0.5) / frames, atol=1e-6)
        assert np.allclose(request.targets["time_s"], request.times_s, atol=1e-4)
        assert (request.targets["view"] == 0).all()


def test_every_frame_of_a_video_is_equally_likely():
    config = SpreadSampling(num_frames=10)
    event = make_event(make_video(frames=100))
    found = np.concatenate([numbers(r, 30.0) for r in draws(config, event, range(2000))])
    counts = np.bincount(found, minlength=100)
    assert len(counts) == 100
    assert abs(counts / 200 - 1).max() < 0.3  # 200 expected of each, deviation 13
    # neighbouring parts are drawn apart: no fixed spacing
    gaps = np.diff(np.stack([numbers(r, 30.0) for r in draws(config, event, range(200))]), axis=1)
    assert len(np.unique(gaps)) > 15


def test_each_view_gives_samples_and_a_short_one_gives_none():
    views = [make_video(f"a{n}", event="a", view=str(n), frames=f) for n, f in enumerate((60, 19))]
    sampler = build_sampler(SpreadSampling(num_frames=20, per_video=3))
    assert sampler.count(make_event(*views)) == (3, "")
    assert sampler.count(make_event(views[1])) == (0, "too_short")
    assert sampler.plan(make_event(views[1]), event_rng(0, 0, "a")) == []
    assert {int(r.views[0]) for r in sampler.plan(make_event(*views), event_rng(0, 0, "a"))} == {0}


@pytest.mark.parametrize("fps", RATES)
def test_positives_lie_near_in_the_same_shot_on_both_sides(fps):
    config = SpreadSampling(num_frames=8, positive_s=0.35)
    frames, cut = int(6 * fps), round(2 * fps)
    event = make_event(make_video(frames=frames, fps=fps, cuts=(cut / fps,)))
    reach = int(0.35 * fps)
    signed = []
    for request in draws(config, event, range(800)):
        assert len(request.times_s) == 16
        assert len(request.targets["progress"]) == 8
        anchors, positives = np.split(numbers(request, fps), 2)
        apart = positives - anchors
        assert (apart != 0).all()
        assert (abs(apart) <= reach).all()
        assert ((anchors < cut) == (positives < cut)).all()
        assert ((positives >= 0) & (positives < frames)).all()
        inside = np.minimum(abs(anchors - cut), np.minimum(anchors, frames - 1 - anchors)) > reach
        signed.append(apart[inside])
    steps, counts = np.unique(np.concatenate(signed), return_counts=True)
    assert set(steps) == set(range(-reach, reach + 1)) - {0}
    assert counts.min() > 0.6 * counts.mean()


@pytest.mark.parametrize("fps", RATES)
def test_stacks_end_at_their_frame_and_never_cross_a_cut(fps):
    config = SpreadSampling(num_frames=6, stack=3, stack_s=0.2)
    cut = round(3 * fps)
    event = make_event(make_video(frames=int(7 * fps), fps=fps, cuts=(cut / fps,)))
    for request in draws(config, event, range(300)):
        stacks = request.times_s.reshape(6, 3)
        assert np.allclose(np.diff(stacks, axis=1), int(0.2 * fps + 0.5) / fps)
        found = np.floor(stacks * fps + 1e-6).astype(int)
        assert (np.diff(found, axis=1) > 0).all()
        assert (found >= 0).all()
        assert ((found < cut).all(axis=1) | (found >= cut).all(axis=1)).all()
        progress = (found[:, -1] + 0.5) / event.videos[0].frames
        assert np.allclose(request.targets["progress"], progress, atol=1e-6)


def test_frames_of_one_shot_measure_their_progress_in_it():
    config = SpreadSampling(num_frames=10, within="shot")
    event = make_event(make_video(frames=240, cuts=(2.0, 2.2)))  # 60, 6 and 180 frames
    first = []
    for request in draws(config, event, range(1000)):
        found = numbers(request, 30.0)
        early = bool(found[0] < 60)
        first.append(early)
        start, length = (0, 60) if early else (66, 174)
        assert ((found >= start) & (found < start + length)).all()
        assert np.allclose(request.targets["progress"], (found + 0.5 - start) / length, atol=1e-6)
    assert abs(np.mean(first) - 60 / 234) < 0.05  # shots are drawn by their length


def test_what_a_frame_rate_cannot_give_is_refused():
    slow = make_event(make_video(fps=2.0, frames=60))
    for config in (SpreadSampling(stack=2, stack_s=0.2), SpreadSampling(positive_s=0.3)):
        sampler = build_sampler(config)
        assert sampler.count(slow) == (0, "frame_rate_too_low")
        assert sampler.plan(slow, event_rng(0, 0, "a")) == []
    # twenty frames that all cross a cut with their stacks
    chopped = make_event(make_video(frames=40, cuts=tuple(n / 30 for n in range(0, 40, 2))))
    assert build_sampler(SpreadSampling(stack=3, stack_s=0.1)).count(chopped) == (0, "too_short")
