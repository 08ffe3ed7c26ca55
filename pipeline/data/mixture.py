"""Several corpora as one, perhaps with weights: the events of one corpus after those of another.

Without weights every sample of every corpus is used once per epoch, as of one corpus. With weights,
the samples of an epoch have the shares that the weights say, and none is left out: the corpus that
has most samples for its weight is visited once per epoch, the others as often as their shares need.
Where that is no whole number, the same part of a corpus's events, spread evenly over it, is visited
once more. Each visit draws samples of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from marey.configs.errors import InputError
from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.mixture_location import MIXTURE, members_of
from marey.pipeline.data.reading import Frames, Reader, Wanted, no_frames
from marey.pipeline.data.source import Source, events_at, in_order, open_source, register_source


@dataclass(frozen=True, slots=True)
class MixedReader:
    """Reads samples with the reader of the corpus that each is of."""

    readers: tuple[Reader, ...]

    def read(
        self,
        wanted: Sequence[Wanted],
        shape: tuple[int, int],
        *,
        suspected: bool = False,
        backend: str = "pyav",
    ) -> Frames:
        """See `Reader.read`."""
        of = np.array([one.event.member for one in wanted])
        out = None
        for member in np.unique(of).tolist():
            places = np.flatnonzero(of == member)
            some = [wanted[place] for place in places.tolist()]
            read = self.readers[member].read(some, shape, suspected=suspected, backend=backend)
            if len(places) == len(wanted):
                return read
            out = out or no_frames(wanted, shape)
            out.frames[places], out.shown_s[places] = read.frames, read.shown_s
            for place, lack in zip(places.tolist(), read.lacks, strict=True):
                out.lacks[place] = lack
            for name, values in read.columns.items():
                whole = out.columns.setdefault(
                    name, np.zeros((len(wanted), *values.shape[1:]), values.dtype)
                )
                whole[places] = values
        return out or no_frames(wanted, shape)


class Mixture:
    """Several sources as one; see above. Its events know which corpus they are of."""

    def __init__(self, location: str) -> None:
        """Raises InputError where a corpus cannot be opened, or they do not go together."""
        self.location = location
        named = members_of(location)
        self.sources: list[Source] = [open_source(name) for name, _ in named]
        self.weights = [weight for _, weight in named]
        """The weight of each corpus; None without weights."""
        self.names = _short([name for name, _ in named])
        """A short name of each corpus, for metrics."""
        self.starts = np.cumsum([0, *map(len, self.sources)])
        """int64 [members + 1]: where the events of each begin."""
        first = self.sources[0]
        for name, source in zip(self.names, self.sources, strict=True):
            if (source.stills, source.sample_kind) != (first.stills, first.sample_kind):
                raise InputError(
                    f"{location}: {name} and {self.names[0]} do not go together: videos, images "
                    "and mined samples of different kinds are trained on one at a time"
                )
        self.stills, self.sample_kind, self.kind = first.stills, first.sample_kind, first.kind
        self.reader: Reader = MixedReader(tuple(source.reader for source in self.sources))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def member_of(self, events: np.ndarray) -> np.ndarray:
        """Which corpus each event is of: int64, the shape of `events`."""
        return np.searchsorted(self.starts, events, side="right") - 1

    def event(self, number: int) -> Event:
        """The event at a position, named after its corpus."""
        return self.take(np.array([number]))[0]

    def take(self, numbers: np.ndarray) -> list[Event]:
        """The events at some positions, int64 [n]: those of each corpus read together."""
        of = self.member_of(numbers)
        found: dict[int, Event] = {}
        for member in np.unique(of).tolist():
            places = np.flatnonzero(of == member)
            events = events_at(self.sources[member], numbers[places] - self.starts[member])
            for place, event in zip(places.tolist(), events, strict=True):
                found[place] = self._named(event, member)
        return [found[place] for place in range(len(numbers))]

    def events(self) -> Iterator[Event]:
        """All events in order."""
        for member, source in enumerate(self.sources):
            for event in in_order(source):
                yield self._named(event, member)

    def _named(self, event: Event, member: int) -> Event:
        name = f"{self.names[member]}: {event.event_id}"
        return replace(event, event_id=name, member=member)

    @cached_property
    def _videos(self) -> np.ndarray:
        return np.cumsum([0, *(len(source.durations_s()) for source in self.sources)])

    def video(self, place: int) -> Video:
        """The video at a place of the fixed order."""
        member = int(np.searchsorted(self._videos, place, side="right")) - 1
        return self.sources[member].video(place - int(self._videos[member]))

    def durations_s(self) -> np.ndarray:
        """float64 [videos]."""
        return np.concatenate([source.durations_s() for source in self.sources])

    @cached_property
    def classes(self) -> list[Any]:
        """Names of the classes of all corpora, sorted."""
        found = {name for source in self.sources for name in getattr(source, "classes", ())}
        return sorted(found, key=str)

    def labels(self) -> list[int] | None:
        """The class of each event: equal names are one class."""
        if not self.labelled:
            return None
        number = {name: place for place, name in enumerate(self.classes)}
        known: list[int] = []
        for source in self.sources:
            own = [number[name] for name in getattr(source, "classes", ())]
            labels = source.labels() or [-1] * len(source)
            known += [own[label] if label >= 0 else -1 for label in labels]
        return known

    @property
    def labelled(self) -> bool:
        """Whether some event has a class."""
        return bool(self.classes)

    def label_of(self, number: int) -> Any:
        """The name of an event's class; None where it has none."""
        member = int(self.member_of(np.array(number)))
        return self.sources[member].label_of(number - int(self.starts[member]))

    @property
    def digest(self) -> str:
        """What the samples depend on: the corpora, in their order, and their weights."""
        parts = [(source.digest, w) for source, w in zip(self.sources, self.weights, strict=True)]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def without_frames(self) -> Iterator[Video]:
        """The videos that no frame can be read from."""
        return (video for source in self.sources for video in source.without_frames())

    def check_present(self) -> None:
        """Raises InputError when nothing of one corpus is left at its place."""
        for source in self.sources:
            source.check_present()


def weighted_visits(
    member: np.ndarray, counts: np.ndarray, weights: Sequence[float | None], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Whom an epoch visits so that the samples of each corpus have the share of its weight.

    member: int64 [E], the corpus of each event; counts: int64 [E], samples of one visit.
    Returns (event, visit), int64 [V] each: positions in `member`, and how often each has been
    visited before; the corpora evenly among each other. Raises InputError where a corpus gives no
    sample.
    """
    samples = np.bincount(member, weights=counts, minlength=len(names))
    if (samples == 0).any():
        lost = ", ".join(name for name, n in zip(names, samples, strict=True) if n == 0)
        raise InputError(f"{lost} gives no sample; leave it out of the mixture")
    parts = np.array([1.0 if weight is None else weight for weight in weights])
    weighted = any(weight is not None for weight in weights)
    passes = parts / samples * (samples / parts).max() if weighted else np.ones(len(names))
    events, visits, places = [], [], []
    for one, share in enumerate(passes.tolist()):
        own = np.flatnonzero(member == one)
        whole = int(share + 1e-9)
        times = whole + _evenly(counts[own], share - whole)
        event = np.repeat(own, times)
        visit = np.arange(len(event)) - np.repeat(np.cumsum(times) - times, times)
        order = np.argsort(visit, kind="stable")
        events.append(event[order])
        visits.append(visit[order])
        places.append((np.arange(len(event)) + 0.5) / max(1, len(event)))
    order = np.concatenate(places).argsort(kind="stable")
    return np.concatenate(events)[order], np.concatenate(visits)[order]


def _evenly(counts: np.ndarray, part: float) -> np.ndarray:
    """Events that hold a part of a corpus's samples, spread over it: int64 [E], 1 for those."""
    chosen = np.zeros(len(counts), dtype=np.int64)
    owed = 0.0
    for place, count in enumerate(counts.tolist() if part > 1e-9 else ()):
        owed += part * count
        if owed >= count / 2:
            chosen[place] = 1
            owed -= count
    return chosen


def _short(locations: Sequence[str]) -> list[str]:
    """Names without folders and endings; of equal ones with their folder, or numbered."""
    paths = [PurePosixPath(place.partition("?")[0]) for place in locations]
    names = [path.stem for path in paths]
    if len({*names}) < len(names):
        names = [f"{path.parent.name}/{path.stem}" for path in paths]
    return [
        f"{name}_{names[:n].count(name) + 1}" if names.count(name) > 1 else name
        for n, name in enumerate(names)
    ]


register_source("mixture", lambda location: location.startswith(MIXTURE), Mixture)
