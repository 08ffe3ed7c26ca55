"""What is said of a folder of embeddings, and where, so that readers of whole folders pass over it.

pandas and `pyarrow.dataset` read every file of a folder but those that begin with an underscore;
Polars reads all, and refuses a second kind of file. So the metadata are JSON in a Parquet file
without rows, which has the columns of the parts.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.runtime.storage import Folder

META = "_meta.parquet"
"""Written last: a folder without it is unfinished."""
KEY = b"marey"
"""Under which the JSON stands in the key-value metadata of the file."""
FORMAT = 2
"""Of what `marey embed` writes: 2 has `uri`, and `time_s` is when a frame is first shown."""
_META_BEFORE = "meta.json"
"""Of format 1, where `time_s` is the middle of the time that a frame is shown."""


def meta_name(folder: Folder) -> str:
    """The file that says that a folder is whole, as the version that made it has it."""
    return _META_BEFORE if folder.exists(_META_BEFORE) else META


def is_whole(folder: Folder) -> bool:
    """Whether `marey embed` finished this folder."""
    return folder.exists(META) or folder.exists(_META_BEFORE)


def write_meta(folder: Folder, meta: dict[str, Any], schema: pa.Schema) -> None:
    """Say of a folder whose parts have these columns that it is whole."""
    notes = {KEY: json.dumps(meta).encode()}
    buffer = io.BytesIO()
    pq.write_table(schema.with_metadata(notes).empty_table(), buffer)
    folder.write(META, buffer.getvalue())


def read_meta(folder: Folder) -> dict[str, Any]:
    """What `marey embed` says of a folder: encoder, data, rate, refusals; empty without a file.

    Raises InputError where the file is damaged, or of a newer marey.
    """
    if not is_whole(folder):
        return {}
    name = meta_name(folder)
    content = folder.read(name)
    try:
        if name == META:
            content = pq.read_schema(io.BytesIO(content)).metadata[KEY]
        meta = json.loads(content)
        number = int(meta.get("format", 1))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{folder.join(name)} is damaged ({error}): embed again") from error
    if number > FORMAT:
        raise InputError(
            f"{folder.location} holds embeddings in format {number}, of a newer marey; this one "
            f"reads up to {FORMAT}: update marey"
        )
    return meta
