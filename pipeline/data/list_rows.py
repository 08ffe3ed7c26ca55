"""How are the rows of a table read, whatever kind of file it is in? As dictionaries, with their
places for messages."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.runtime.storage import Folder, is_remote, local_path, split

Row = dict[str, Any]
SEGMENTS = ("annotations", "segments", "clips", "annotation")
"""Fields of a JSON object that hold the parts of its video, a row each."""
PAIRS = ("segment", "timestamps", "timestamp")
"""Fields that hold [start, end]."""


def rows_of_file(location: str, rows_at: str = "") -> Iterator[tuple[str, Row]]:
    """The rows of a table, and where each stands. Raises InputError for what cannot be read.

    rows_at: for JSON, where the rows are: names joined by dots.
    """
    suffix = PurePosixPath(location.partition("?")[0]).suffix.lower()
    if not is_remote(location) and not local_path(location).is_file():
        raise InputError(f"no such file: {location}")
    folder, name = split(location)
    content = Folder(folder).read(name)
    if suffix == ".parquet":
        yield from _parquet(content, location)
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{location} is no UTF-8 text: {error}") from error
    if suffix == ".json":
        yield from _json(text, location, rows_at)
    else:
        yield from _TEXTS[suffix](text, location)


def _csv(text: str, location: str, delimiter: str = ",") -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = list(reader.fieldnames or ())
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{location} has the column {', '.join(sorted(twice))} twice")
    for row in reader:
        place = f"line {reader.line_num}"
        if None in row or None in row.values():
            raise InputError(f"{location}, {place}: has other cells than the header's {len(names)}")
        yield place, row


def _tsv(text: str, location: str) -> Iterator[tuple[str, Row]]:
    return _csv(text, location, "\t")


def _words(text: str, location: str) -> Iterator[tuple[str, Row]]:
    """Lines of a path and perhaps a label; a path with spaces in quotes."""
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise InputError(f"{location}, line {number}: {error}") from error
        if len(words) > 2:
            raise InputError(
                f"{location}, line {number}: has {len(words)} words where `path` or `path label` "
                "is understood; quote paths with spaces, or give a CSV with a header"
            )
        if words:
            yield f"line {number}", dict(zip(("path", "label"), words, strict=False))


def _json_lines(text: str, location: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield from _objects(_parsed(line, f"{location}, line {number}"), f"line {number}")


def _json(text: str, location: str, rows_at: str) -> Iterator[tuple[str, Row]]:
    value = _parsed(text, location)
    for name in filter(None, rows_at.split(".")):
        if not isinstance(value, dict) or name not in value:
            there = f" (it has {', '.join(value)})" if isinstance(value, dict) else ""
            raise InputError(f"{location}: nothing is at {rows_at}{there}")
        value = value[name]
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _objects(item, f"item {number}")
        return
    if not isinstance(value, dict) or not all(isinstance(v, dict | list) for v in value.values()):
        there = f" (it has {', '.join(value)})" if isinstance(value, dict) else ""
        raise InputError(
            f"{location}: neither a list of rows nor videos by name{there}: say where they are "
            "with --rows-at NAME.NAME"
        )
    for name, item in value.items():
        row = {"segments": item} if isinstance(item, list) else item
        yield from _objects({"video": name, **row}, f"at {name!r}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: is no JSON: {error}") from error


def _objects(item: Any, place: str) -> Iterator[tuple[str, Row]]:
    """A row, or one for each of the parts that it lists."""
    if not isinstance(item, dict):
        raise InputError(f"{place}: is no JSON object: {str(item)[:80]}")
    for name in SEGMENTS:
        parts = item.get(name)
        if isinstance(parts, list) and all(isinstance(part, dict | list) for part in parts):
            rest = {key: value for key, value in item.items() if key != name}
            for number, part in enumerate(parts):
                own = {"segment": part} if isinstance(part, list) else part
                yield f"{place}, {name} {number}", _with_times({**rest, **own})
            return
    yield place, _with_times(item)


def _with_times(row: Row) -> Row:
    for name in PAIRS:
        pair = row.get(name)
        if isinstance(pair, list) and len(pair) == 2:
            rest = {key: value for key, value in row.items() if key != name}
            return {**rest, "start": pair[0], "end": pair[1]}
    return row


def _parquet(content: bytes, location: str) -> Iterator[tuple[str, Row]]:
    try:
        file = pq.ParquetFile(io.BytesIO(content))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{location} is not a Parquet file: {error}") from error
    number = 0
    for batch in file.iter_batches(10_000):
        for row in batch.to_pylist():
            yield f"row {number}", row
            number += 1


_TEXTS: dict[str, Callable[[str, str], Iterator[tuple[str, Row]]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _words,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
"""How text is read, by the ending of the file."""
SUFFIXES = frozenset([*_TEXTS, ".json", ".parquet"])
"""Endings of the files that are read."""
