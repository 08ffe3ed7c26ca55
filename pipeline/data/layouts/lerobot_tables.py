"""What a LeRobot data set measured beside its videos: states and actions, frame by frame."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError, SettingError
from marey.pipeline.data.layouts.file_search import listed_files

DEFAULT = "observation.state"
"""The column that is read where none is named."""
_KEYS = ("episode_index", "timestamp")


def measured(
    root: Path, column: str, episodes: Collection[int]
) -> dict[int, tuple[np.ndarray, list]]:
    """For each of the episodes: float64 [n] seconds from its start, and n values of a column.

    Raises SettingError for a column that is not there, InputError for tables that cannot be read.
    """
    found: dict[int, tuple[np.ndarray, list]] = {}
    for _, location in listed_files(str(root / "data"), (".parquet",)):
        try:
            names = pq.read_schema(location).names
            if column not in names:
                raise SettingError(
                    f"{location}: has no column {column!r}; there are {', '.join(sorted(names))}"
                )
            table = pq.read_table(location, columns=[*_KEYS, column])
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{location}: cannot be read ({error})") from error
        number = table["episode_index"].to_numpy()
        time_s = table["timestamp"].to_numpy().astype(np.float64)
        for episode in np.intersect1d(number, list(episodes)).tolist():
            rows = np.flatnonzero(number == episode)
            rows = rows[np.argsort(time_s[rows], kind="stable")]
            values = table[column].take(pa.array(rows)).to_pylist()
            found[episode] = time_s[rows], values
    return found
