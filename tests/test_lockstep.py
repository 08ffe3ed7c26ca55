"""Training processes keep in step: nothing is dropped, and all know what was used and refused."""

from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest

from marey.configs.errors import InputError
from marey.models.objectives.distributed import rank
from marey.pipeline.stream.plan import Position
from marey.pipeline.stream.samples import Sample
from marey.pipeline.training.lockstep import MAX_EMPTY, Used, accepted, in_step
from marey.pipeline.training.meter import Meter
from tests.two_processes import WORLD, in_two_processes

GONE = "gone.mp4: no such file"


def _samples(numbers: Any, refused: str = "") -> list[Sample]:
    return [{"sample": np.int64(n), "refused": np.str_(refused)} for n in numbers]


def _numbers(batches: list[list[Sample]]) -> list[list[int]]:
    return [[int(sample["sample"]) for sample in batch] for batch in batches]


def _steps(lengths: tuple[int, ...]) -> list[tuple[bool, list[list[int]], int]]:
    """What this process trains on, of a stream as long as its place in `lengths` says."""
    first = sum(lengths[: rank()])
    stream = _samples(range(first, first + lengths[rank()]))
    works = in_step(iter(stream), 2, 2, sum(lengths), Meter().waiting)
    return [(work.shared, _numbers(work.batches), work.first) for work in works]


def test_two_processes_take_the_same_number_of_steps_and_drop_nothing(tmp_path):
    lengths = (13, 6)
    one, other = in_two_processes(partial(_steps, lengths), tmp_path)
    # the first process's last sample, alone, joins the step before it
    assert len(one) == len(other) == 3
    shared = [step for step, _, _ in one]
    assert shared == [step for step, _, _ in other] == [False, True, True]
    assert min(len(batch) for _, batches, _ in one + other for batch in batches) == 2
    # what is left is the same union everywhere, so that gradients are those of one process
    assert one[1:] == other[1:]
    flat = lambda steps: [n for _, batches, _ in steps for batch in batches for n in batch]  # noqa: E731
    assert sorted(flat(one) + flat(other[:1])) == list(range(sum(lengths)))
    # and both take a step to belong to the same epoch, that of its lowest sample in either
    firsts = [first for _, _, first in one]
    assert firsts == [first for _, _, first in other]
    assert firsts == [min(flat([a, b])) for a, b in zip(one, other, strict=True)]


def _used() -> dict[str, Any]:
    """What this process knows after one of two has met all that is refused."""
    used = Used({"position": _position(Position(4)), "refused": {GONE: 1}})
    good = _samples(range(4 + rank(), 10, WORLD))
    bad = _samples(range(10, 13), GONE) + _samples([13], "late") if rank() == 1 else []
    used.train(accepted(chain(good, bad), used))
    counted = used.count_refused()
    used.merge()
    return {
        "counted": [counted, used.count_refused()],
        "trained": used.trained,
        "refused": dict(used.refused),
        "position": [used.position.below, *sorted(used.position.ahead)],
    }


def _position(position: Position) -> dict[str, Any]:
    return {"below": position.below, "ahead": np.array(sorted(position.ahead), dtype=np.int64)}


def test_what_one_process_refused_all_of_them_know(tmp_path):
    for known in in_two_processes(_used, tmp_path):
        assert known["counted"] == [5, 5]
        assert known["refused"] == {GONE: 4, "late": 1}
        assert known["position"] == [14]
        assert known["trained"] == 9


def test_a_sample_that_two_processes_trained_on_is_an_error():
    used = Used(None)
    used.train(_samples([3]))
    used.merge()
    used.train(_samples([3]))
    with pytest.raises(RuntimeError, match="sample 3 arrived twice"):
        used.merge()


def test_a_run_that_can_read_nothing_at_its_start_stops():
    stream = _samples(range(MAX_EMPTY), GONE) + _samples([MAX_EMPTY])
    with pytest.raises(InputError, match=rf"first {MAX_EMPTY} samples cannot be read \({GONE}"):
        list(accepted(stream, Used(None)))
    assert len(list(accepted(stream[1:], Used(None)))) == 1


def test_a_run_that_has_read_something_outlives_any_number_of_refusals():
    lost = 2 * MAX_EMPTY + 1
    used = Used(None)
    stream = _samples([0]) + _samples(range(1, lost), GONE) + _samples([lost])
    used.train(accepted(stream, used))
    used.merge()
    assert used.trained == 2
    # nor does it end when it is resumed where they lie
    resumed = Used({"position": _position(Position(1)), "refused": {}})
    assert _numbers([list(accepted(stream[1:], resumed))]) == [[lost]]
