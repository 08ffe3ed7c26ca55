"""In which Parquet files does an index lie, and how are its columns read without holding all?

In one file, or in a folder of parts (`index_manifest`), whose rows follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.data import index_manifest
from marey.pipeline.data.index_manifest import AGAIN, is_index_folder, read_manifest
from marey.pipeline.runtime.range_file import RangeFile
from marey.pipeline.runtime.storage import Folder, is_remote, local_path, split

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
        ("scan", pa.string()),
        ("read_bytes", pa.int64()),
        ("requests", pa.int64()),
    ]
)
LATER_COLUMNS = (
    "frame_times", "start_s", "end_s", "split", "extra", "scan", "read_bytes", "requests",
)  # fmt: skip
"""Columns that indexes of earlier versions lack: there a rate is taken as constant, a video is a
whole file, and nothing is said of how it was read."""
SLICE = 10_000
"""Values of a column that are Python objects, or read, at a time."""
FEW = 4
"""So many columns of a part are read by ranges; of more, the part is fetched whole."""
_CHUNK = 100_000
"""Values of a column that lie together in memory."""


class IndexFiles:
    """The files of an index, of which columns are read when they are asked for.

    names: of the columns that it has, those of `LATER_COLUMNS` that its files lack among them.
    metadata: of its schema. num_rows: of all files.
    """

    def __init__(self, location: str) -> None:
        """Reads the first footer. Raises InputError where it is no index, saying what is wrong."""
        self.location = location
        parts = read_manifest(location) if is_index_folder(location) else []
        self._files: list[tuple[str, int | None]] = [
            (Folder(location).join(part.name), part.bytes) for part in parts
        ] or [(location, None)]
        with self._opened(0, whole=False) as file:
            there = file.schema_arrow.names
            self.metadata = file.schema_arrow.metadata
            first = file.metadata.num_rows
            sizes = _sizes(file)
        self.num_rows: int = sum(part.rows for part in parts) or first
        share = self.num_rows / max(1, first)
        self._sizes = {name: int(size * share) for name, size in sizes.items()}
        self._absent = [name for name in LATER_COLUMNS if name not in there]
        lacking = [name for name in SCHEMA.names if name not in (*there, *self._absent)]
        if lacking:
            raise InputError(
                f"{location} is not an index: it lacks {', '.join(lacking)} "
                f"(it has {', '.join(there[:12])})"
            )
        self.names = [*there, *self._absent]

    def nbytes(self, names: Sequence[str]) -> int:
        """What some columns take in memory, about: their encoded size before compression, where
        all parts are like the first."""
        return sum(self._sizes.get(name, 0) for name in names)

    def batches(self, names: Sequence[str], size: int = SLICE) -> Iterator[pa.RecordBatch]:
        """Some columns, so many rows at a time, in the order of the rows."""
        stored = [name for name in names if name not in self._absent]
        for number in range(len(self._files)):
            with self._opened(number, whole=len(names) > FEW) as file:
                for batch in _batches(file, stored, size):
                    columns = {
                        name: batch.column(name)
                        if name in stored
                        else pa.nulls(len(batch), SCHEMA.field(name).type)
                        for name in names
                    }
                    yield pa.RecordBatch.from_pydict(columns)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, in little more memory than it needs in the end.

        Arrow's reader leaves twice the room that values take; pieces that are copied together as
        they come are exact.
        """
        kind = SCHEMA.field(name).type if name in SCHEMA.names else None
        chunks: list[pa.Array] = []
        pieces: list[pa.Array] = []
        for batch in self.batches([name]):
            pieces.append(batch.column(0))
            kind = batch.column(0).type
            if sum(map(len, pieces)) >= _CHUNK:
                chunks.append(pa.concat_arrays(pieces))
                pieces = []
        chunks.append(pa.concat_arrays([*pieces, pa.nulls(0, kind)]))
        pa.default_memory_pool().release_unused()
        return pa.chunked_array(chunks)

    def table(self, names: Sequence[str]) -> pa.Table:
        """Some columns, whole, read one by one: the buffers of all at once would be twice that."""
        table = pa.table({name: self.column(name) for name in names})
        return table.replace_schema_metadata(self.metadata)

    @contextmanager
    def _opened(self, number: int, *, whole: bool) -> Iterator[pq.ParquetFile]:
        """One of the files. whole: most of it is going to be read, so that a part of an object
        store is fetched at once. Raises InputError for one that is not there, or is damaged."""
        path, size = self._files[number]
        remote = is_remote(path)
        if not remote and not local_path(path).is_file():
            lost = f"; {self.location} names it: {AGAIN}" if size is not None else ""
            raise InputError(f"no such file: {path}{lost}")
        try:
            target: Any = RangeFile(path) if remote else local_path(path)
            found = target.size if remote else target.stat().st_size
            if size is not None and found != size:
                raise InputError(
                    f"{path} is damaged: it has {found} bytes, {self.location} says {size}; {AGAIN}"
                )
            if remote and whole and size is not None:
                target = pa.BufferReader(target.fetch(0, found))
            with pq.ParquetFile(target, buffer_size=2**20) as file:
                yield file
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path} is not a Parquet file: {error}") from error


MADE_OF = b"marey.made_of"
"""Where an index of one file records what `marey index` made it of."""


def made_of(location: str) -> str | None:
    """What the index at a location records that it was made of; None where nothing is.

    Empty where it does not say, as what is no index does not.
    """
    if is_index_folder(location):
        return index_manifest.made_of(location)
    folder, name = split(location)
    if not name or not Folder(folder).exists(name):
        return None
    try:
        metadata = IndexFiles(location).metadata or {}
    except InputError:
        return ""
    return metadata.get(MADE_OF, b"").decode()


def completed(table: pa.Table) -> pa.Table:
    """An index, perhaps of an earlier version, with all columns in their order."""
    for name in LATER_COLUMNS:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
    return table.select(SCHEMA.names)


def read_table(location: str, wanted: Sequence[str] | None = None) -> pa.Table:
    """An index as a table: all columns, or those that are wanted.

    Of an index of an earlier version, `LATER_COLUMNS` that it lacks are null.
    Raises InputError saying what is wrong.
    """
    files = IndexFiles(location)
    return files.table(files.names if wanted is None else wanted)


def _batches(file: pq.ParquetFile, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    """Row group by row group: asked for all at once, Arrow holds what it has read to the end."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(size, row_groups=[group], columns=names, use_threads=False)


def _sizes(file: pq.ParquetFile) -> dict[str, int]:
    """Bytes of each column of a file, encoded and not compressed."""
    sizes: dict[str, int] = {}
    for group in range(file.metadata.num_row_groups):
        about = file.metadata.row_group(group)
        for number in range(about.num_columns):
            column = about.column(number)
            name = column.path_in_schema.partition(".")[0]
            sizes[name] = sizes.get(name, 0) + column.total_uncompressed_size
    return sizes
