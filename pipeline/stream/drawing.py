"""How are the samples of a unit of work drawn, where nothing else of the corpus is known?

A unit carries the rows of its events. With the sampling settings and the seed they say which frames
each sample has, in whatever process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from marey.configs.errors import InputError
from marey.configs.sampling import Sampling
from marey.pipeline.data.events import Event
from marey.pipeline.data.source import Source
from marey.pipeline.sampling import Sampler, SampleRequest, build_sampler, event_rng


@dataclass(frozen=True, slots=True)
class Visit:
    """One event of a unit of work, with its rows."""

    event: Event
    number: int
    """The event's position in the source."""
    visit: int
    """How often an epoch has visited it before."""
    first: int
    """The number of its first sample, and"""
    count: int
    """how many it gives."""
    place: int
    """The place of its first sample among those of any epoch, in the source's order."""
    class_id: int | None = None
    """Its class where the source has labels, -1 where it has none that may be known."""


@dataclass(frozen=True, slots=True)
class Work:
    """A unit of work: all that the process which decodes it is told of the corpus."""

    epoch: int
    visits: tuple[Visit, ...]
    done: frozenset[int] = frozenset()
    """Numbers of its samples that the run has used already."""


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """A sample's number, the event it comes from, and the frames it needs."""

    number: int
    event: int
    place: int
    """The sample's number among those of any epoch, in the source's order."""
    request: SampleRequest


@dataclass(frozen=True)
class Drawing:
    """What samples depend on beside the rows of their events: small, whatever the corpus."""

    sampling: Sampling
    seed: int
    stored: bool = False
    """Whether each event is one finished sample (shards)."""

    @cached_property
    def sampler(self) -> Sampler:
        """Finds samples in events, or takes what is stored."""
        return _Stored() if self.stored else build_sampler(self.sampling)

    def samples(self, work: Work) -> Iterator[tuple[Visit, list[PlannedSample]]]:
        """Each visit of a unit with its samples, in the order of their numbers."""
        for visit in work.visits:
            event = visit.event
            name = f"{event.event_id} {visit.visit}" if visit.visit else event.event_id
            requests = self.sampler.plan(event, event_rng(self.seed, work.epoch, name))
            if len(requests) != visit.count:
                raise RuntimeError(f"the sampler broke its count for {event.event_id}")
            yield (
                visit,
                [
                    PlannedSample(visit.first + n, visit.number, visit.place + n, request)
                    for n, request in enumerate(requests)
                ],
            )


def drawing_of(source: Source, sampling: Sampling, seed: int) -> Drawing:
    """How samples are drawn from a source. Raises InputError where it holds others."""
    if source.sample_kind is not None and source.sample_kind != sampling.kind:
        raise InputError(
            f"{source.location} holds samples of kind {source.sample_kind!r}; this method trains "
            f"on {sampling.kind!r} (mine those, or give an index)"
        )
    if source.sample_kind is None:
        build_sampler(sampling)  # raises InputError for a kind that has to be mined
    return Drawing(sampling, seed, source.sample_kind is not None)


class _Stored:
    """The sampler of stored samples: each row is one."""

    num_frames = 0

    def count(self, event: Event) -> tuple[int, str]:
        return 1, ""

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        return [SampleRequest(np.zeros(1, np.int64), np.zeros(1), {})]
