"""The index: which videos a corpus has and what is known of each without decoding a pixel.

One Parquet row a video stream, or a span of one; every file found gets a row, damaged and
unreadable ones with a reason. Rows that show one happening from several cameras share their
`event`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.reading import VideoReader
from marey.pipeline.runtime.address import place_of
from marey.pipeline.runtime.range_file import RangeFile
from marey.pipeline.runtime.roots import Roots, of_index
from marey.pipeline.runtime.storage import is_remote, local_path
from marey.pipeline.video.frame_clock import FrameClock

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("event", pa.string()),
        ("view", pa.string()),
        ("label", pa.string()),
        ("clock_offset_s", pa.float64()),
        ("clock_rate", pa.float64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("split", pa.string()),
        ("extra", pa.string()),
        ("duration_s", pa.float64()),
        ("fps", pa.float64()),
        ("frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("codec", pa.string()),
        ("stream", pa.int32()),
        ("keyframes", pa.list_(pa.float64())),
        ("motion", pa.list_(pa.float32())),
        ("motion_hz", pa.float64()),
        ("cuts", pa.list_(pa.float64())),
        ("frame_times", pa.list_(pa.struct([("frame", pa.int64()), ("time_s", pa.float64())]))),
        ("bytes", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)


class Index:
    """A loaded index as a source: Arrow columns, events in a fixed order, rows made on demand.

    Held by the driver and by actors that decode: see docs/cluster.md for what that takes.
    """

    kind = "video"
    stills = False
    sample_kind = None
    reader = VideoReader()

    def __init__(self, table: pa.Table, location: str, roots: Roots | None = None) -> None:
        """roots: below which the files of its rows must lie; None trusts the table."""
        self.table = table
        self.location = location
        self._roots = roots

    @classmethod
    def load(cls, location: str) -> Index:
        """Read what videos are made of (no keyframes). Raises InputError when it is no index."""
        table = read_table(location, SCHEMA.names, list(_VIDEO_COLUMNS))
        return cls(table, location, of_index(table.schema.metadata, location))

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
        schema = pa.schema([field for field in SCHEMA if field.name in _VIDEO_COLUMNS])
        return cls(pa.Table.from_pylist(rows, schema), location)

    @cached_property
    def _layout(self) -> tuple[np.ndarray, np.ndarray]:
        """The fixed order: int32 [rows] row numbers, the views of each event sorted by name, and
        int32 [events + 1], where in it each event begins, and the end of the last.

        Events are sorted by name. Where there are spans, by the file and the place in it of their
        first view, so that neighbours of a file are neighbours in the order.
        """
        keys = [("event", "ascending"), ("view", "ascending")]
        order = _sorted_rows(self.table, keys)
        names = self.table.column("event").take(pa.array(order)).combine_chunks()
        new = pc.call_function("not_equal", [names[1:], names[:-1]]).to_numpy(zero_copy_only=False)
        ends = [len(names)] if len(names) else []
        starts = np.concatenate([[0], np.flatnonzero(new) + 1, ends]).astype(np.int32)
        if not self.has_spans:
            return order, starts
        columns = ["uri", "start_s", "event"]
        firsts = self.table.select(columns).take(pa.array(order[starts[:-1]]))
        events = _sorted_rows(firsts, [(name, "ascending") for name in columns])
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
        if "start_s" not in self.table.column_names:
            return False
        column = self.table.column("start_s")
        return column.null_count < len(column)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def event(self, number: int) -> Event:
        """The event at a position of the fixed order."""
        rows = self._order[self._starts[number] : self._starts[number + 1]]
        videos = tuple(self._video(int(row)) for row in rows)
        return Event(videos[0].event, videos)

    def events(self) -> Iterator[Event]:
        """All events in order."""
        return (self.event(number) for number in range(len(self)))

    def video(self, place: int) -> Video:
        """The video at a place of the fixed order, all events one after another."""
        return self._video(int(self._order[place]))

    def durations_s(self) -> np.ndarray:
        """float64 [videos]: how long each is, in the fixed order; 0 for one without a frame."""
        return np.where(self.column("frames") > 0, self.column("duration_s"), 0.0)

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, in the fixed order of the videos."""
        return self.table.column(name).to_numpy()[self._order]

    @cached_property
    def _columns(self) -> dict[str, pa.ChunkedArray]:
        """The columns of a video by name: a plan reads every row, and looking them up was half."""
        return {name: self.table.column(name) for name in _VIDEO_COLUMNS}

    def _video(self, row: int) -> Video:
        value = {name: column[row] for name, column in self._columns.items()}
        plain = {name: value[name].as_py() for name in _VIDEO_COLUMNS if name != "motion"}
        motion = value["motion"].values
        profile = motion.to_numpy(zero_copy_only=False) if motion is not None else np.empty(0)
        plain["cuts"] = tuple(plain["cuts"] or ())
        plain["split"] = plain["split"] or ""
        knots = plain["frame_times"]
        plain["frame_times"] = knots and FrameClock.of([(k["frame"], k["time_s"]) for k in knots])
        return Video(motion=np.asarray(profile, dtype=np.float32), roots=self._roots, **plain)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes of the events, sorted; `labels` counts them from 0."""
        return sorted(name for name in self.table.column("label").unique().to_pylist() if name)

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
            [self.table.column("label")],
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
        for name in (
            "video_id", "event", "view", "label", "frames", "fps", "clock_offset_s", "clock_rate",
        ):  # fmt: skip
            for value in self._values(name):
                digest.update(repr(value).encode())
        for name in ("start_s", "end_s") if self.has_spans else ():
            for value in self._values(name):
                digest.update(repr(value).encode())
        return digest.hexdigest()

    def _values(self, name: str) -> Iterator[Any]:
        """A column's values in the order of the rows, few of them objects at a time."""
        column = self.table.column(name)
        for start in range(0, len(column), _SLICE):
            yield from column.slice(start, _SLICE).to_pylist()

    def without_frames(self) -> Iterator[Video]:
        """The videos that no frame can be read from, in order."""
        empty = ~((self.column("frames") > 0) & (self.column("fps") > 0))
        return (self.video(int(place)) for place in np.flatnonzero(empty))

    def missing(self) -> list[str]:
        """Local uris that are not there, of rows that were readable when they were indexed."""
        rows = zip(self._values("uri"), self._values("status"), strict=True)
        there: dict[str, bool] = {}

        def is_there(place: str) -> bool:  # many videos may lie in one file
            if place not in there:
                there[place] = is_remote(place) or local_path(place).exists()
            return there[place]

        return [
            uri for uri, status in rows if status != "unreadable" and not is_there(place_of(uri))
        ]

    def check_present(self) -> list[str]:
        """The videos that are gone; raises InputError when none is left at its place."""
        gone = self.missing()
        if gone and len(gone) == sum(status != "unreadable" for status in self._values("status")):
            raise InputError(
                f"{self.location} lists {len(gone)} videos and none is at its place "
                f"(first: {gone[0]}); were they moved? index the new folder again"
            )
        return gone


def _sorted_rows(table: pa.Table, keys: list[tuple[str, str]]) -> np.ndarray:
    """int32 [rows]: the rows of a table in the order of some columns; nulls are last."""
    order = pc.call_function("sort_indices", [table], pc.SortOptions(keys))
    return order.to_numpy().astype(np.int32)


LATER_COLUMNS = ("frame_times", "start_s", "end_s", "split", "extra")
"""Columns that indexes of earlier versions lack: there a rate is taken as constant, and a video is
a whole file."""


def completed(table: pa.Table) -> pa.Table:
    """An index, perhaps of an earlier version, with all columns in their order."""
    for name in LATER_COLUMNS:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
    return table.select(SCHEMA.names)


_SLICE = 10_000
"""Values of a column that are Python objects, or read, at a time."""
_CHUNK = 100_000
"""Values of a column that lie together in memory."""
_VIDEO_COLUMNS = tuple(name for name in Video.__slots__ if name != "roots")  # type: ignore[attr-defined]


def read_table(
    location: str, columns: Sequence[str], wanted: Sequence[str] | None = None
) -> pa.Table:
    """A Parquet table that must have these columns; of them, or of all, those that are wanted.

    Of an index of an earlier version, `LATER_COLUMNS` that it lacks are null.
    Raises InputError saying what is wrong.
    """
    path = location if is_remote(location) else local_path(location)
    if not is_remote(location) and not local_path(location).is_file():
        raise InputError(f"no such file: {location}")
    try:
        with _opened(path) as file:
            names = file.schema_arrow.names
        later = [name for name in LATER_COLUMNS if name in columns and name not in names]
        absent = [name for name in columns if name not in names and name not in later]
        if absent:
            raise InputError(
                f"{location} is not an index: it lacks {', '.join(absent)} "
                f"(it has {', '.join(names[:12])})"
            )
        table = _read_columns(path, [name for name in wanted or names if name not in later])
        for name in later if wanted is None else [name for name in later if name in wanted]:
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
        return table
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{location} is not a Parquet file: {error}") from error


def _read_columns(path: str | Path, names: Sequence[str]) -> pa.Table:
    """Columns of a Parquet file in little more memory than they need in the end.

    Arrow's reader leaves twice the room that values take, and `pq.read_table` holds the buffers of
    all columns at once; pieces that are copied together as they come are exact.
    """
    columns: dict[str, list[pa.Array]] = {name: [] for name in names}
    pool = pa.default_memory_pool()
    with _opened(path) as file:
        for name in names:
            pieces: list[pa.Array] = []
            kind = file.schema_arrow.field(name).type
            for batch in file.iter_batches(_SLICE, columns=[name], use_threads=False):
                pieces.append(batch.column(0))
                if sum(map(len, pieces)) >= _CHUNK:
                    columns[name].append(pa.concat_arrays(pieces))
                    pieces = []
            columns[name].append(pa.concat_arrays([*pieces, pa.nulls(0, kind)]))
            pool.release_unused()
        metadata = file.schema_arrow.metadata
    table = pa.table({name: pa.chunked_array(chunks) for name, chunks in columns.items()})
    return table.replace_schema_metadata(metadata)


def _opened(path: str | Path) -> pq.ParquetFile:
    if isinstance(path, Path):
        return pq.ParquetFile(path, buffer_size=2**20)
    return pq.ParquetFile(RangeFile(path), buffer_size=2**20)


def relative_name(path: Path, root: Path) -> str:
    """A file's name within its source, the same on every machine: POSIX, no leading `./`."""
    return path.relative_to(root).as_posix()
