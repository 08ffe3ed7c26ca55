"""How does an index become bytes: one file, or a folder of parts that its manifest names?"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from marey.pipeline.data.index_manifest import IndexPart, part_of, write_manifest
from marey.pipeline.runtime.roots import places_of
from marey.pipeline.runtime.seal import sealed
from marey.pipeline.runtime.storage import Folder

ROWS = 10_000
"""Rows of a part: about 10 MB, one request to an object store."""


def write_parts(
    tables: Iterable[pa.Table], schema: pa.Schema, location: str, made_of: str | None = None
) -> None:
    """Write an index into a folder, in parts of `ROWS` rows, its manifest last.

    tables: with the columns of `SCHEMA`. made_of: for the manifest, since parts are to stay as they
    are when others come. Memory: one part, and 60 bytes an event. A part that is
    there already stays as it is; those of the index before go when the manifest stands.
    """
    folder = Folder(location)
    folder.sweep()
    parts: list[IndexPart] = []
    events: set[int] = set()
    for table in _of_size(tables, schema):
        content = sealed(file_content([table], schema, ROWS))
        frames = int(np.nansum(table["frames"].to_numpy()))
        seconds = float(np.nansum(table["duration_s"].to_numpy()))
        part = part_of(len(parts), content, len(table), frames, seconds)
        if folder.size(part.name) != part.bytes:
            folder.write(part.name, content)
        parts.append(part)
        events.update(map(hash, table["event"].to_pylist()))
    write_manifest(location, parts, len(events), places_of(schema.metadata), made_of)


def _of_size(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in tables of `ROWS`, the last one shorter; one without rows where there are
    none."""
    held: list[pa.Table] = []
    count = given = 0
    for table in tables:
        held.append(table)
        count += len(table)
        while count >= ROWS:
            joined = pa.concat_tables(held)
            yield joined.slice(0, ROWS)
            held, count, given = [joined.slice(ROWS)], count - ROWS, given + 1
    if count or not given:
        yield pa.concat_tables(held) if held else schema.empty_table()


def file_content(tables: Iterable[pa.Table], schema: pa.Schema, group: int) -> bytes:
    """A Parquet file of tables, in row groups of so many rows at most."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=group)
    return buffer.getvalue()
