"""The index: which videos a corpus has and what is known of each without decoding a pixel.

One Parquet row a video stream, or a span of one; every file found gets a row, damaged and
unreadable ones with a reason. Rows that show one happening from several cameras share their
`event`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marey.configs.errors import InputError
from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.index_files import SCHEMA, SLICE, IndexFiles
from marey.pipeline.data.index_rows import (
    BATCH,
    VIDEO_COLUMNS,
    HeldRows,
    Rows,
    SpooledRows,
    videos_of,
)
from marey.pipeline.data.reading import VideoReader
from marey.pipeline.runtime.address import place_of
from marey.pipeline.runtime.roots import Roots, of_index
from marey.pipeline.runtime.storage import is_remote, local_path

HELD_BYTES = 64 * 2**20
"""The rows of an index are held in memory up to this size, encoded; those of larger ones wait in a
file."""
TOGETHER = 2048
"""Events whose rows are read together, where all of an index are gone through."""


class Index:
    """A loaded index as a source: events in a fixed order, rows made on demand.

    Held whole where it is small. Of a large one the process holds the order of its rows, 8 bytes
    a row, and reads columns when they are asked for. Only the process that plans, and the one that
    makes units of work, opens an index: see docs/scaling.md for what that takes.
    """

    kind = "video"
    stills = False
    sample_kind = None
    reader = VideoReader()

    def __init__(
        self, content: pa.Table | IndexFiles, location: str, roots: Roots | None = None
    ) -> None:
        """content: the rows, with the columns `VIDEO_COLUMNS` at least, or where they lie. roots:
        below which the files of its rows must lie; None trusts the table."""
        self.location = location
        self._content = content
        self._roots = roots

    @classmethod
    def load(cls, location: str) -> Index:
        """Open an index; keyframes are not read. Raises InputError when it is no index."""
        files = IndexFiles(location)
        held = files.nbytes(VIDEO_COLUMNS) <= HELD_BYTES
        content = files.table(VIDEO_COLUMNS) if held else files
        return cls(content, location, of_index(files.metadata, location))

    @property
    def table(self) -> pa.Table:
        """The rows, in the order in which they are stored; those of a large index are read now."""
        if isinstance(self._content, pa.Table):
            return self._content
        return self._content.table(VIDEO_COLUMNS)

    def _column(self, name: str) -> pa.ChunkedArray:
        """A column in the order of the rows; of a large index it is read now."""
        return self._content.column(name)

    @cached_property
    def _rows(self) -> Rows:
        """What videos are made of."""
        if isinstance(self._content, pa.Table):
            return HeldRows(self._content)
        return SpooledRows(self._content.batches(VIDEO_COLUMNS, BATCH))

    @classmethod
    def of(cls, videos: Iterable[Mapping[str, Any]], location: str) -> Self:
        """An index that lies in no file, for layouts of others: see `register_source`.

        videos: for each the columns of `SCHEMA` that are known. `video_id`, `uri`, `frames` and
        `fps` (frames per second) are needed; where `event` is left out, a video is an event of its
        own. Raises InputError where one of these is missing.
        """
        rows = []
        for video in videos:
            if absent := {"video_id", "uri", "frames", "fps"} - set(video):
                raise InputError(f"{location}: {dict(video)} lacks {', '.join(sorted(absent))}")
            fps = video["fps"]
            rows.append(
                {
                    "event": video["video_id"], "view": "0", "label": "", "clock_offset_s": 0.0,
                    "clock_rate": 1.0, "duration_s": video["frames"] / fps if fps else 0.0,
                    "width": 0, "height": 0, "stream": 0, "motion": [], "motion_hz": 0.0,
                    "cuts": [], "status": "ok", "split": "", **video,
                }
            )  # fmt: skip
        schema = pa.schema([field for field in SCHEMA if field.name in VIDEO_COLUMNS])
        return cls(pa.Table.from_pylist(rows, schema), location)

    @cached_property
    def _layout(self) -> tuple[np.ndarray, np.ndarray]:
        """The fixed order: int32 [rows] row numbers, the views of each event sorted by name, and
        int32 [events + 1], where in it each event begins, and the end of the last.

        Events are sorted by name. Where there are spans, by the file and the place in it of their
        first view, so that neighbours of a file are neighbours in the order.
        """
        names = self._column("event")
        order = _sorted_rows({"event": names, "view": self._column("view")})
        names = names.take(pa.array(order)).combine_chunks()
        new = pc.call_function("not_equal", [names[1:], names[:-1]]).to_numpy(zero_copy_only=False)
        ends = [len(names)] if len(names) else []
        starts = np.concatenate([[0], np.flatnonzero(new) + 1, ends]).astype(np.int32)
        if not self.has_spans:
            return order, starts
        firsts = pa.array(order[starts[:-1]])
        columns = ("uri", "start_s", "event")
        events = _sorted_rows({name: self._column(name).take(firsts) for name in columns})
        sizes = np.diff(starts)[events]
        begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        within = np.arange(len(order)) - np.repeat(begins[:-1], sizes)
        return order[np.repeat(starts[:-1][events], sizes) + within], begins

    @property
    def _order(self) -> np.ndarray:
        return self._layout[0]

    @property
    def _starts(self) -> np.ndarray:
        return self._layout[1]

    @cached_property
    def has_spans(self) -> bool:
        """Whether some video is a part of its file."""
        content = self._content
        if not isinstance(content, IndexFiles) and "start_s" not in content.column_names:
            return False
        column = self._column("start_s")
        return column.null_count < len(column)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def event(self, number: int) -> Event:
        """The event at a position of the fixed order."""
        return self.take(np.array([number]))[0]

    def take(self, numbers: np.ndarray) -> list[Event]:
        """The events at some positions, int64 [n], their rows read together."""
        firsts, stops = self._starts[:-1][numbers], self._starts[1:][numbers]
        ends = np.cumsum(stops - firsts, dtype=np.int64)
        begins = np.concatenate([[0], ends])[:-1]
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
            firsts - begins, stops - firsts
        )
        videos = videos_of(self._rows.take(self._order[places].astype(np.int64)), self._roots)
        return [
            Event(videos[start].event, tuple(videos[start:stop]))
            for start, stop in zip(begins.tolist(), ends.tolist(), strict=True)
        ]

    def events(self) -> Iterator[Event]:
        """All events in order."""
        in_files = isinstance(self._content, IndexFiles) and "_rows" not in self.__dict__
        if in_files and np.array_equal(self._order, np.arange(len(self._order))):
            yield from self._passing()
            return
        for start in range(0, len(self), TOGETHER):
            yield from self.take(np.arange(start, min(start + TOGETHER, len(self))))

    def _passing(self) -> Iterator[Event]:
        """All events of files that have them in order: read once, and nothing of them is kept."""
        assert isinstance(self._content, IndexFiles)
        videos = chain.from_iterable(
            videos_of(pa.Table.from_batches([batch]), self._roots)
            for batch in self._content.batches(VIDEO_COLUMNS, TOGETHER)
        )
        for size in np.diff(self._starts).tolist():
            views = tuple(islice(videos, size))
            yield Event(views[0].event, views)

    def video(self, place: int) -> Video:
        """The video at a place of the fixed order, all events one after another."""
        row = self._order[place : place + 1].astype(np.int64)
        return videos_of(self._rows.take(row), self._roots)[0]

    def durations_s(self) -> np.ndarray:
        """float64 [videos]: how long each is, in the fixed order; 0 for one without a frame."""
        return np.where(self.column("frames") > 0, self.column("duration_s"), 0.0)

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, in the fixed order of the videos."""
        return self._column(name).to_numpy()[self._order]

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes of the events, sorted; `labels` counts them from 0."""
        return sorted(name for name in self._column("label").unique().to_pylist() if name)

    def labels(self) -> list[int] | None:
        """The class of each event, -1 where it has none; None for a corpus without labels."""
        return self._labels

    @property
    def labelled(self) -> bool:
        """Whether any event has a class."""
        return bool(self._labels)

    def label_of(self, number: int) -> str | None:
        """The name of an event's class; None where it has none.

        Other corpora number their classes otherwise: what is kept beside frames is the name.
        """
        place = -1 if self._labels is None else self._labels[number]
        return None if place < 0 else self._classes[place]

    @cached_property
    def _classes(self) -> list[str]:
        return self.classes

    @cached_property
    def _labels(self) -> list[int] | None:
        if not self.classes:
            return None
        number = pc.call_function(
            "index_in",
            [self._column("label")],
            pc.SetLookupOptions(pa.array(self.classes)),
        )
        known = number.fill_null(-1).to_numpy()
        return known[self._order[self._starts[:-1]]].tolist()

    @property
    def digest(self) -> str:
        """What the samples depend on, as a short hash: ids, grouping, lengths and clocks."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for name in (*_DIGESTED, *(("start_s", "end_s") if self.has_spans else ())):
            for values in self._slices(name):
                digest.update("".join(map(repr, values)).encode())
        return digest.hexdigest()

    def _slices(self, name: str) -> Iterator[list[Any]]:
        """A column's values in the order of the rows, few of them objects at a time."""
        if isinstance(self._content, pa.Table):
            column = self._content.column(name)
            starts = range(0, len(column), SLICE)
            yield from (column.slice(start, SLICE).to_pylist() for start in starts)
        else:
            yield from (batch.column(0).to_pylist() for batch in self._content.batches([name]))

    def _values(self, name: str) -> Iterator[Any]:
        return chain.from_iterable(self._slices(name))

    def without_frames(self) -> Iterator[Video]:
        """The videos that no frame can be read from, in order."""
        empty = ~((self.column("frames") > 0) & (self.column("fps") > 0))
        return (self.video(int(place)) for place in np.flatnonzero(empty))

    def check_present(self) -> None:
        """Raises InputError when no video is left at its place.

        Local files are looked for until one is there. One that is gone is refused when it is read.
        """
        gone: dict[str, str] = {}  # place -> uri: many videos may lie in one file
        for uri, status in zip(self._values("uri"), self._values("status"), strict=True):
            if status == "unreadable" or (place := place_of(uri)) in gone:
                continue
            if is_remote(place) or local_path(place).exists():
                return
            gone[place] = uri
        if gone:
            raise InputError(
                f"{self.location} lists videos of {len(gone)} files and none is at its place "
                f"(first: {next(iter(gone.values()))}); were they moved? index the new folder again"
            )


def _sorted_rows(columns: Mapping[str, pa.ChunkedArray]) -> np.ndarray:
    """int32 [rows]: the order of rows by some columns, the first one first; nulls are last."""
    keys = [(name, "ascending") for name in columns]
    order = pc.call_function("sort_indices", [pa.table(dict(columns))], pc.SortOptions(keys))
    return order.to_numpy().astype(np.int32)


_DIGESTED = (
    "video_id", "event", "view", "label", "frames", "fps", "clock_offset_s", "clock_rate",
)  # fmt: skip
"""What samples depend on of every row."""


def relative_name(path: Path, root: Path) -> str:
    """A file's name within its source, the same on every machine: POSIX, no leading `./`."""
    return path.relative_to(root).as_posix()
