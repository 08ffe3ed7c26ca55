"""By what can points be coloured: time, event, view, labels, and whatever else the rows say."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.labels import load_labels
from marey.pipeline.runtime.parquet import read_parquet
from marey.pipeline.runtime.storage import Folder

KNOWN = (
    "video_id", "uri", "event", "view", "start_s", "end_s", "extra", "frame", "time_s", "label",
    "copy", "embedding",
)  # fmt: skip
"""Columns of embeddings that are no further ones."""
MOST_CLASSES = 65_535


@dataclass(frozen=True, slots=True)
class Column:
    """One value a point.

    values: of numbers float32 [n], NaN where there is none; of classes uint16 [n], places in
    `names`, the last of which stands for none.
    """

    title: str
    values: NDArray[Any]
    names: tuple[str, ...] | None = None

    def about(self) -> dict[str, Any]:
        """What the page needs beside the values."""
        if self.names is not None:
            counts = np.bincount(self.values, minlength=len(self.names))
            return {"title": self.title, "names": self.names, "counts": counts.tolist()}
        known = self.values[np.isfinite(self.values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        return {"title": self.title, "low": low, "high": high}


def columns_of(location: str, embeddings: Embeddings, labels: str | None) -> list[Column]:
    """Time, event, view, video, the labels and every further column of the files.

    labels: as for `marey eval`; of JSON files and tables every attribute becomes a column.
    Raises InputError where labels fit no frame.
    """
    columns = []
    if len(np.unique(embeddings.video_id)) < len(embeddings):
        columns = [
            Column("time in the event", _share_of_event(embeddings)),
            Column("time (s)", embeddings.time_s.astype(np.float32)),
        ]
    for title, values in _labels(embeddings, labels):
        columns.append(column(title, values))
    for title in ("event", "view"):
        columns.append(column(title, getattr(embeddings, title)))
    if (embeddings.video_id != embeddings.event).any():
        columns.append(column("video", embeddings.video_id))
    columns += [column(title, values) for title, values in _further(location, embeddings)]
    return [one for one in columns if one.names is None or len(one.names) > 1 or len(columns) == 1]


def column(title: str, values: Any) -> Column:
    """A column of numbers where all known values are fractional or many, else of classes."""
    known = [value for value in values if value is not None and value == value]
    measured = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in known
    )
    if known and measured and (any(value % 1 for value in known) or len(set(known)) > 30):
        numbers = [np.nan if value is None else float(value) for value in values]
        return Column(title, np.array(numbers, np.float32))
    names = sorted({str(value) for value in known})[: MOST_CLASSES - 1]
    place = {name: number for number, name in enumerate(names)}
    missing = any(value is None or value != value for value in values)
    last = len(names)
    codes = [last if value is None or value != value else place.get(str(value), last)
             for value in values]  # fmt: skip
    if missing or max(codes, default=0) == last:
        names.append("none")
    return Column(title, np.array(codes, np.uint16), tuple(names))


def _share_of_event(embeddings: Embeddings) -> NDArray[np.float32]:
    """Each frame's time as a share of its event, [n] in [0, 1]. Rows are sorted by event."""
    names = embeddings.event
    starts = np.concatenate([[0], np.flatnonzero(names[1:] != names[:-1]) + 1]).astype(np.int64)
    lengths = np.diff(np.append(starts, len(names)))
    low = np.repeat(np.minimum.reduceat(embeddings.time_s, starts), lengths)
    high = np.repeat(np.maximum.reduceat(embeddings.time_s, starts), lengths)
    return ((embeddings.time_s - low) / np.maximum(high - low, 1e-9)).astype(np.float32)


def _labels(embeddings: Embeddings, labels: str | None) -> list[tuple[str, Any]]:
    if labels is None:
        return [] if embeddings.label is None else [("label", embeddings.label)]
    path = Path(labels)
    found = []
    for attribute in _attributes(path):
        values = load_labels(path, embeddings, attribute=attribute).values
        if not any(isinstance(value, tuple) for value in values):
            found.append((attribute, values))
    return found


def _attributes(path: Path) -> list[str]:
    """What a folder of JSON files, or a table, says of frames, by the first of them."""
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            frames = json.loads(file.read_text()).get("frames") or [{}]
            return sorted(frames[0])
        raise InputError(f"{path}: holds no .json file")
    if not path.exists():
        raise InputError(f"{path}: no such labels folder or table")
    if path.suffix == ".parquet":
        names = pq.read_schema(path).names
    else:
        names = pyarrow.csv.open_csv(path).schema.names
    return [name for name in names if name not in ("video_id", "time_s", "event", "view")]


def _further(location: str, embeddings: Embeddings) -> list[tuple[str, list[Any]]]:
    """The columns of the files that are no part of embeddings, for each row."""
    folder = Folder(location)
    if location.endswith(".parquet"):
        return []
    names = [f"parts/{name}" for name in folder.names("parts", ".parquet")]
    if not names:
        return []
    schema = pq.read_schema(io.BytesIO(folder.read(names[0])))
    more = [field.name for field in schema if field.name not in KNOWN and _is_plain(field.type)]
    if not more:
        return []
    keys = ["video_id", "frame", *(["copy"] if "copy" in schema.names else [])]
    values: dict[tuple[Any, ...], list[Any]] = {}
    for name in names:
        table = read_parquet(folder.read(name), [*keys, *more])
        columns = [table[column].to_pylist() for column in [*keys, *more]]
        for row in zip(*columns, strict=True):
            values[row[: len(keys)]] = list(row[len(keys) :])
    copies = [embeddings.copy.tolist()] if embeddings.copy is not None else []
    rows = zip(embeddings.video_id.tolist(), embeddings.frame.tolist(), *copies, strict=True)
    found = [values.get(row, [None] * len(more)) for row in rows]
    return [(name, [row[n] for row in found]) for n, name in enumerate(more)]


def _is_plain(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
    )
