"""All checks of an index: what is found, and the index without what is not sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marey.pipeline.data.checks.cameras import (
    event_offset,
    faults_of_lengths,
    faults_of_order,
    may_be_offset,
)
from marey.pipeline.data.checks.duplicates import faults_of_copies, same_bytes, same_pictures, tells
from marey.pipeline.data.checks.finding import KEPT, KINDS, Finding
from marey.pipeline.data.checks.glimpse import Glimpse, glimpse
from marey.pipeline.data.checks.of_videos import faults_of_look, faults_of_row
from marey.pipeline.data.events import Event
from marey.pipeline.data.index import Index
from marey.pipeline.data.index_files import read_table
from marey.pipeline.runtime.workers import Lost, run_in_processes

LOOK_LIMIT_S = 600.0
"""Seconds that looking at one video, or at the views of one event, may take."""
FEW = 16
"""So few inputs are dealt with in this process: the start of another takes longer."""
Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found. videos, events: how many were checked."""

    findings: list[Finding]
    videos: int
    events: int

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each kind, in the order of `KINDS`."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def unsound(self) -> set[str]:
        """The ids of the videos that a clean index leaves out."""
        return {finding.video_id for finding in self.findings if finding.kind not in KEPT}


def check_index(
    location: str,
    *,
    least_s: float = 0.0,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checked:
    """Check an index. least_s: shorter videos are too short, whatever the median.

    Memory: about a kilobyte a video. Raises InputError where it is no index.
    """
    index = Index.load(location)
    events = list(index.events())
    videos = [video for event in events for video in event.videos]
    errors = _column(location, "error")
    sizes = _column(location, "bytes")
    usable = [n for n, video in enumerate(videos) if video.has_frames]
    lengths = [videos[n].duration_s for n in usable]
    median_s = float(np.median(lengths)) if lengths else 0.0
    findings: list[Finding] = []
    for video in videos:
        findings += faults_of_row(video, errors[video.video_id], median_s, least_s)
    offsets = [event for event in events if len(event.videos) > 1 and may_be_offset(event)]
    total = len(usable) + len(offsets)
    looks: list[Glimpse | None] = [None] * len(videos)
    done = 0
    for number, look in _each(glimpse, [videos[n] for n in usable], workers):
        found = Glimpse(error=look.reason) if isinstance(look, Lost) else look
        looks[usable[number]] = found
        findings += faults_of_look(videos[usable[number]], found)
        done += 1
        progress(done, total)
    for number, late in _each(event_offset, offsets, workers):
        findings += _offset_faults(offsets[number], [] if isinstance(late, Lost) else late)
        done += 1
        progress(done, total)
    telling = [tells(look) for look in looks]  # all black videos of one length are one file
    known = [sizes[video.video_id] or 0 for video in videos]
    exact = same_bytes(videos, [size * tell for size, tell in zip(known, telling, strict=True)])
    findings += faults_of_copies(videos, exact, same_pictures(videos, looks))
    for event in events:
        findings += faults_of_lengths(event)
    by_id = {video.video_id: look for video, look in zip(videos, looks, strict=True)}
    findings += faults_of_order(events, by_id)
    order = list(KINDS)
    findings.sort(key=lambda one: (order.index(one.kind), one.video_id))
    return Checked(findings, len(videos), len(events))


def _offset_faults(event: Event, late: Iterable[tuple[int, float]]) -> Iterator[Finding]:
    for place, by in late:
        video = event.videos[place]
        detail = f"{abs(by):.2f} s {'late' if by > 0 else 'early'} against {event.videos[0].view}"
        other = event.videos[0].video_id
        yield Finding(
            "view_offset", video.video_id, event.event_id, detail, other, (video.duration_s / 2,)
        )


def _each(
    function: Callable[[Input], Output], inputs: Sequence[Input], workers: int
) -> Iterator[tuple[int, Output | Lost]]:
    """(place, result) of every input; in this process where there is one worker or few inputs."""
    if workers <= 1 or len(inputs) <= FEW:
        yield from enumerate(map(function, inputs))
        return
    yield from run_in_processes(function, inputs, workers=workers, limit_s=LOOK_LIMIT_S)


def _column(location: str, name: str) -> dict[str, Any]:
    """A column of the index by video."""
    table = read_table(location, ["video_id", name])
    return dict(zip(table["video_id"].to_pylist(), table[name].to_pylist(), strict=True))


def clean_table(location: str, checked: Checked) -> pa.Table:
    """The rows of an index that are sound."""
    table = read_table(location)
    bad = pa.array(sorted(checked.unsound), pa.string())
    return table.filter(pc.invert(pc.is_in(table["video_id"], bad)))  # type: ignore[attr-defined]
