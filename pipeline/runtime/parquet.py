"""How is a Parquet file that is in memory read, so that nothing of it outlives the call?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(source: bytes | IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a file's bytes, or of an open file, read by the calling thread alone.

    `pq.read_table` reads in Arrow's threads, which may let go of the Python object a moment after
    it has returned. One that does so while Python ends takes the process down, after all is done
    ("terminate called without an active exception", apache/arrow issue 34314).
    Raises `pa.ArrowInvalid` or OSError where the file is damaged.
    """
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(opened, pre_buffer=False) as file:
        return file.read(list(columns) if columns else None, use_threads=False)
