"""How is an index made? Videos are found, probed in parts, placed among their views, and written.

A part is the rows of a thousand files. Parts of an unfinished index stand beside its place, so that
neither the time nor the memory that they took is spent twice.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from marey.pipeline.data.discover import Found, Placement, find_videos, group_views
from marey.pipeline.data.index import SCHEMA, completed
from marey.pipeline.runtime.parquet import read_parquet
from marey.pipeline.runtime.storage import Folder, as_utf8, split
from marey.pipeline.runtime.workers import Lost, run_in_processes
from marey.pipeline.video import VideoInfo, probe
from marey.pipeline.video.probe import Motion

PART_FILES = 1000
"""Files whose rows are held as objects, written, and read together."""
LIMITS_S = {"packets": 600.0, "none": 600.0, "vectors": 3600.0, "flow": 3600.0}
"""Seconds that one file may take, by `motion`; the last two decode it."""
Progress = Callable[[int, int, float], None]
"""Called with (files done, files in all, seconds of video seen)."""


def _silent(done: int, total: int, seconds: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files of an index in the order of their ids, where each belongs, how it is probed."""

    files: list[Found]
    placed: dict[str, Placement]
    motion: Motion

    @classmethod
    def find(cls, sources: list[str], views: str | None, motion: Motion) -> Corpus:
        """Raises InputError and UsageError as `find_videos` and `group_views` do."""
        files = find_videos(sources)
        return cls(files, group_views([file.video_id for file in files], views), motion)

    @property
    def parts(self) -> int:
        """How many parts its index has."""
        return math.ceil(len(self.files) / PART_FILES)

    def part(self, number: int) -> range:
        """Places of the files of one part."""
        return range(number * PART_FILES, min((number + 1) * PART_FILES, len(self.files)))

    def digest(self) -> str:
        """What its rows depend on, as a short hash: names, places, sizes, views and settings."""
        digest = hashlib.blake2b(repr((self.motion, PART_FILES, SCHEMA.names)).encode())
        for file in self.files:
            digest.update(repr((astuple(file), astuple(self.placed[file.video_id]))).encode())
        return digest.hexdigest()[:16]

    def rows(self, place: int, streams: list[VideoInfo] | Lost) -> list[dict]:
        """The rows of one file: of its first video stream, then of the others.

        Nothing says that the others show what the first does: each is an event of its own.
        """
        file = self.files[place]
        if isinstance(streams, Lost):
            streams = [VideoInfo(status="unreadable", error=f"{file.uri}: {streams.reason}")]
        home = self.placed[file.video_id]
        rows = []
        for stream, info in enumerate(streams):
            name = f"{file.video_id}#{stream}" if stream else file.video_id
            where = Placement(name, "0", home.label) if stream else home
            named = {"video_id": name, "stream": stream}
            values = {**asdict(info), **asdict(where), **asdict(file), **named}
            values |= {"uri": as_utf8(file.uri), "error": info.error and as_utf8(info.error)}
            knots = [{"frame": n, "time_s": t} for n, t in info.frame_times]
            values["frame_times"] = knots or None
            rows.append({column: values[column] for column in SCHEMA.names})
        return rows


def probe_streams(uri: str, motion: Motion, limit_s: float) -> list[VideoInfo]:
    """Describe every video stream of a file; one unreadable for a file that cannot be opened.

    limit_s: seconds that each stream may take.
    """
    first = probe(uri, motion=motion, time_limit_s=limit_s)
    others = (
        probe(uri, stream=n, motion=motion, time_limit_s=limit_s) for n in range(1, first.streams)
    )
    return [first, *others]


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
    """
    places = [p for n in range(corpus.parts) if n not in done for p in corpus.part(n)]
    uris = [corpus.files[place].uri for place in places]
    limit_s = LIMITS_S[corpus.motion] if limit_s is None else limit_s
    describe = partial(probe_streams, motion=corpus.motion, limit_s=limit_s)
    results: Iterator[tuple[int, list[VideoInfo] | Lost]]
    if workers:
        results = run_in_processes(describe, uris, workers=workers, limit_s=limit_s)
    else:
        results = enumerate(map(describe, uris))
    open_parts: dict[int, dict[int, list[dict]]] = {}
    files, seconds = seen
    for n, streams in results:
        place = places[n]
        number = place // PART_FILES
        part = open_parts.setdefault(number, {})
        part[place] = corpus.rows(place, streams)
        if len(part) == len(corpus.part(number)):
            rows = [row for at in corpus.part(number) for row in part[at]]
            put(number, pa.Table.from_pylist(rows, schema=SCHEMA))
            del open_parts[number]
        files += 1
        seconds += 0.0 if isinstance(streams, Lost) else sum(s.duration_s for s in streams)
        progress(files, len(corpus.files), seconds)


def make_index(
    sources: list[str],
    *,
    views: str | None = None,
    motion: Motion = "packets",
    workers: int = 0,
    progress: Progress = _silent,
) -> pa.Table:
    """The index of a corpus that fits in memory: one row a video stream, files sorted by id.

    workers: see `probe_parts`.
    """
    corpus = Corpus.find(sources, views, motion)
    parts: dict[int, pa.Table] = {}
    probe_parts(corpus, parts, parts.__setitem__, workers=workers, progress=progress)
    return pa.concat_tables([parts[number] for number in range(corpus.parts)]).combine_chunks()


class StoredParts:
    """The parts of an unfinished index, in a folder beside its place; iterates over all in order.

    Parts of another corpus, or of other settings, that are found there are removed.
    """

    def __init__(self, location: str, corpus: Corpus) -> None:
        self._folder = self.folder(location)
        self._count = corpus.parts
        key = corpus.digest().encode()
        if self._folder.exists("corpus") and self._folder.read("corpus") != key:
            self.remove()
        self._folder.write("corpus", key)
        self._folder.sweep()
        present = set(self._folder.names(suffix=".parquet"))
        self.done = {n for n in range(self._count) if self._file(n) in present}

    @staticmethod
    def folder(location: str) -> Folder:
        """Where the parts of the index at `location` are kept."""
        home, name = _split(location)
        return Folder(home.join(f"{name}.unfinished"))

    def _file(self, number: int) -> str:
        return f"part-{number:06d}.parquet"

    def put(self, number: int, table: pa.Table) -> None:
        """Store one part."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self._folder.write(self._file(number), buffer.getvalue())
        self.done.add(number)

    def get(self, number: int) -> pa.Table:
        """One part that is stored."""
        return read_parquet(self._folder.read(self._file(number)))

    def __iter__(self) -> Iterator[pa.Table]:
        return (self.get(number) for number in range(self._count))

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
    workers: int = 1,
    limit_s: float | None = None,
    progress: Progress = _silent,
) -> StoredParts:
    """The parts of the index that will stand at `location`; those that are there are kept.

    workers, limit_s: see `probe_parts`. Raises UsageError while another process makes it.
    """
    corpus = Corpus.find(sources, views, motion)
    with StoredParts.folder(location).held():
        parts = StoredParts(location, corpus)
        files = sum(len(corpus.part(number)) for number in parts.done)
        seconds = sum(sum(parts.get(n)["duration_s"].to_pylist()) for n in parts.done)
        probe_parts(
            corpus, frozenset(parts.done), parts.put, workers=workers, limit_s=limit_s,
            progress=progress, seen=(files, seconds),
        )  # fmt: skip
    return parts


@dataclass
class Summary:
    """What the parts of an index hold together."""

    videos: int = 0
    minutes: float = 0.0
    events: int = 0
    status: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    """(status, video_id, error) of every row that has an error."""


def summarise(tables: Iterable[pa.Table]) -> Summary:
    """Count the rows of an index that comes in parts."""
    summary = Summary()
    events: set[str] = set()
    for table in tables:
        summary.videos += len(table)
        summary.minutes += sum(table["duration_s"].to_pylist()) / 60
        events.update(table["event"].to_pylist())
        summary.status.update(table["status"].to_pylist())
        rows = zip(*(table[n].to_pylist() for n in ("status", "video_id", "error")), strict=True)
        summary.bad += [row for row in rows if row[2]]
    summary.events = len(events)
    return summary


def write_index(tables: pa.Table | Iterable[pa.Table], location: str) -> None:
    """Write an index whole, or not at all, in row groups of `PART_FILES` rows.

    Memory: one table of `tables`, and the compressed file.
    """
    home, name = _split(location)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCHEMA, compression="zstd") as writer:
        for table in [tables] if isinstance(tables, pa.Table) else tables:
            writer.write_table(completed(table), row_group_size=PART_FILES)
    home.write(name, buffer.getvalue())


def _split(location: str) -> tuple[Folder, str]:
    """The folder of a file, and its name there."""
    folder, name = split(location)
    return Folder(folder), name
