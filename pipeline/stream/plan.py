"""What a run will see: every sample of every epoch, numbered, before anything is decoded.

The plan is a pure function of (source, sampling, seed). Samples are numbered in the order in
which they are planned: sample n of epoch e has the number `e * samples_per_epoch + n`. A run's
position is the set of numbers that it has trained on, so that resuming skips without decoding.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from marey.configs.errors import InputError
from marey.configs.sampling import Sampling
from marey.pipeline.data.mixture import Mixture, weighted_visits
from marey.pipeline.data.source import Source, events_at, in_order
from marey.pipeline.runtime.progress import each
from marey.pipeline.sampling import event_rng
from marey.pipeline.sampling.labelled import label_is_kept, visits
from marey.pipeline.stream.drawing import PlannedSample, Visit, Work, drawing_of

INSTEAD = {
    "missing_view": "; it takes events with two synchronised cameras (`marey index --views`); with "
    "one camera the preset `tcn_single` learns from what is near in time",
    "single_frame": "; it takes videos, and these have one frame each: presets that learn from "
    "single images are `simclr`, `moco_v2`, `rotation` (`marey methods` lists all)",
    "no_motion": "; nothing moves in these videos, so nothing in them has an order: presets that "
    "learn from single frames are `simclr`, `moco_v2`, `rotation`",
    "too_short": "; the shots are shorter than its samples: shorten them (`method.sampling.…`, see "
    "`marey methods`)",
}
"""What to do where a corpus cannot give what a method asks for, by the commonest reason."""
UNIT_FRAMES = 2048
"""Frames that one unit of work spans at most, unless a single event has more."""
IMAGE_CHUNK = 1024
"""Neighbouring images that stay together in the shuffled order, for locality of reads."""
NAMED_REFUSALS = 1000
"""Refused events that a plan names; all are counted."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive events of one epoch's order: the unit of work, of retry and of transport."""

    epoch: int
    start: int
    stop: int


@dataclass
class Plan:
    """All samples of a run, by number. Build one with `make_plan`."""

    sampling: Sampling
    seed: int
    epochs: int
    events: np.ndarray
    """int64 [E]: positions of the eligible events in the source, one for each visit."""
    counts: np.ndarray
    """int64 [E]: samples that each gives in an epoch."""
    frames: np.ndarray
    """int64 [E]: frames of each event's videos, the measure of work."""
    stills: bool
    """Whether events are single pictures or stored samples, whose neighbours lie together."""
    visit: np.ndarray
    """int64 [E]: how many entries before this one are of the same event (labelled events may be
    visited several times an epoch)."""
    files: np.ndarray | None = None
    """int64 [E]: which events are spans of one file, of the first view's; None where none are.
    Neighbours in a file are decoded together."""
    refused: dict[str, int] = field(default_factory=dict)
    """Reason code -> events that give no sample."""
    refused_names: list[tuple[str, str]] = field(default_factory=list)
    unweighted: int = 0
    """Events sampled evenly although samples are to follow motion: no motion was measured."""
    _latest: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    """The epoch that was asked for last, its order, first numbers and block sizes."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples that one pass over the source gives."""
        return int(self.counts.sum())

    @property
    def total(self) -> int:
        """Samples of the whole run."""
        return self.epochs * self.samples_per_epoch

    def refused_by_name(self) -> Counter[str]:
        """How often each reason refused an event, with the event's name as far as it is known."""
        named = Counter(reason for _, reason in self.refused_names)
        rest = Counter(self.refused) - named
        return Counter(f"{name}: {reason}" for name, reason in self.refused_names) + rest

    def order(self, epoch: int) -> np.ndarray:
        """int64 [E]: the order in which an epoch visits the eligible events."""
        return self._visits(epoch)[0]

    def _visits(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An epoch's order, the number of the first sample at each place of it, int64 [E + 1], and
        the sizes of the blocks of events that no unit parts, int64 [B].

        Drawn once for all units of the epoch.
        """
        latest = self._latest
        if latest is None or latest[0] != epoch:
            rng = event_rng(self.seed, epoch, "order of events")
            blocks = np.ones(len(self.events), dtype=np.int64)
            if self.files is not None:
                order, blocks = self._in_blocks(rng)
            elif self.stills:
                starts = np.arange(0, len(self.events), IMAGE_CHUNK)
                chunks = [
                    start + rng.permutation(min(IMAGE_CHUNK, len(self.events) - start))
                    for start in rng.permutation(starts)
                ]
                order = np.concatenate(chunks)
            else:
                order = rng.permutation(len(self.events))
            numbers = _starts(self.counts[order]) + epoch * self.samples_per_epoch
            latest = self._latest = (epoch, order, numbers, blocks)
        return latest[1:]

    def _in_blocks(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """An order that keeps neighbours in a file together: int64 [E], and the sizes of its
        blocks. Blocks are mixed, and the events of each."""
        by_file, starts = self._neighbours
        sizes = np.diff(starts)
        mixed = rng.permutation(len(sizes))
        rank = np.empty_like(mixed)
        rank[mixed] = np.arange(len(mixed))
        keys = rng.random(len(by_file)), np.repeat(rank, sizes)
        return by_file[np.lexsort(keys)], sizes[mixed]

    @cached_property
    def _neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """The events file by file, int64 [E], and where in that order each block begins: runs of
        spans of one file, of as many frames as a unit."""
        assert self.files is not None
        by_file = np.argsort(self.files, kind="stable")
        edges = np.flatnonzero(np.diff(self.files[by_file])) + 1
        bounds = [0, *edges.tolist(), len(by_file)]
        starts = [
            first + start
            for first, stop in pairwise(bounds)
            for start, _ in _cut(self.frames[by_file[first:stop]], UNIT_FRAMES)
        ]
        return by_file, np.array([*starts, len(by_file)])

    @cached_property
    def _places(self) -> np.ndarray:
        """int64 [E + 1]: the place of each event's first sample, in the source's order."""
        return _starts(self.counts)

    def units(self, done: Position | None = None) -> Iterator[Unit]:
        """All units of the run in order, without those that are wholly done."""
        for epoch in range(self.epochs):
            if done is not None and done.below >= (epoch + 1) * self.samples_per_epoch:
                continue
            order, numbers, blocks = self._visits(epoch)
            edges = _starts(blocks)
            frames = np.add.reduceat(self.frames[order], edges[:-1])
            for first, last in _cut(frames, UNIT_FRAMES):
                start, stop = int(edges[first]), int(edges[last])
                if done is None or not done.has_range(int(numbers[start]), int(numbers[stop])):
                    yield Unit(epoch, start, stop)

    def work(
        self, unit: Unit, source: Source, done: Position, labels: np.ndarray | None = None
    ) -> Work:
        """What the process that decodes a unit is told: the rows of its events, and more.

        labels: of `known_labels`.
        """
        order, numbers, _ = self._visits(unit.epoch)
        chosen = order[unit.start : unit.stop]
        events = self.events[chosen]
        firsts = numbers[unit.start : unit.stop + 1].tolist()
        visits = map(
            Visit,
            events_at(source, events),
            events.tolist(),
            self.visit[chosen].tolist(),
            firsts,
            self.counts[chosen].tolist(),
            self._places[chosen].tolist(),
            [None] * len(chosen) if labels is None else labels[events].tolist(),
        )
        used = frozenset(done.within(firsts[0], firsts[-1]))
        return Work(unit.epoch, tuple(visits), used)

    def samples(self, unit: Unit, source: Source) -> Iterator[list[PlannedSample]]:
        """The samples of a unit, one list an event, in the order of their numbers."""
        drawing = drawing_of(source, self.sampling, self.seed)
        for _, samples in drawing.samples(self.work(unit, source, Position())):
            yield samples

    def for_others(self) -> Plan:
        """The plan as it is sent to other processes: without what can be worked out again."""
        return replace(self, _latest=None)


def make_plan(source: Source, sampling: Sampling, *, seed: int, epochs: int) -> Plan:
    """Ask every event of the source what it gives.

    Raises InputError, naming the reasons, when no event gives a sample.
    """
    sampler = drawing_of(source, sampling, seed).sampler
    events, counts, frames, files = (array("q") for _ in range(4))
    file, shared = "", False
    refused: Counter[str] = Counter()
    names: list[tuple[str, str]] = []
    weighted = sampling.follows_motion and not source.stills
    unweighted = 0
    for number, event in enumerate(each(in_order(source), "plan", "events", len(source))):
        count, reason = sampler.count(event)
        if count:
            events.append(number)
            counts.append(count)
            frames.append(sum([video.frames for video in event.videos]))
            first = event.videos[0]
            same = first.start_s is not None and first.uri == file
            shared |= same
            file = first.uri
            files.append(files[-1] + (not same) if files else 0)
            unweighted += weighted and any(not len(v.motion) for v in event.videos if v.has_frames)
            continue
        refused[reason] += 1
        if len(names) < NAMED_REFUSALS:
            names.append((event.event_id, reason))
    if not events:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in refused.most_common())
        instead = INSTEAD.get(refused.most_common(1)[0][0], "") if refused else ""
        raise InputError(
            f"none of the {len(source)} events of {source.location} gives a sample of kind "
            f"{sampling.kind!r} ({reasons or 'the index is empty'}){instead}"
        )
    columns = np.stack(
        [np.array(column, dtype=np.int64) for column in (events, counts, frames, files)]
    )
    visit = np.zeros(len(events), dtype=np.int64)
    labels = known_labels(source, sampling)
    part = sampling.part_labelled if labels is not None else None
    if isinstance(source, Mixture):
        if part:
            raise InputError(
                f"{source.location}: labelled_part says how often events are visited, and so does "
                "a mixture; use one of the two"
            )
        member = source.member_of(columns[0])
        chosen, visit = weighted_visits(member, columns[1], source.weights, source.names)
        columns = columns[:, chosen]
    elif labels is not None and part:
        chosen, visit = visits(labels[columns[0]] >= 0, columns[1], part)
        columns = columns[:, chosen]
    # a further visit to a file's events is a pass of its own
    columns[3] += visit * (columns[3].max() + 1)
    return Plan(
        sampling,
        seed,
        epochs,
        events=columns[0],
        counts=columns[1],
        frames=columns[2],
        stills=source.stills,
        visit=visit,
        files=columns[3] if shared else None,
        refused=dict(refused),
        refused_names=names,
        unweighted=unweighted,
    )


def known_labels(source: Source, sampling: Sampling) -> np.ndarray | None:
    """The class of each event that a run may know, int64 [events of the source], -1 for none; None
    for a source without labels."""
    labels = source.labels()
    if labels is None:
        return None
    known = np.array(labels, dtype=np.int64)
    if sampling.labels_used < 1:
        kept = label_is_kept(np.arange(len(known)), sampling.labels_used)
        known = np.where(kept, known, -1)
    return known


def _starts(counts: np.ndarray) -> np.ndarray:
    """int64 [E + 1]: where each of a row of runs begins, and the end of the last."""
    return np.concatenate([[0], np.cumsum(counts)])


def _cut(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Cut a row of sizes into runs [start, stop) of at most `limit`, at least one item each."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield start, stop
        start = stop


class Position:
    """The sample numbers that a run has used: all below a mark, and some above it."""

    def __init__(self, below: int = 0, ahead: Iterable[int] = ()) -> None:
        self.below = below
        self.ahead = set(ahead)

    def __contains__(self, number: int) -> bool:
        return number < self.below or number in self.ahead

    def __len__(self) -> int:
        return self.below + len(self.ahead)

    def has_range(self, start: int, stop: int) -> bool:
        """Whether all of [start, stop) is used."""
        return stop <= self.below or all(
            n in self.ahead for n in range(max(start, self.below), stop)
        )

    def within(self, start: int, stop: int) -> Iterator[int]:
        """The numbers of [start, stop) that are used."""
        yield from range(start, min(stop, self.below))
        if self.ahead:
            yield from (n for n in range(max(start, self.below), stop) if n in self.ahead)

    def add(self, numbers: Iterable[int]) -> None:
        """Note samples as used. Raises RuntimeError when one is used twice."""
        for number in numbers:
            if number in self:
                raise RuntimeError(f"sample {number} arrived twice")
            self.ahead.add(number)
        while self.below in self.ahead:
            self.ahead.remove(self.below)
            self.below += 1
