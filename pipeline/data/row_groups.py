"""Which bytes stand in one row of a large Parquet file? Read row group by row group, few kept.

A Parquet file can only be read a row group at a time. The groups read last stay in memory, so that
readers whose rows lie near each other (see `IMAGE_CHUNK` of `stream.plan`) read each group once.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import OrderedDict
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.runtime.range_file import RangeFile
from marey.pipeline.runtime.storage import is_remote, local_path

KEEP_BYTES = 256 * 2**20
"""Row groups are kept while they hold at most so much."""
KEEP_GROUPS = 3
"""Row groups that are kept whatever they hold: 1024 neighbouring rows lie in as many groups of
1000. A file of one row group is held whole from its first row on."""
BATCH_BYTES = 64 * 2**20
"""A group is read in batches of about this size: an Arrow array ends at 2 GiB, a group need not."""

READ_BYTES = 4 * 2**20
"""A local file is read so much at a time; without a bound, a group's whole column is."""


class RowGroups:
    """A column of bytes (binary, or a struct with `bytes`) by row; safe to share among threads.

    schema: of the whole file. num_rows: of the whole file.
    """

    def __init__(self, location: str, column: str) -> None:
        """Opens the file and reads its footer. Raises InputError when the column is no such one."""
        self.location = location
        self._name = column
        self._file = _open(location)
        self.schema: pa.Schema = self._file.schema_arrow
        self._path = self._check(column)
        about = self._file.metadata
        self.num_rows: int = about.num_rows
        groups = [about.row_group(n) for n in range(about.num_row_groups)]
        self._starts = _starts([group.num_rows for group in groups])
        self._held: OrderedDict[int, _Group] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[RowGroups], tuple[str, str]]:
        return RowGroups, (self.location, self._name)

    def _check(self, column: str) -> str:
        kind = self.schema.field(column).type
        path = column
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, path = kind.field("bytes").type, f"{column}.bytes"
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"{self.location}: column `{column}` must hold encoded images (binary, or a "
                f"struct with `bytes`), not {kind}"
            )
        return path

    def column(self, name: str) -> pa.ChunkedArray:
        """Another column of the file, whole: for short values."""
        with self._lock:
            return self._file.read(columns=[name]).column(name)

    def value(self, row: int) -> bytes | None:
        """The bytes of a row; None where there are none.

        Raises IndexError for a row that the file does not have, OSError or ValueError (of which
        `pa.ArrowInvalid` is one) where the file is damaged.
        """
        if not 0 <= row < self.num_rows:
            raise IndexError(f"row {row} of {self.num_rows}")
        number = bisect_right(self._starts, row) - 1
        with self._lock:
            group = self._held.get(number)
            if group is None:
                group = self._held[number] = self._read(number)
                while len(self._held) > KEEP_GROUPS and self._held_bytes() > KEEP_BYTES:
                    self._held.popitem(last=False)
            self._held.move_to_end(number)
        return group.value(row - self._starts[number])

    def _held_bytes(self) -> int:
        return sum(group.nbytes for group in self._held.values())

    def _read(self, number: int) -> _Group:
        about = self._file.metadata.row_group(number)
        columns = [about.column(n) for n in range(about.num_columns)]
        stored = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == self._path)
        rows = max(1, about.num_rows * BATCH_BYTES // max(1, stored))
        batches = self._file.iter_batches(
            min(rows, max(1, about.num_rows)), [number], columns=[self._path], use_threads=False
        )
        arrays = [batch.column(0) for batch in batches]
        return _Group([a.field("bytes") if pa.types.is_struct(a.type) else a for a in arrays])


class _Group:
    """The values of one row group, in as many arrays as it was read in."""

    def __init__(self, arrays: list[pa.Array]) -> None:
        self._arrays = arrays
        self._starts = _starts([len(array) for array in arrays])
        self.nbytes = sum(array.nbytes for array in arrays)

    def value(self, row: int) -> bytes | None:
        part = bisect_right(self._starts, row) - 1
        return self._arrays[part][row - self._starts[part]].as_py()


def _starts(lengths: list[int]) -> list[int]:
    """Where each of a row of runs begins; empty runs begin where the next does."""
    return [0, *itertools.accumulate(lengths)][:-1]


def _open(location: str) -> pq.ParquetFile:
    try:
        if not is_remote(location):
            return pq.ParquetFile(local_path(location), buffer_size=READ_BYTES)
        return pq.ParquetFile(RangeFile(location), pre_buffer=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{location} is not a Parquet file: {error}") from error
