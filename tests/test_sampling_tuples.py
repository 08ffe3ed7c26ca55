"""Tuples of Shuffle and Learn: only the middle frame may tell the label."""

import numpy as np
import pytest
from pydantic import ValidationError

from marey.configs.sampling import TuplesSampling
from marey.pipeline.sampling import build_sampler, event_rng
from tests.corpora import make_event, make_video


def draws(config, event, count):
    """(low end, middle, high end) frame numbers [n, 3] and labels [n]."""
    sampler = build_sampler(config)
    rows, labels = [], []
    for seed in range(count):
        for request in sampler.plan(event, event_rng(seed, 0, event.event_id)):
            found = np.floor(request.times_s * event.videos[0].fps + 1e-6).astype(int)
            rows.append([min(found[0], found[2]), found[1], max(found[0], found[2])])
            labels.append(int(request.targets["label"]))
    return np.array(rows), np.array(labels)


@pytest.mark.parametrize("frames", [300, 100, 45, 28])
def test_the_ends_have_one_law_whatever_the_label(frames):
    """A classifier of the first and the last frame's numbers learns nothing."""
    config = TuplesSampling(max_span_s=1.0, min_gap_s=0.3, per_video=20, negative_share=0.5)
    rows, labels = draws(config, make_event(make_video(frames=frames)), 500)
    for values in (rows[:, 0], rows[:, 2], rows[:, 2] - rows[:, 0]):
        valid, invalid = values[labels == 1], values[labels == 0]
        both = np.sort(np.concatenate([valid, invalid]))
        steps = [np.searchsorted(np.sort(v), both, side="right") / len(v) for v in (valid, invalid)]
        assert np.abs(steps[0] - steps[1]).max() < 0.04  # Kolmogorov-Smirnov, 10,000 tuples


@pytest.mark.parametrize("fps", [10.0, 23.976, 29.97, 60.0])
def test_five_frames_keep_their_distances_at_any_frame_rate(fps):
    config = TuplesSampling(max_span_s=1.0, min_gap_s=0.3, per_video=20)
    rows, labels = draws(config, make_event(make_video(fps=fps, frames=int(12 * fps))), 500)
    low, middle, high = rows.T
    assert ((high - low) >= int(fps) // 2).all()
    assert ((high - low) <= int(fps)).all()
    valid = labels == 1
    quarter = np.maximum(1, (high - low) // 4)
    assert (middle[valid] >= (low + quarter)[valid]).all()
    assert (middle[valid] <= (high - quarter)[valid]).all()
    outside = np.where(middle < low, low - middle, middle - high)[~valid]
    assert (outside >= 0.3 * fps - 1e-3).all()
    assert (outside <= fps).all()
    assert abs(valid.mean() - 0.25) < 0.015
    assert abs((middle < low)[~valid].mean() - 0.5) < 0.03


@pytest.mark.parametrize("fps", [7.5, 23.976, 30.0])
def test_a_gap_as_long_as_the_span_leaves_one_distance(fps):
    """Rounded up and down to frames, the gap may be the longer one."""
    config = TuplesSampling(max_span_s=1.0, min_gap_s=1.0, per_video=20)
    rows, labels = draws(config, make_event(make_video(fps=fps, frames=int(12 * fps))), 20)
    low, middle, high = rows[labels == 0].T
    outside = np.where(middle < low, low - middle, middle - high)
    assert set(outside) == {int(np.ceil(fps))}


def test_a_gap_longer_than_the_span_is_refused():
    with pytest.raises(ValidationError, match=r"min_gap_s \(1.5\) must not exceed max_span_s"):
        TuplesSampling(max_span_s=1.0, min_gap_s=1.5)


@pytest.mark.parametrize("fps", [10.0, 29.97])
def test_the_frame_that_is_in_order_comes_along_and_changes_no_tuple(fps):
    config = TuplesSampling(max_span_s=1.0, min_gap_s=0.3, per_video=20)
    with_inner = config.model_copy(update={"inner": True})
    event = make_event(make_video(fps=fps, frames=int(8 * fps)))
    for seed in range(50):
        plain, given = (
            build_sampler(c).plan(event, event_rng(seed, 0, "a")) for c in (config, with_inner)
        )
        for one, other in zip(plain, given, strict=True):
            assert np.array_equal(one.times_s, other.times_s[:3])
            assert one.targets["label"] == other.targets["label"]
            first, middle, last, inner = other.times_s
            assert min(first, last) < inner < max(first, last)
            assert (middle == inner) == (other.targets["label"] == 1)
    assert [build_sampler(c).num_frames for c in (config, with_inner)] == [3, 4]


def test_negatives_before_and_behind_come_where_there_is_room():
    config = TuplesSampling(max_span_s=0.8, min_gap_s=0.3, per_video=20)
    # 25 frames hold a tuple of 4 to 17 frames and one negative side of 6 or more
    rows, labels = draws(config, make_event(make_video(frames=25)), 300)
    low, middle, high = rows[labels == 0].T
    assert (np.where(middle < low, low - middle, middle - high) >= 6).all()
    assert (rows >= 0).all()
    assert (rows < 25).all()
    assert 0.3 < (middle < low).mean() < 0.7


def test_the_end_of_a_shot_is_reached():
    config = TuplesSampling(max_span_s=1.0, min_gap_s=0.3, per_video=20, motion_weighted=False)
    frames = 59
    rows, _ = draws(config, make_event(make_video(frames=frames)), 300)
    assert rows.min() == 0
    assert rows.max() == frames - 1
