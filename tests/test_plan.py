"""Plans: numbered once, independent of workers, skippable; positions: a sample counts once."""

import numpy as np
import pytest

from marey.configs.errors import InputError
from marey.configs.sampling import (
    ClipsSampling,
    FramesSampling,
    TimePairsSampling,
    ViewPairsSampling,
)
from marey.pipeline.stream.plan import UNIT_FRAMES, Plan, Position, make_plan
from tests.corpora import Rows, make_event, make_video


def rows(count=40, frames=300):
    return Rows(*(make_event(make_video(f"v{n}", frames=frames + n)) for n in range(count)))


def everything(plan: Plan, source, done=None):
    return [
        (sample.number, sample.event, tuple(sample.request.times_s))
        for unit in plan.units(done)
        for samples in plan.samples(unit, source)
        for sample in samples
    ]


def test_samples_are_numbered_from_zero_without_a_gap_over_all_epochs():
    source = rows()
    plan = make_plan(source, FramesSampling(per_video=3), seed=0, epochs=3)
    numbers = [number for number, *_ in everything(plan, source)]
    assert numbers == list(range(3 * 40 * 3)) == list(range(plan.total))


def test_each_epoch_sees_every_event_as_often_in_another_order_at_other_times():
    source = rows()
    plan = make_plan(source, FramesSampling(per_video=3), seed=0, epochs=2)
    samples = everything(plan, source)
    first, second = samples[:120], samples[120:]
    for epoch in (first, second):
        assert np.bincount([event for _, event, _ in epoch]).tolist() == [3] * 40
    assert [e for _, e, _ in first] != [e for _, e, _ in second]


def test_the_same_seed_gives_the_same_plan_and_another_another():
    source = rows()
    plans = [make_plan(source, FramesSampling(), seed=s, epochs=1) for s in (0, 0, 1)]
    first, again, other = (everything(plan, source) for plan in plans)
    assert first == again
    assert first != other


def test_a_position_leaves_exactly_the_rest_in_the_same_order():
    source = rows()
    plan = make_plan(source, FramesSampling(per_video=3), seed=0, epochs=2)
    whole = everything(plan, source)
    done = Position(50, [53, 60, 61, 62, 200])
    left = [sample for sample in everything(plan, source, done) if sample[0] not in done]
    assert left == [sample for sample in whole if sample[0] not in done]


def test_units_that_are_done_are_not_given_at_all():
    source = rows(frames=UNIT_FRAMES)
    plan = make_plan(source, FramesSampling(), seed=0, epochs=2)
    assert len(list(plan.units())) == 80
    units = list(plan.units(Position(40, [41, 42])))
    assert len(units) == 38
    assert {unit.epoch for unit in units} == {1}


def test_units_hold_bounded_work():
    source = rows(frames=500)
    plan = make_plan(source, FramesSampling(), seed=0, epochs=1)
    sizes = [int(plan.frames[plan.order(0)][u.start : u.stop].sum()) for u in plan.units()]
    assert max(sizes) <= UNIT_FRAMES
    assert sum(sizes) == plan.frames.sum()


def test_refusals_are_counted_and_named():
    short = make_event(make_video("short", frames=3))
    source = Rows(short, *(make_event(make_video(f"v{n}")) for n in range(3)))
    plan = make_plan(source, TimePairsSampling(), seed=0, epochs=1)
    assert plan.refused == {"too_short": 1}
    assert plan.refused_names == [("short", "too_short")]
    assert plan.refused_by_name() == {"short: too_short": 1}
    plan.refused["too_short"] += 2  # those that are beyond the names
    assert plan.refused_by_name() == {"short: too_short": 1, "too_short": 2}
    assert plan.samples_per_epoch == 3


def test_a_source_that_gives_nothing_is_an_error_with_the_reasons():
    source = Rows(make_event(make_video(frames=3)))
    with pytest.raises(InputError, match=r"none of the 1 events .* \(too_short: 1\)"):
        make_plan(source, TimePairsSampling(), seed=0, epochs=1)


def test_a_corpus_without_the_task_is_told_which_preset_to_take():
    one_camera = Rows(make_event(make_video()), make_event(make_video("b")))
    with pytest.raises(InputError, match=r"two synchronised cameras .*`tcn_single`"):
        make_plan(one_camera, ViewPairsSampling(), seed=0, epochs=1)
    still = Rows(make_event(make_video(motion=np.zeros(4))))
    with pytest.raises(InputError, match=r"nothing moves .*`simclr`"):
        make_plan(still, ClipsSampling(motion_weighted=True), seed=0, epochs=1)


def test_a_position_is_a_set_that_refuses_doubles():
    position = Position()
    position.add([3, 0, 1])
    assert (position.below, position.ahead) == (2, {3})
    position.add([2])
    assert (position.below, position.ahead) == (4, set())
    assert len(position) == 4
    assert 3 in position
    assert 4 not in position
    for number in (0, 3):
        with pytest.raises(RuntimeError, match="twice"):
            position.add([number])


def test_has_range_looks_above_the_mark():
    position = Position(10, [10, 11, 13])
    assert position.has_range(0, 10)
    assert not position.has_range(5, 14)
    position = Position(10, [11, 12])
    assert position.has_range(11, 13)
