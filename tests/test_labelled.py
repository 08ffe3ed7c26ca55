"""Which labels are used, and does what has one come as often as it shall?"""

import math
from itertools import pairwise

import numpy as np
import pytest

from marey.configs.sampling import FramesSampling
from marey.pipeline.sampling.labelled import label_is_kept, visits
from marey.pipeline.stream.plan import IMAGE_CHUNK, known_labels, make_plan
from tests.corpora import Rows, make_event, make_video


def labelled_rows(count: int, frames: int = 240) -> Rows:
    """Events of which every fourth has a class."""
    events = (make_event(make_video(f"v{n:03d}", frames=frames)) for n in range(count))
    return Rows(*events, labels=[n % 3 if n % 4 == 0 else -1 for n in range(count)])


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("order", ["sorted", "in turn", "mixed"])
def test_labels_are_kept_for_the_same_share_of_every_class(share, order):
    number = np.arange(10_000)
    kept = label_is_kept(number, share)
    label = {
        "sorted": number // 1000,
        "in turn": number % 10,
        "mixed": np.random.default_rng(0).permutation(10_000) % 10,
    }[order]
    by_class = np.array([kept[label == c].mean() for c in range(10)])
    assert kept.mean() == pytest.approx(share, rel=0.02)
    # of the 10 labels that 1 % leaves a class; chance alone would often leave 4 or 16
    most = 0.45 if share < 0.1 else 0.1
    spread = 4 * math.sqrt(share / 1000) if order == "mixed" else most * share
    assert np.abs(by_class - share).max() < spread


def test_fewer_labels_are_some_of_more_and_the_ends_are_exact():
    shares = [label_is_kept(np.arange(5000), share) for share in (0.0, 0.01, 0.1, 0.4, 1.0)]
    assert not shares[0].any()
    assert shares[-1].all()
    for few, many in pairwise(shares):
        assert not (few & ~many).any()


def test_labelled_events_come_as_often_as_makes_the_part_and_lie_among_the_others():
    labelled = np.arange(40_000) % 20 == 0
    event, visit = visits(labelled, np.ones(40_000, dtype=np.int64), 0.5)
    assert labelled[event].mean() == pytest.approx(0.5, abs=1e-3)
    assert np.bincount(event)[labelled].tolist() == [19] * 2000
    assert np.bincount(event)[~labelled].max() == np.bincount(event)[~labelled].min() == 1
    for start in range(0, len(event), IMAGE_CHUNK):
        part = labelled[event[start : start + IMAGE_CHUNK]]
        assert part.mean() == pytest.approx(0.5, abs=0.01)
        near = event[start : start + IMAGE_CHUNK][part]
        assert len(np.unique(near)) == len(near)  # no image twice among its neighbours
    pairs = set(zip(event.tolist(), visit.tolist(), strict=True))
    assert len(pairs) == len(event)


@pytest.mark.parametrize("labelled", [np.zeros(9, dtype=bool), np.ones(9, dtype=bool)])
def test_where_all_or_none_has_a_label_everything_comes_once(labelled):
    event, visit = visits(labelled, np.ones(9, dtype=np.int64), 0.5)
    assert event.tolist() == list(range(9))
    assert not visit.any()


def test_the_plan_visits_videos_with_labels_more_often_at_other_frames():
    source = labelled_rows(64, frames=300)
    once = make_plan(source, FramesSampling(per_video=2), seed=0, epochs=1)
    half = make_plan(source, FramesSampling(per_video=2, labelled_part=0.5), seed=0, epochs=2)
    assert once.samples_per_epoch == 128
    assert half.samples_per_epoch == 2 * (48 + 3 * 16)
    samples = [s for unit in half.units() for group in half.samples(unit, source) for s in group]
    assert [s.number for s in samples] == list(range(half.total))
    first = [s for s in samples if s.number < half.samples_per_epoch]
    assert len({s.place for s in first}) == half.samples_per_epoch
    times = {(s.event, float(s.request.times_s[0])) for s in first}
    assert len(times) > 0.97 * len(first)  # a second visit is no repetition


def test_hidden_labels_are_those_of_whole_events():
    source = labelled_rows(400)
    known = known_labels(source, FramesSampling(labelled_share=0.25))
    everything = np.array(source.labels())
    assert (known >= 0).sum() == pytest.approx(25, abs=2)
    assert (known[known >= 0] == everything[known >= 0]).all()
    plan = make_plan(
        source, FramesSampling(labelled_share=0.25, labelled_part=0.5), seed=0, epochs=1
    )
    assert (known[plan.events] >= 0).mean() == pytest.approx(0.5, abs=0.02)
