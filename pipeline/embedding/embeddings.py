"""What frame embeddings are in memory, read from a folder of Parquet parts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.pipeline.embedding.folder_meta import META, read_meta
from marey.pipeline.runtime.parquet import read_parquet
from marey.pipeline.runtime.seal import check_seal
from marey.pipeline.runtime.storage import Folder

_REQUIRED = ("video_id", "event", "view", "frame", "time_s", "embedding")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """n frames and their vectors, sorted by event, view, video and time.

    video_id, event, view: str [n]; frame: int64 [n]; time_s: float64 [n]; features: float32 [n, D];
    label: object [n] where the source was a labelled table, else None; copy: int64 [n], the number
    of the changed copy of its frame, where copies were embedded, else None; uri: object [n], where
    each frame's video (or image) lies, None of embeddings that do not say; meta: see `folder_meta`.
    """

    video_id: NDArray[np.object_]
    event: NDArray[np.object_]
    view: NDArray[np.object_]
    frame: NDArray[np.int64]
    time_s: NDArray[np.float64]
    features: NDArray[np.float32]
    label: NDArray[np.object_] | None = None
    copy: NDArray[np.int64] | None = None
    uri: NDArray[np.object_] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: NDArray[Any]) -> Embeddings:
        """The rows of an integer or boolean index."""
        rows = {
            name: getattr(self, name)[index]
            for name in ("video_id", "event", "view", "frame", "time_s", "features")
        }
        for name in ("label", "copy", "uri"):
            values = getattr(self, name)
            rows[name] = None if values is None else values[index]
        return replace(self, **rows)


def load_embeddings(location: str | Path) -> Embeddings:
    """Read an embeddings folder (a path or URI, as `marey embed` writes it) or one Parquet file.

    Repeated (video_id, frame, copy) rows, which a restarted job may leave, are read once. Raises
    InputError when there is none, it is unfinished, columns are missing or a value is not finite.
    """
    path = str(location)
    tables, meta = _read(path)
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: its files do not belong together: {error}") from error
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; "
            f"an embeddings table has {', '.join(_REQUIRED)}"
        )
    if not table.num_rows:
        raise InputError(f"{path}: holds no frame")
    features = _matrix(table.column("embedding"), path)
    text = {name: _text(table.column(name)) for name in ("video_id", "event", "view")}
    frame = table.column("frame").to_numpy().astype(np.int64)
    time_s = table.column("time_s").to_numpy().astype(np.float64)
    label = None
    if "label" in table.column_names:
        label = _labels(table.column("label"))
    copy = None
    if "copy" in table.column_names:
        copy = table.column("copy").to_numpy().astype(np.int64)
    uri = _text(table.column("uri")) if "uri" in table.column_names else None
    number = np.zeros(len(frame), np.int64) if copy is None else copy
    order = np.lexsort((number, frame, time_s, text["video_id"], text["view"], text["event"]))
    keys = list(zip(text["video_id"][order], frame[order], number[order], strict=True))
    first = np.array([i == 0 or key != keys[i - 1] for i, key in enumerate(keys)])
    rows = Embeddings(
        **text, frame=frame, time_s=time_s, features=features, label=label, copy=copy, uri=uri,
        meta=meta,
    )  # fmt: skip
    return rows.take(order[first])


def _read(path: str) -> tuple[list[pa.Table], dict[str, Any]]:
    """The tables of a location, and its metadata."""
    folder = Folder(path)
    if not folder.exists():
        raise InputError(f"{path}: no such embeddings folder or Parquet file")
    if path.endswith(".parquet"):
        parent, _, name = path.replace("\\", "/").rpartition("/")
        folder = Folder(parent or ".")
        names = [name]
    else:
        names = [name for name in folder.names(suffix=".parquet") if name != META]
        names += [f"parts/{name}" for name in folder.names("parts", ".parquet")]
    meta = read_meta(folder)
    if not meta and folder.exists("unfinished.json"):
        raise InputError(f"{path}: unfinished embeddings; run the same `marey embed` again")
    if not names:
        raise InputError(f"{path}: holds no Parquet file, so it is no embeddings folder")
    try:
        tables = [_table(folder, name) for name in names]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error
    return tables, meta


def _table(folder: Folder, name: str) -> pa.Table:
    content = folder.read(name)
    try:
        check_seal(content, folder.join(name))
    except InputError as error:
        raise InputError(f"{error}; the same `marey embed` makes it again") from error
    return read_parquet(content)


def _labels(column: pa.ChunkedArray) -> NDArray[np.object_] | None:
    """Labels with None where there is none (null, NaN or, for class numbers, -1)."""
    values = [None if value == -1 or value != value else value for value in column.to_pylist()]
    if all(value is None for value in values):
        return None
    labels = np.empty(len(values), dtype=object)
    labels[:] = values
    return labels


def _text(column: pa.ChunkedArray) -> NDArray[np.object_]:
    values = column.to_pylist()
    return np.array(["" if value is None else str(value) for value in values], dtype=object)


def _matrix(column: pa.ChunkedArray, path: str) -> NDArray[np.float32]:
    flat = column.combine_chunks()
    if isinstance(flat, pa.ChunkedArray):
        flat = pa.concat_arrays(flat.chunks)
    if flat.null_count:
        raise InputError(f"{path}: {flat.null_count} rows have no embedding")
    if pa.types.is_fixed_size_list(flat.type):
        width = flat.type.list_size
    elif pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type):
        widths = np.unique(np.diff(flat.offsets.to_numpy()))
        if len(widths) != 1:
            raise InputError(f"{path}: embeddings of several lengths: {widths.tolist()}")
        width = int(widths[0])
    else:
        raise InputError(f"{path}: the embedding column is {flat.type}, not a list of floats")
    values = flat.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    features = values.reshape(-1, width)
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise InputError(
            f"{path}: {int(broken.sum())} of {len(features)} embeddings hold NaN or infinity"
        )
    return features
