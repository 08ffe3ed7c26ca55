"""How is an index made? Videos are found, probed in parts, placed among their views, and written.

A part is a thousand rows, and holds all of a file. Parts of an unfinished index stand beside its
place, so that neither the time nor the memory that they took is spent twice.
"""

from __future__ import annotations

import heapq
import io
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath

import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError, UnfinishedError, UsageError
from marey.pipeline.data.corpus import PART_ROWS, Corpus, Job, LayoutOf
from marey.pipeline.data.guess_views import Guess, guess_views
from marey.pipeline.data.index_files import MADE_OF, SCHEMA, completed
from marey.pipeline.data.index_writer import file_content, write_parts
from marey.pipeline.data.layouts.known import layout_of
from marey.pipeline.data.list_files import USUAL, ListOptions
from marey.pipeline.data.renew_index import Renewal, renew, summary_of
from marey.pipeline.runtime.parquet import read_parquet
from marey.pipeline.runtime.part_notes import damaged_parts
from marey.pipeline.runtime.roots import Roots, recorded
from marey.pipeline.runtime.seal import sealed
from marey.pipeline.runtime.status_file import report, reported
from marey.pipeline.runtime.storage import Folder, split, without_options
from marey.pipeline.runtime.stores import check_not_gone
from marey.pipeline.runtime.workers import Lost, run_in_processes
from marey.pipeline.video import VideoInfo, probe
from marey.pipeline.video.probe import Motion, Scan, probe_spans

LIMITS_S = {"packets": 600.0, "none": 600.0, "vectors": 3600.0, "flow": 3600.0}
"""Seconds that one file may take, by `motion`; the last two decode it."""
Progress = Callable[[int, int, float], None]
"""Called with (files done, files in all, seconds of video seen)."""


Elsewhere = Callable[
    [Corpus, Folder, Container[int], float | None, Progress, tuple[int, float]], None
]
"""Stores the parts of a corpus that are not done in a folder (`store_part`): called with the
corpus, the folder, the parts that are done, and for the others as `probe_parts`."""


_log = logging.getLogger("marey")


def _silent(done: int, total: int, seconds: float) -> None:
    pass


def probe_file(
    job: Job, motion: Motion, limit_s: float, roots: Roots, scan: Scan = "full"
) -> list[VideoInfo]:
    """Describe the parts of a file, in their order, and its further streams where one is the whole.

    limit_s: seconds that each stream may take. roots: below which the file must lie.
    """
    uri, spans = job
    if not spans:
        return []
    try:
        roots.check(uri)
    except InputError as error:
        return [VideoInfo(status="unreadable", error=str(error)) for _ in spans]
    infos = probe_spans(uri, spans, motion=motion, time_limit_s=limit_s, scan=scan)
    if None in spans:
        streams = max(info.streams for info in infos)
        infos += [
            probe(uri, stream=n, motion=motion, time_limit_s=limit_s, scan=scan)
            for n in range(1, streams)
        ]
    return infos


def probe_parts(
    corpus: Corpus,
    done: Container[int],
    put: Callable[[int, pa.Table], None],
    *,
    workers: int,
    limit_s: float | None = None,
    progress: Progress = _silent,
    seen: tuple[int, float] = (0, 0.0),
) -> None:
    """Probe the files of all parts that are not `done`, and `put` each part when it is whole.

    workers: processes, so that a file that crashes or takes more than `limit_s` seconds (default:
        `LIMITS_S`) costs only itself: its row says so. 0 probes in this process.
    seen: files and seconds of the parts that are done, for `progress`.
    Raises UnfinishedError where files could not be read for now: their parts are not `put`.
    """
    left = [(f, n) for n in range(corpus.parts) if n not in done for f in corpus.part(n)]
    jobs = [corpus.job(file) for file, _ in left]
    limit_s = LIMITS_S[corpus.motion] if limit_s is None else limit_s
    describe = partial(
        probe_file, motion=corpus.motion, limit_s=limit_s, roots=corpus.roots, scan=corpus.scan
    )
    schema = SCHEMA.with_metadata(recorded(corpus.roots))
    results: Iterator[tuple[int, list[VideoInfo] | Lost]]
    if workers:
        results = run_in_processes(describe, jobs, workers=workers, limit_s=limit_s)
    else:
        results = enumerate(map(describe, jobs))
    open_parts: dict[int, dict[int, list[dict]]] = {}
    left_open: dict[str, str] = {}
    files, seconds = seen
    for n, found in results:
        file, number = left[n]
        if not isinstance(found, Lost) and any(info.passes for info in found):
            check_not_gone(jobs[n][0])
            left_open[jobs[n][0]] = next(str(info.error) for info in found if info.passes)
            continue
        part = open_parts.setdefault(number, {})
        part[file] = corpus.rows_of(file, found)
        if len(part) == len(corpus.part(number)):
            rows = [row for at in corpus.part(number) for row in part[at]]
            put(number, pa.Table.from_pylist(rows, schema=schema))
            del open_parts[number]
        files += 1
        seconds += 0.0 if isinstance(found, Lost) else sum(info.duration_s for info in found)
        progress(files, len(corpus.files), seconds)
    if left_open:
        name, why = next(iter(left_open.items()))
        raise UnfinishedError(
            f"{len(left_open)} files could not be read for now ({name}: {why}); what is described "
            "so far is kept, and the same command goes on"
        )


def make_index(
    sources: list[str],
    *,
    views: str | None = None,
    motion: Motion = "packets",
    labels_from: str | None = None,
    lists: ListOptions = USUAL,
    layout: LayoutOf = layout_of,
    scan: Scan = "header",
    workers: int = 0,
    progress: Progress = _silent,
) -> pa.Table:
    """The index of a corpus that fits in memory: one row a video, files sorted by id.

    workers: see `probe_parts`. layout: the layout of a source. scan: see `probe`.
    """
    corpus = Corpus.find(sources, views, motion, labels_from, lists, layout, scan)
    parts: dict[int, pa.Table] = {}
    probe_parts(corpus, parts, parts.__setitem__, workers=workers, progress=progress)
    return pa.concat_tables([parts[number] for number in range(corpus.parts)]).combine_chunks()


def store_part(folder: Folder, number: int, table: pa.Table) -> None:
    """Store one part of an unfinished index, whole."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    folder.write(_part_file(number), sealed(buffer.getvalue()))


def _part_file(number: int) -> str:
    return f"part-{number:06d}.parquet"


class StoredParts:
    """The parts of an unfinished index, in a folder beside its place; iterates over all in order.

    Parts of another corpus, or of other settings, that are found there are removed.
    """

    def __init__(self, location: str, corpus: Corpus, kept: pa.Table | None = None) -> None:
        """kept: rows that are not probed again; they come first."""
        self._kept = kept
        self._folder = self.folder(location)
        self._count = corpus.parts
        key = corpus.digest().encode()
        if self._folder.exists("corpus") and self._folder.read("corpus") != key:
            self.remove()
        self._folder.write("corpus", key)
        self._folder.sweep()
        present = set(self._folder.names(suffix=".parquet"))
        for name, fault in damaged_parts(self._folder, sorted(present)).items():
            _log.warning("warning: %s: it is made again", fault)
            self._folder.remove(name)
            present.remove(name)
        self.done = {n for n in range(self._count) if self._file(n) in present}

    @staticmethod
    def folder(location: str) -> Folder:
        """Where the parts of the index at `location` are kept."""
        home, name = _split(location)
        return Folder(home.join(f"{name}.unfinished"))

    def _file(self, number: int) -> str:
        return _part_file(number)

    def put(self, number: int, table: pa.Table) -> None:
        """Store one part."""
        store_part(self._folder, number, table)
        self.done.add(number)

    def get(self, number: int) -> pa.Table:
        """One part that is stored."""
        return read_parquet(self._folder.read(self._file(number)))

    def __iter__(self) -> Iterator[pa.Table]:
        if self._kept is not None:
            yield self._kept
        yield from (self.get(number) for number in range(self._count))

    def table(self) -> pa.Table:
        """All parts as one table."""
        return pa.concat_tables(self).combine_chunks()

    def remove(self) -> None:
        """Remove the folder: the index is written, or was of something else."""
        self._folder.remove()


def probe_corpus(
    sources: list[str],
    location: str,
    *,
    views: str | None = None,
    motion: Motion = "packets",
    labels_from: str | None = None,
    lists: ListOptions = USUAL,
    layout: LayoutOf = layout_of,
    scan: Scan = "header",
    workers: int = 1,
    limit_s: float | None = None,
    renewal: Renewal | None = None,
    elsewhere: Elsewhere | None = None,
    progress: Progress = _silent,
    say: Callable[[str], object] = lambda line: None,
    found: Callable[[Corpus], object] = lambda corpus: None,
) -> StoredParts:
    """The parts of the index that will stand at `location`; those that are there are kept.

    workers, limit_s: see `probe_parts`. layout: the layout of a source. scan: see `probe`.
    renewal: what there is of an index at `location` is kept where files did not change, see
    `renew`. say: called with what was recognised at a source that is no folder of videos, and what
    stays of an index, before anything is read; nor is it when `found` is called with the corpus
    (and may raise). elsewhere: makes the parts, where not processes of this machine do. Raises
    UsageError while another process makes it.
    """
    corpus = Corpus.find(sources, views, motion, labels_from, lists, layout, scan)
    found(corpus)
    for line in corpus.layouts:
        say(line)
    kept = None
    if renewal is not None:
        renewed = renew(location, corpus, renewal)
        say(f"{location}: {summary_of(renewed)}")
        kept, corpus = renewed.kept, renewed.corpus

    def told(done: int, total: int, seconds: float) -> None:
        report(done=done, total=total, unit="videos", seen=done, seconds=round(seconds, 1))
        progress(done, total, seconds)

    folder = StoredParts.folder(location)
    with folder.held(), reported(folder, "index", out=location):
        parts = StoredParts(location, corpus, kept)
        files = sum(len(corpus.part(number)) for number in parts.done)
        seconds = sum(sum(parts.get(n)["duration_s"].to_pylist()) for n in parts.done)
        if elsewhere is not None:
            elsewhere(corpus, folder, frozenset(parts.done), limit_s, told, (files, seconds))
        else:
            probe_parts(
                corpus, frozenset(parts.done), parts.put, workers=workers, limit_s=limit_s,
                progress=told, seen=(files, seconds),
            )  # fmt: skip
    return parts


EXAMPLES = 3
"""Events that a summary shows."""


@dataclass
class Summary:
    """What the parts of an index hold together."""

    videos: int = 0
    minutes: float = 0.0
    events: int = 0
    views: Counter[int] = field(default_factory=Counter)
    """Number of views -> events with so many."""
    examples: list[str] = field(default_factory=list)
    """A few events and their views, those with most views first."""
    guess: Guess | None = None
    """Where every event has one view: how their names look as if several cameras had seen them."""
    scans: Counter[str] = field(default_factory=Counter)
    """How many videos were described from headers, and how many from all packets."""
    read_bytes: int = 0
    """Read from object stores, and of headers, with"""
    requests: int = 0
    """so many requests."""
    status: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    """(status, video_id, error) of every row of a file that is damaged or unreadable."""
    cut: list[tuple[str, str, str]] = field(default_factory=list)
    """The same of every span that was cut because its file ends before it does."""


SUMMARISED = (
    "video_id", "uri", "event", "view", "duration_s", "status", "error", "scan", "read_bytes",
    "requests",
)  # fmt: skip
"""The columns that a summary needs."""


def summarise(tables: Iterable[pa.Table]) -> Summary:
    """Count the rows of an index that comes in parts."""
    summary = Summary()
    events: dict[str, list[str]] = {}
    for table in tables:
        summary.videos += len(table)
        summary.minutes += sum(table["duration_s"].to_pylist()) / 60
        for event, view in zip(*(table[n].to_pylist() for n in ("event", "view")), strict=True):
            events.setdefault(event, []).append(view)
        summary.status.update(table["status"].to_pylist())
        summary.scans.update(filter(None, table["scan"].to_pylist()))
        # rows of one file say the same of it
        costs = {
            uri: (size or 0, asked or 0)
            for uri, size, asked in zip(
                *(table[n].to_pylist() for n in ("uri", "read_bytes", "requests")), strict=True
            )
        }
        summary.read_bytes += sum(size for size, _ in costs.values())
        summary.requests += sum(asked for _, asked in costs.values())
        rows = zip(*(table[n].to_pylist() for n in ("status", "video_id", "error")), strict=True)
        for status, video_id, error in rows:
            if error:
                where = summary.cut if status == "ok" else summary.bad
                where.append((status, video_id, error))
    summary.events = len(events)
    summary.views = Counter(map(len, events.values()))
    for event in heapq.nsmallest(EXAMPLES, events, key=lambda name: (-len(events[name]), name)):
        summary.examples.append(f"{event} (views {', '.join(sorted(events[event]))})")
    if max(summary.views, default=1) == 1:
        summary.guess = guess_views([*events])
    return summary


def check_place(location: str) -> None:
    """Raises UsageError where an index cannot be written: see `write_index`."""
    path = without_options(location)
    if not path.endswith((".parquet", "/")):
        stem = path.removesuffix(PurePath(path).suffix)
        raise UsageError(
            f"{path}: the name of an index ends in .parquet (one file) or in / (a folder of "
            f"parts); for example -o {stem}.parquet or -o {stem}/"
        )


def write_index(
    tables: pa.Table | Iterable[pa.Table], location: str, made_of: str | None = None
) -> None:
    """Write an index whole, or not at all: as one file, in row groups of `PART_ROWS` rows, or in a
    folder as parts (`index_writer`).

    location: ends in `.parquet`, or in `/` for a folder. made_of: what `index_files.made_of` is to
    tell of it. The roots that it records are those of the first table. Memory: one table of
    `tables`, and the compressed file, or one part.
    Raises UsageError for other locations.
    """
    check_place(location)
    left: Iterator[pa.Table] = iter([tables] if isinstance(tables, pa.Table) else tables)
    first: pa.Table = next(left, SCHEMA.empty_table())
    notes = dict(first.schema.metadata or {})
    notes.pop(MADE_OF, None)
    folder = without_options(location).endswith("/")
    if made_of is not None and not folder:
        notes[MADE_OF] = made_of.encode()
    schema = SCHEMA.with_metadata(notes or None)
    whole = (
        completed(table).replace_schema_metadata(schema.metadata)
        for table in itertools.chain([first], left)
    )
    if folder:
        write_parts(whole, schema, location, made_of)
        return
    home, name = _split(location)
    home.write(name, file_content(whole, schema, PART_ROWS))


def _split(location: str) -> tuple[Folder, str]:
    """The folder in which a file, or a folder of parts, lies, and its name there."""
    path = without_options(location)
    folder, name = split(path.rstrip("/") + location.removeprefix(path))
    return Folder(folder), name
