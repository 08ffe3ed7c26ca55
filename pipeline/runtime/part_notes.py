"""What does each finished part say of itself? Read from Parquet footers, never from the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq

from marey.pipeline.runtime.storage import Folder

READERS = 16
"""Footers that are read at a time: a store answers in tens of milliseconds, and parts are many."""


def part_notes(folder: Folder, names: Sequence[str]) -> Iterator[dict[bytes, bytes]]:
    """The key-value notes in the footer of each part, in the order of the names.

    Raises InputError for a part that is not there.
    """

    def read(name: str) -> dict[bytes, bytes]:
        with folder.opened(name) as stream:
            return pq.read_schema(stream).metadata

    with ThreadPoolExecutor(min(READERS, max(1, len(names)))) as pool:
        yield from pool.map(read, names)
