"""Many labels of a frame at once: a table of states, matched to embedded frames by time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.labels import composed

KEYS = ("video_id", "time_s")
PICTURE = "picture"
"""Optional column: a text that two frames share when they are the same picture."""


@dataclass(frozen=True, slots=True)
class States:
    """values: int64 [n, K], the K labels of each embedded frame; names: `category/label` of each.
    picture: str [n], what the table's column of that name says, or None without one."""

    values: NDArray[np.int64]
    names: list[str]
    picture: NDArray[np.object_] | None

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> States:
        """Some of the frames."""
        picture = None if self.picture is None else self.picture[rows]
        return States(self.values[rows], self.names, picture)


def load_states(
    path: Path, embeddings: Embeddings, *, tolerance_s: float
) -> tuple[NDArray[np.int64], States]:
    """The embedded frames that have labels, int64 [n] rows of `embeddings`, and those labels.

    path: CSV or Parquet with the columns video_id, time_s, perhaps picture, and one of whole
    numbers for each label. A frame takes the row of its video that is nearest in time, up to
    `tolerance_s` away. Raises InputError when columns are missing or nothing matches.
    """
    table = _read(path)
    names = [name for name in table.column_names if name not in (*KEYS, PICTURE)]
    if missing := [key for key in KEYS if key not in table.column_names]:
        raise InputError(f"{path}: no column {', '.join(missing)}; a table of states has both")
    if not names:
        raise InputError(f"{path}: no label; every column beside {', '.join(KEYS)} is one")
    for name in names:
        if not pa.types.is_integer(table.schema.field(name).type):
            raise InputError(
                f"{path}: the label {name!r} holds {table.schema.field(name).type}; states are "
                "whole numbers (`marey eval linear` regresses fractional ones)"
            )
        if table.column(name).null_count:
            raise InputError(f"{path}: the label {name!r} is empty in some rows")
    video = np.array([composed(str(v)) for v in table.column("video_id").to_pylist()], object)
    time_s = table.column("time_s").to_numpy().astype(np.float64)
    source = np.full(len(embeddings), -1)
    for name in np.unique(embeddings.video_id.astype(str)):
        known = np.flatnonzero(video == composed(name))
        if not len(known):
            continue
        known = known[np.argsort(time_s[known], kind="stable")]
        rows = np.flatnonzero(embeddings.video_id == name)
        middle = (time_s[known][1:] + time_s[known][:-1]) / 2
        pick = known[np.searchsorted(middle, embeddings.time_s[rows])]
        near = np.abs(time_s[pick] - embeddings.time_s[rows]) <= tolerance_s
        source[rows[near]] = pick[near]
    rows = np.flatnonzero(source >= 0)
    if not len(rows):
        videos = ", ".join(sorted(set(embeddings.video_id.astype(str)))[:3])
        raise InputError(f"{path}: no row matches the embedded videos (e.g. {videos})")
    values = np.stack([table.column(name).to_numpy()[source[rows]] for name in names], axis=1)
    picture = None
    if PICTURE in table.column_names:
        picture = np.array(table.column(PICTURE).to_pylist(), dtype=object)[source[rows]]
    return rows, States(values.astype(np.int64), names, picture)


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"{path}: no such table of states (a CSV or Parquet file)")
    try:
        return pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a CSV or Parquet table: {error}") from error


def entropy(values: NDArray[np.int64]) -> float:
    """Of the distribution of the values [n], in nats."""
    _, counts = np.unique(values, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())
