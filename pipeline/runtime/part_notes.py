"""What does each finished part say of itself, and is it whole?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.runtime.seal import check_seal
from marey.pipeline.runtime.storage import Folder

READERS = 16
"""Parts that are read at a time: a store answers in tens of milliseconds, and parts are many."""


def part_notes(folder: Folder, names: Sequence[str]) -> Iterator[dict[bytes, bytes]]:
    """The key-value notes in the footer of each part, in the order of the names.

    Raises InputError for a part that is not there, or whose footer is damaged.
    """

    def read(name: str) -> dict[bytes, bytes]:
        with folder.opened(name) as stream:
            try:
                return pq.read_schema(stream).metadata
            except pa.ArrowException as error:
                raise InputError(f"{folder.join(name)} is damaged: {error}") from error

    with ThreadPoolExecutor(min(READERS, max(1, len(names)))) as pool:
        yield from pool.map(read, names)


def damaged_parts(folder: Folder, names: Sequence[str]) -> dict[str, str]:
    """Which of these parts are cut or altered, and what was found: reads each of them once."""

    def look(name: str) -> str:
        try:
            check_seal(folder.read(name), folder.join(name))
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(min(READERS, max(1, len(names)))) as pool:
        found = zip(names, pool.map(look, names), strict=True)
        return {name: fault for name, fault in found if fault}
