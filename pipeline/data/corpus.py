"""Which rows will an index have, before a file is opened, and how does each come of its file?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from itertools import groupby

import numpy as np

from marey.pipeline.data.discover import find_rows, roots_of
from marey.pipeline.data.grouping import Placement, label_rule, place_rows
from marey.pipeline.data.index_files import SCHEMA
from marey.pipeline.data.layouts.known import layout_of
from marey.pipeline.data.list_files import USUAL, ListOptions
from marey.pipeline.data.listing import Listed, Listing
from marey.pipeline.runtime.roots import Roots, declared
from marey.pipeline.runtime.storage import as_utf8
from marey.pipeline.runtime.workers import Lost
from marey.pipeline.video import VideoInfo
from marey.pipeline.video.probe import Motion, Scan
from marey.pipeline.video.span import FrameSpan, Span

LayoutOf = Callable[[str], Listing | None]
"""The layout that lies at a location; None for files and lists of files."""
PART_ROWS = 1000
"""Rows that are held as objects, written, and read together, but for files that have more."""


@dataclass(frozen=True)
class Corpus:
    """The rows of an index before files are opened, where each belongs, how files are probed.

    rows: file by file, the files in the order of their first ids, the rows of each in that of their
        starts. layouts: what was said of the sources that are no folders of files.
    """

    rows: list[Listed]
    placed: dict[str, Placement]
    motion: Motion
    scan: Scan = "header"
    layouts: list[str] = field(default_factory=list)
    roots: Roots = field(default_factory=Roots)
    """Below which its files must lie: what links lead out of them is not read."""

    @classmethod
    def find(
        cls,
        sources: Sequence[str],
        views: str | None,
        motion: Motion,
        labels_from: str | None = None,
        lists: ListOptions = USUAL,
        layout: LayoutOf = layout_of,
        scan: Scan = "header",
    ) -> Corpus:
        """layout: the layout of a source, see `layouts.known`.

        Raises InputError and UsageError as `find_rows`, `place_rows` and `label_rule` do.
        """
        listed, layouts = find_rows(sources, lists, layout)
        placed = place_rows(listed, views)
        if labels_from is not None:
            label = label_rule(labels_from)
            placed = {
                name: home if home.label else replace(home, label=label(name))
                for name, home in placed.items()
            }
        first: dict[str, int] = {}
        for number, row in enumerate(listed):
            first.setdefault(row.uri, number)
        rows = sorted(listed, key=lambda row: (first[row.uri], row.span or (-1.0, 0.0)))
        named = [*roots_of(sources), *filter(None, [lists.root])]
        return cls(rows, placed, motion, scan, layouts, Roots.of(declared() or named))

    @cached_property
    def files(self) -> list[range]:
        """For each file the places of its rows."""
        sizes = [len(list(group)) for _, group in groupby(self.rows, key=lambda row: row.uri)]
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]

    @cached_property
    def _parts(self) -> list[range]:
        parts: list[range] = []
        start = rows = 0
        for number, file in enumerate(self.files):
            if rows and rows + len(file) > PART_ROWS:
                parts.append(range(start, number))
                start, rows = number, 0
            rows += len(file)
        return [*parts, range(start, len(self.files))] if rows else parts

    @property
    def parts(self) -> int:
        """How many parts its index has."""
        return len(self._parts)

    def part(self, number: int) -> range:
        """The files of one part."""
        return self._parts[number]

    def alone(self, number: int) -> Corpus:
        """One part as a corpus of its own, for a process that knows nothing of the others."""
        files = self.part(number)
        places = range(self.files[files[0]].start, self.files[files[-1]].stop)
        rows = self.rows[places.start : places.stop]
        placed = {row.video_id: self.placed[row.video_id] for row in rows}
        return replace(self, rows=rows, placed=placed)

    def digest(self) -> str:
        """What its rows depend on, as a short hash: names, places, sizes, views and settings."""
        digest = hashlib.blake2b(
            repr((self.motion, self.scan, PART_ROWS, SCHEMA.names, self.roots.places)).encode()
        )
        for row in self.rows:
            digest.update(repr((astuple(row), astuple(self.placed[row.video_id]))).encode())
        return digest.hexdigest()[:16]

    def job(self, file: int) -> Job:
        """What is to be probed of a file: what is known to be wrong is not."""
        rows = [self.rows[place] for place in self.files[file]]
        return rows[0].uri, [row.span for row in rows if not row.error]

    def rows_of(self, file: int, found: list[VideoInfo] | Lost) -> list[dict]:
        """The rows of one file: those that were listed, then its further video streams, if all of
        it was listed.

        Nothing says that other streams show what the first does: each is an event of its own.
        """
        listed = [self.rows[place] for place in self.files[file]]
        if isinstance(found, Lost):
            error = f"{listed[0].uri}: {found.reason}"
            found = [VideoInfo(status="unreadable", error=error)] * len(listed)
        infos = iter(found)
        rows, whole = [], None
        for row in listed:
            failed = VideoInfo(status="unreadable", error=row.error)
            rows.append(_row(row, self.placed[row.video_id], failed if row.error else next(infos)))
            whole = row if row.span is None else whole
        for stream, info in enumerate(infos, start=1):
            assert whole is not None
            name = f"{whole.video_id}#{stream}"
            other = Placement(name, "0", self.placed[whole.video_id].label)
            rows.append(_row(replace(whole, video_id=name), other, info, stream))
        return rows


Job = tuple[str, list[Span | FrameSpan | None]]
"""A file, and the parts of it that are videos."""


def _row(listed: Listed, home: Placement, info: VideoInfo, stream: int = 0) -> dict:
    """One row of the index. What was asked for stands where nothing could be read."""
    span = info.span or (listed.span if isinstance(listed.span, Span) else None)
    values = {
        **asdict(info),
        **asdict(home),
        "video_id": listed.video_id,
        "uri": as_utf8(listed.uri),
        "bytes": listed.bytes,
        "stream": stream,
        "start_s": span and span.start_s,
        "end_s": span and span.end_s,
        "split": listed.split,
        "extra": json.dumps(dict(listed.extra), default=str, sort_keys=True)
        if listed.extra
        else None,
        "error": info.error and as_utf8(info.error),
        "frame_times": [{"frame": n, "time_s": t} for n, t in info.frame_times] or None,
    }
    return {column: values[column] for column in SCHEMA.names}
