"""How training processes stay in step: what each trains on, and which samples are used up.

Without a process group the one process has all samples, and nothing is exchanged.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from marey.configs.errors import InputError
from marey.models.objectives.distributed import world_size
from marey.pipeline.stream.decode import OPEN
from marey.pipeline.stream.plan import Position
from marey.pipeline.stream.samples import Sample, batches
from marey.pipeline.training.checkpoint import position_of

MAX_EMPTY = 1000
"""Consecutive refused samples from the start after which a run stops: nothing can be read."""


class Used:
    """The samples of the plan that a run has used, over all processes and restarts.

    Each process notes what it trained on and what was refused; `merge` adds those notes of all
    processes to what every one of them holds, and checkpoints.
    """

    def __init__(
        self, state: dict[str, Any] | None, corpus_of: Callable[[int], str] | None = None
    ) -> None:
        """As the checkpoint `state` has it; nothing, without one.

        corpus_of: of a mixture, the name of the corpus that an event is of: reasons begin with it.
        """
        self.position: Position = position_of(state)
        self.refused: Counter[str] = Counter(state["refused"] if state else {})
        """Samples refused, by reason, up to the last merge."""
        self._corpus_of = corpus_of
        self._numbers: list[int] = []
        self._reasons: Counter[str] = Counter()
        self._open: Counter[str] = Counter()

    @property
    def trained(self) -> int:
        """Samples trained on up to the last merge."""
        return len(self.position) - self.refused.total()

    def train(self, samples: Iterable[Sample]) -> None:
        """Note samples as trained on by this process."""
        self._numbers.extend(int(sample["sample"]) for sample in samples)

    def refuse(self, sample: Sample, reason: str = "") -> None:
        """Note a sample that is not trained on: for its own reason (it has no frames), or this."""
        self._numbers.append(int(sample["sample"]))
        reason = reason or str(sample["refused"])
        if self._corpus_of is not None:
            reason = f"{self._corpus_of(int(sample['instance']))}: {reason}"
        self._reasons[reason] += 1

    def leave_open(self, sample: Sample) -> None:
        """Note a sample that could not be read for now: it is asked for again, later."""
        self._open[str(sample["refused"]).removeprefix(OPEN)] += 1

    def count_open(self) -> int:
        """Samples left open in all processes since the start, each of which must ask."""
        return _all_reduced([self._open.total()], dist.ReduceOp.SUM)[0]

    def count_refused(self) -> int:
        """Samples refused so far in all processes, each of which must ask."""
        return self.refused.total() + _all_reduced([self._reasons.total()], dist.ReduceOp.SUM)[0]

    def count_refused_of(self, corpora: Sequence[str]) -> list[int]:
        """The same of each of these corpora of a mixture."""
        own = [_of_corpus(self._reasons, name) for name in corpora]
        merged = [_of_corpus(self.refused, name) for name in corpora]
        everyone = _all_reduced(own, dist.ReduceOp.SUM) if own else []
        return [one + other for one, other in zip(merged, everyone, strict=True)]

    def merge(self) -> None:
        """Add what all processes noted. Raises RuntimeError when a sample was used twice."""
        for numbers, reasons in _gather((self._numbers, self._reasons)):
            self.position.add(numbers)
            self.refused.update(reasons)
        self._numbers, self._reasons = [], Counter()

    def main_reasons(self) -> str:
        """The most frequent reasons of refusal that this process knows of, with their counts."""
        known = self.refused + self._reasons + self._open
        return "; ".join(f"{reason} ({n})" for reason, n in known.most_common(3))


def _of_corpus(reasons: Counter[str], name: str) -> int:
    return sum(count for reason, count in reasons.items() if reason.startswith(f"{name}: "))


def accepted(stream: Iterable[Sample], used: Used) -> Iterator[Sample]:
    """Samples that have frames; those that were refused are counted and never asked for again.

    Those that could not be read for now are left open.
    Raises InputError when the first `MAX_EMPTY` samples of a run are all refused.
    """
    readable = used.trained > 0
    empty = 0
    for sample in stream:
        if not str(sample["refused"]):
            readable = True
            yield sample
            continue
        if str(sample["refused"]).startswith(OPEN):
            used.leave_open(sample)
            continue
        used.refuse(sample)
        empty += 1
        if empty >= MAX_EMPTY and not readable:
            reasons = used.main_reasons()
            raise InputError(f"the first {empty} samples cannot be read ({reasons})")


@dataclass(frozen=True, slots=True)
class Work:
    """The samples of one optimiser step in one process."""

    batches: list[list[Sample]]
    """One batch for each round of accumulation."""
    shared: bool
    """Whether every process holds these same samples (the last steps of a run)."""
    first: int
    """The lowest sample number of the step in any process, so that all begin an epoch together."""
    samples: int
    """How many samples all processes train on together."""
    last: bool = False
    """Whether no step comes after this one."""
    stopped: bool = False
    """Whether that is since some process was asked to stop, in every process alike."""


STOPPED = Work([], False, sys.maxsize, 0)
"""In place of the next step, where some process was asked to stop."""


def in_step(
    samples: Iterator[Sample],
    size: int,
    accumulate: int,
    wanted: int,
    waiting: Callable[[], AbstractContextManager[None]],
    asked: Callable[[], object] = bool,
) -> Iterator[Work]:
    """What each optimiser step trains on, as many steps in every process.

    They end when all processes together have had `wanted` samples, no sample is left, or one of
    them was `asked` to stop (by default none ever is). One step is prepared ahead, so that the last
    is known as such. A last sample that would be a step of its own joins the step before it: batch
    norm cannot train on one sample.

    size: samples of a process in a round; accumulate: rounds of a step; waiting: entered while
    samples are waited for.
    """
    works = _works(samples, size, accumulate, waiting, asked)
    work = next(works, None) if wanted > 0 else None
    while work is not None and work is not STOPPED:
        wanted -= work.samples
        after = next(works, None) if wanted > 0 else None
        if after is not None and after.samples == 1 and size > 1:
            work = _joined(work, after, size)
            after = next(works, None)
        stopped = after is STOPPED
        yield replace(work, last=stopped or after is None, stopped=stopped)
        work = after


def _works(
    samples: Iterator[Sample],
    size: int,
    accumulate: int,
    waiting: Callable[[], AbstractContextManager[None]],
    asked: Callable[[], object],
) -> Iterator[Work]:
    """The steps that all samples make, or those until a process was asked to stop.

    When some process has no full step left, all of them train on the union of what is left, step
    by step, so that nothing is dropped and gradients are those of one process.
    """
    world = world_size()
    stepwise = batches(samples, size * accumulate)
    while True:
        with waiting():
            # a process that is alone waits for no further samples
            mine = [] if world == 1 and asked() else next(stepwise, [])
        first = min((int(sample["sample"]) for sample in mine), default=sys.maxsize)
        wanted = [len(mine), first, int(not asked())]
        count, first, going_on = _all_reduced(wanted, dist.ReduceOp.MIN)
        if not going_on:
            yield STOPPED
            return
        shared = world > 1 and count < size * accumulate
        if shared:
            mine = [sample for part in _gather(mine) for sample in part]
        if not mine:
            return
        yield Work(_rounds(mine, size), shared, first, len(mine) if shared else world * len(mine))


def _rounds(samples: list[Sample], size: int) -> list[list[Sample]]:
    """Samples in rounds of `size`; a last one of a single sample joins the round before it."""
    rounds = [samples[n : n + size] for n in range(0, len(samples), size)]
    if size > 1 and len(rounds) > 1 and len(rounds[-1]) == 1:
        rounds[-2:] = [rounds[-2] + rounds[-1]]
    return rounds


def _joined(work: Work, lone: Work, size: int) -> Work:
    """One step of both; every process has the whole of it where it has the whole of `lone`."""
    mine = [sample for batch in work.batches for sample in batch]
    if lone.shared and not work.shared:
        mine = [sample for part in _gather(mine) for sample in part]
    mine += lone.batches[0]
    first = min(work.first, lone.first)
    return Work(_rounds(mine, size), lone.shared, first, work.samples + lone.samples)


def agreed(holds: bool) -> bool:
    """Whether something holds in every process, each of which must ask."""
    return bool(_all_reduced([int(holds)], dist.ReduceOp.MIN)[0])


def _all_reduced(values: list[int], how: Any) -> list[int]:
    """Each value reduced over all processes, by one of `dist.ReduceOp`."""
    if world_size() == 1:
        return values
    device = "cpu" if "gloo" in dist.get_backend() else "cuda"
    tensor = torch.tensor(values, device=device)
    dist.all_reduce(tensor, how)
    return tensor.tolist()


def _gather(value: Any) -> list[Any]:
    """The value of every process, in rank order."""
    if world_size() == 1:
        return [value]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, value)
    return parts
