"""Where do the rows of an index wait until somebody asks for them, and how do they become videos?

A process that plans sees each row once, one that makes units of work sees few at a time, in any
order: neither holds those of a large index. They wait in a file of this machine's own.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from threading import Lock
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from marey.configs.errors import MareyError
from marey.pipeline.data.events import Video
from marey.pipeline.runtime.roots import Roots
from marey.pipeline.video.frame_clock import FrameClock

VIDEO_COLUMNS = tuple(name for name in Video.__slots__ if name != "roots")  # type: ignore[attr-defined]
"""What a video is made of, in its order."""
BATCH = 64
"""Rows that are read together: about 64 KB."""
KEPT_BATCHES = 32
"""Batches that stay in memory: one a camera, where each has a folder and events go across."""


class Rows(Protocol):
    """The columns `VIDEO_COLUMNS` of an index, row by row."""

    def take(self, rows: np.ndarray) -> pa.Table:
        """The rows with these numbers, int64 [n], in their order."""
        ...


class HeldRows:
    """Rows in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.select(VIDEO_COLUMNS)

    def take(self, rows: np.ndarray) -> pa.Table:
        """See `Rows`."""
        if len(rows) == 1:  # without a copy
            return self._table.slice(int(rows[0]), 1)
        return self._table.take(pa.array(rows))


class SpooledRows:
    """Rows in a file without a name in this machine's temporary folder, gone with the process.

    As large as the columns are in memory. Safe to share among threads.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        """batches: of `BATCH` rows each, but for the last of a file of the index.

        Raises MareyError where the temporary folder has no room.
        """
        self._file = tempfile.TemporaryFile(prefix="marey-rows-")  # noqa: SIM115
        self._schema: pa.Schema | None = None
        ends, places = [0], [0]
        for batch in batches:
            self._schema = batch.schema
            content = batch.serialize()
            self._write(content)
            ends.append(ends[-1] + len(batch))
            places.append(places[-1] + len(content))
        self._write(b"")
        self._ends = np.array(ends, dtype=np.int64)
        self._places = np.array(places, dtype=np.int64)
        self._held: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        self._lock = Lock()

    def _write(self, content: Any) -> None:
        try:
            self._file.write(content)
            if not len(content):
                self._file.flush()
        except OSError as error:
            place, why = tempfile.gettempdir(), error.strerror
            raise MareyError(
                f"{place} has no room for the rows of the index ({why}); set TMPDIR to a folder "
                "that has"
            ) from error

    def take(self, rows: np.ndarray) -> pa.Table:
        """See `Rows`."""
        numbers = np.searchsorted(self._ends, rows, side="right") - 1
        wanted, which = np.unique(numbers, return_inverse=True)
        batches = [self._batch(int(number)) for number in wanted]
        starts = np.cumsum([0, *map(len, batches)])[:-1]
        within = starts[which] + rows - self._ends[numbers]
        return pa.Table.from_batches(batches, self._schema).take(pa.array(within))

    def _batch(self, number: int) -> pa.RecordBatch:
        with self._lock:
            if (held := self._held.get(number)) is not None:
                self._held.move_to_end(number)
                return held
        start, stop = self._places[number : number + 2].tolist()
        content = os.pread(self._file.fileno(), stop - start, start)
        batch = pa.ipc.read_record_batch(pa.py_buffer(content), self._schema)
        with self._lock:
            self._held[number] = batch
            while len(self._held) > KEPT_BATCHES:
                self._held.popitem(last=False)
        return batch


def videos_of(table: pa.Table, roots: Roots | None) -> list[Video]:
    """The videos of rows of `VIDEO_COLUMNS`, column by column: a plan makes those of all rows."""
    columns: dict[str, list[Any]] = {}
    for name in VIDEO_COLUMNS:
        column = table.column(name)
        columns[name] = _LISTS[name](column) if name in _LISTS else _plain(column)
    columns["split"] = [value or "" for value in columns["split"]]
    columns["roots"] = [roots] * len(table)
    videos = [object.__new__(Video) for _ in range(len(table))]
    # into the slots, as the initialiser does, but column by column: a third of the time
    for name, values in columns.items():
        deque(map(getattr(Video, name).__set__, videos, values), maxlen=0)
    return videos


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column of numbers or text as Python objects; None for null."""
    if column.null_count == len(column):
        return [None] * len(column)
    if column.null_count:
        return column.to_pylist()
    return column.to_numpy().tolist()


def _pieces(column: pa.ChunkedArray) -> Iterator[tuple[pa.Array, list[tuple[int, int]]]]:
    """Values of a column of lists, and which [start, stop) of them each row has."""
    for chunk in column.chunks:
        edges = chunk.offsets.to_numpy().tolist()
        yield chunk.values, list(pairwise(edges))


def _profiles(column: pa.ChunkedArray) -> list[np.ndarray]:
    """float32 [values] of each row; empty where there is none."""
    profiles = []
    for values, spans in _pieces(column):
        whole = values.to_numpy(zero_copy_only=False)
        profiles += [whole[a:b] for a, b in spans]
    return profiles


def _tuples(column: pa.ChunkedArray) -> list[tuple[float, ...]]:
    rows = []
    for values, spans in _pieces(column):
        whole = values.to_numpy(zero_copy_only=False).tolist()
        rows += [tuple(whole[a:b]) for a, b in spans]
    return rows


def _clocks(column: pa.ChunkedArray) -> list[FrameClock | None]:
    if column.null_count == len(column):
        return [None] * len(column)
    clocks: list[FrameClock | None] = []
    for values, spans in _pieces(column):
        numbers = values.field("frame").to_numpy(zero_copy_only=False)
        times_s = values.field("time_s").to_numpy(zero_copy_only=False)
        clocks += [
            FrameClock(numbers[a:b].astype(np.int64), times_s[a:b].astype(np.float64))
            if b > a
            else None
            for a, b in spans
        ]
    return clocks


_LISTS = {"motion": _profiles, "cuts": _tuples, "frame_times": _clocks}
