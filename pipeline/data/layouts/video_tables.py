"""Videos in Parquet tables as Hugging Face `datasets` writes them, each read in place.

A column of videos is a struct of `bytes` and `path`; what else the columns are stands in the file's
metadata under `huggingface`. Several columns of videos are views of one event: the table's row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.data.layouts.archive_members import open_archive
from marey.pipeline.data.layouts.file_search import listed_files, only_holds
from marey.pipeline.data.layouts.parquet_values import locate_values
from marey.pipeline.data.listing import Listed, register_listing
from marey.pipeline.runtime.address import ByteRange
from marey.pipeline.runtime.storage import is_remote, join, local_path, split

LABEL_COLUMNS = ("label", "class")
"""Columns that name a class where none is a `ClassLabel`."""


def is_video_table(source: str) -> bool:
    """Whether the first Parquet file at a location says that it has a column of videos."""
    if not only_holds(source, (".parquet",)):
        return False
    try:
        _, location = next(listed_files(source, (".parquet",)), ("", ""))
        if not location:
            return False
        with open_archive(location) as file:
            return bool(_video_columns(pq.ParquetFile(file)))
    except (InputError, OSError, ValueError, pa.ArrowException):
        return False


def list_tables(source: str) -> Iterator[Listed]:
    """The videos of tables, by `FILE/ROW`, and `FILE/ROW/COLUMN` where there are several."""
    for name, location in listed_files(source, (".parquet",)):
        try:
            with open_archive(location) as file:
                yield from _rows(name, location, file, pq.ParquetFile(file))
        except (InputError, OSError, ValueError, pa.ArrowException) as error:
            yield Listed(name, location, error=f"{name}: cannot be read on ({error})")


def _rows(name: str, location: str, file: BinaryIO, table: pq.ParquetFile) -> Iterator[Listed]:
    columns = _video_columns(table)
    if not columns:
        yield Listed(name, location, error=f"{name}: has no column of videos")
        return
    leaves = {table.schema.column(n).path: n for n in range(len(table.schema.names))}
    labels = _labels(table)
    first = 0
    for group in range(table.num_row_groups):
        about = _others(table, group, columns)
        for column in columns:
            paths = table.read_row_group(group, [f"{column}.path"]).column(0).to_pylist()
            try:
                places = list(locate_values(file, table, leaves[f"{column}.bytes"], group))
                fault = ""
            except InputError as error:
                places, fault = [None] * len(paths), f"column {column}: {error}"
            for n, (place, value) in enumerate(zip(places, paths, strict=True)):
                path = (value or {}).get("path") or ""
                row = f"{name}/{first + n:08d}"
                several = len(columns) > 1
                video = f"{row}/{column}" if several else row
                uri, size = location, 0
                if place:
                    part = ByteRange(
                        location, place.start, place.size, PurePosixPath(path).suffix, place.packed
                    )
                    uri, size = part.uri, place.size
                elif path and not fault:  # the table names a file and does not hold it
                    uri = _beside(location, path)
                else:
                    fault = fault or "the row holds no video"
                extra = about[n] | ({"path": path} if path else {})
                yield Listed(
                    video, uri, size,
                    event=row if several else "", view=column if several else "0",
                    label=labels[first + n], extra=extra,
                    error="" if place or (path and not fault) else f"{video}: {fault}",
                )  # fmt: skip
        first += table.metadata.row_group(group).num_rows


def _others(table: pq.ParquetFile, group: int, videos: list[str]) -> list[dict[str, Any]]:
    """For each row of a group, the columns of numbers and text that it has beside its videos."""
    names = [
        field.name
        for field in table.schema_arrow
        if field.name not in videos
        and (pa.types.is_string(field.type) or pa.types.is_primitive(field.type))
    ]
    return (
        table.read_row_group(group, names).to_pylist()
        if names
        else [{}] * (table.metadata.row_group(group).num_rows)
    )


def _beside(location: str, path: str) -> str:
    """The location of a path that a table names, relative to the table."""
    if is_remote(path):
        return path
    folder, _ = split(location)
    return join(folder, path) if is_remote(location) else str(local_path(folder) / path)


def _features(table: pq.ParquetFile) -> dict[str, Any]:
    """What `datasets` says of each column; {} in a file that it has not written."""
    try:
        return json.loads((table.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}


def _video_columns(table: pq.ParquetFile) -> list[str]:
    """Columns of videos: those that the metadata call so, else structs of bytes called `video`."""
    features = _features(table)
    structs = [
        field.name
        for field in table.schema_arrow
        if pa.types.is_struct(field.type)
        and {"bytes", "path"} <= {field.type.field(n).name for n in range(field.type.num_fields)}
    ]
    said = [name for name in structs if (features.get(name) or {}).get("_type") == "Video"]
    return said or [name for name in structs if name == "video" and name not in features]


def _labels(table: pq.ParquetFile) -> list[str]:
    """The class of each row, in words where the metadata have them."""
    features = _features(table)
    named = [name for name, about in features.items() if _type(about) == "ClassLabel"]
    plain = [name for name in LABEL_COLUMNS if name in table.schema_arrow.names]
    column = next((name for name in [*plain, *named] if name in named), next(iter(plain), None))
    if column is None:
        return [""] * table.metadata.num_rows
    values = table.read([column]).column(0).to_pylist()
    names = features.get(column, {}).get("names") if column in named else None
    return [_class_name(value, names) for value in values]


def _type(about: Any) -> str:
    return about.get("_type", "") if isinstance(about, dict) else ""


def _class_name(value: Any, names: list[str] | None) -> str:
    if value is None or value == -1:
        return ""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


register_listing("huggingface", is_video_table, list_tables)
