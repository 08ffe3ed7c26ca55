"""The labels of embedded frames: from JSON files, from a table, or from the source.

Four forms are read:
- a LeRobot data set: a column of its tables (`attribute=action`; by default `observation.state`);
- a folder of `<event>.json` files, each {"fps", "phases", "frames": [{"phase": 2, ...}, ...]}:
  entry n holds from n / fps seconds on; without fps it is that of the video's frame n, as labels of
  videos whose rate varies have to be written;
- a CSV or Parquet table with the columns video_id, time_s, label: the row nearest in time holds,
  up to `tolerance_s` away; where it is empty or NaN, the frame has no label;
- the `label` column of the embeddings, where their source was a labelled image table.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from marey.configs.errors import InputError, SettingError
from marey.pipeline.data.layouts.lerobot import is_lerobot
from marey.pipeline.data.layouts.lerobot_tables import DEFAULT, measured
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.runtime.storage import is_companion

_EPISODE = re.compile(r"episode_(\d+)$")
"""What an episode of a LeRobot data set is called in an index."""


@dataclass(frozen=True, slots=True)
class Labels:
    """One value per frame: `values` object [n], None where a frame has no label."""

    values: NDArray[np.object_]
    source: str

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which frames have a label, bool [n]."""
        return np.array([value is not None for value in self.values], dtype=bool)

    def numeric(self) -> NDArray[np.float64] | None:
        """The known values as float64 [m, K] regression targets; None where they are classes.

        Numbers are targets when they are fractional or come in lists; whole numbers are classes.
        """
        values = list(self.values[self.known])
        if not values or isinstance(values[0], str):
            return None
        try:
            table = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            return None
        if table.ndim == 1:
            if np.all(table == np.round(table)):
                return None
            table = table[:, None]
        return table


def encode_classes(values: NDArray[np.object_]) -> tuple[NDArray[np.int64], list[str]]:
    """Class numbers int64 [n] and the names they stand for, in order (numbers by value).

    Names that differ in their Unicode form only are one class, and so are 3 and "3" where all names
    are whole numbers. Raises InputError for regression targets: lists and fractional numbers.
    """
    if any(map(_is_target, values.tolist())):
        raise InputError(
            "these labels are lists or fractional numbers, not classes; `marey eval linear` "
            "regresses such targets"
        )
    named = _alike(values.tolist())
    keys = sorted(set(named), key=lambda key: (isinstance(key, str), key))
    number = {key: index for index, key in enumerate(keys)}
    return np.array([number[key] for key in named], np.int64), [str(key) for key in keys]


def composed(name: str) -> str:
    """A name in Unicode's composed form: some file systems and programs decompose letters."""
    return unicodedata.normalize("NFC", name)


def _alike(values: list[Any]) -> list[Any]:
    """Labels of which those that mean the same are equal: tables have 3 where others have "3"."""
    values = [composed(value) if isinstance(value, str) else value for value in values]
    texts = {value for value in values if isinstance(value, str)}
    mixed = texts and any(isinstance(value, int | float) for value in values)
    if mixed and all(re.fullmatch(r"[+-]?[0-9]+", text) for text in texts):
        return [int(value) if isinstance(value, str) else value for value in values]
    return values


def check_common_classes(
    test: NDArray[np.int64], gallery: NDArray[np.int64], names: list[str]
) -> int:
    """How many of the test frames' classes [n] are not among the gallery's [m], both as numbers of
    `names`. Raises InputError when all are: every query would be answered wrongly."""
    asked, known = np.unique(test), np.unique(gallery)
    unknown = np.setdiff1d(asked, known)
    if len(unknown) == len(asked):
        shown = (
            ", ".join(repr(names[n]) for n in part[:5]) + (", ..." if len(part) > 5 else "")
            for part in (asked, known)
        )
        raise InputError(
            "gallery and test have no class in common: test frames are labelled {}, those of the "
            "gallery {}; were they labelled from different files?".format(*shown)
        )
    return len(unknown)


def load_labels(
    path: Path | None,
    embeddings: Embeddings,
    *,
    attribute: str = "phase",
    tolerance_s: float = 0.5,
) -> Labels:
    """Labels of the frames of `embeddings`, from a folder, a table or (None) the embeddings.

    `attribute` names the key of a frame in JSON files, or the label column of a table (`label`
    where the table has no such column). Raises InputError when nothing matches.
    """
    if path is None:
        if embeddings.label is None:
            raise InputError(
                "no labels: give --labels (a folder of JSON files or a CSV/Parquet table); "
                "these embeddings carry no label column"
            )
        return Labels(embeddings.label, "embeddings")
    if not path.exists():
        raise InputError(f"{path}: no such labels folder or table")
    if is_lerobot(str(path)):
        values = _from_lerobot(path, embeddings, attribute, tolerance_s)
    elif path.is_dir():
        values = _from_json(path, embeddings, attribute)
    else:
        values = _from_table(path, embeddings, attribute, tolerance_s)
    labels = Labels(values, str(path))
    if not labels.known.any():
        videos = ", ".join(sorted(set(embeddings.video_id.tolist()))[:3])
        raise InputError(f"{path}: no label matches the embedded videos (e.g. {videos})")
    return labels


def _from_lerobot(
    root: Path, embeddings: Embeddings, attribute: str, tolerance_s: float
) -> NDArray[np.object_]:
    values = np.full(len(embeddings), None, dtype=object)
    numbers = {event: _EPISODE.search(event) for event in np.unique(embeddings.event).tolist()}
    episodes = {int(match[1]): event for event, match in numbers.items() if match}
    column = DEFAULT if attribute == "phase" else attribute
    for number, (time_s, known) in measured(root, column, episodes).items():
        rows = np.flatnonzero(embeddings.event == episodes[number])
        # a frame is shown until the next one: its start and its middle both mean it
        pick = np.searchsorted(time_s, embeddings.time_s[rows] + 1e-3, side="right") - 1
        pick = np.maximum(pick, 0)
        near = np.abs(time_s[pick] - embeddings.time_s[rows]) <= tolerance_s
        for row, place in zip(rows[near].tolist(), pick[near].tolist(), strict=True):
            values[row] = _plain(known[place])
    return values


def _from_json(folder: Path, embeddings: Embeddings, attribute: str) -> NDArray[np.object_]:
    files: dict[str, list[Path]] = {}
    for file in sorted(p for p in folder.rglob("*.json") if not is_companion(p.name)):
        relative = composed(file.relative_to(folder).with_suffix("").as_posix())
        for key in {relative, composed(file.stem)}:
            files.setdefault(key, []).append(file)
    values = np.full(len(embeddings), None, dtype=object)
    for event in np.unique(embeddings.event):
        file = _file_of(event, files)
        if file is None:
            continue
        state = _read_json(file)
        frames, fps = state["frames"], state.get("fps")
        rows = np.flatnonzero(embeddings.event == event)
        numbers = embeddings.frame[rows]
        if fps is not None:
            # a frame is shown from n / fps on: its start and its middle both mean frame n
            numbers = np.floor(embeddings.time_s[rows] * float(fps) + 0.01).astype(np.int64)
        for row, number in zip(rows, numbers, strict=True):
            if 0 <= number < len(frames):
                if attribute not in frames[number]:
                    raise SettingError(
                        f"{file}: frames have no {attribute!r}; "
                        f"there are {', '.join(sorted(frames[number]))}"
                    )
                values[row] = _plain(frames[number][attribute])
    return values


def _file_of(event: str, files: dict[str, list[Path]]) -> Path | None:
    """The label file of an event: by its full name, else by the last part of it."""
    event = composed(event)
    name = PurePosixPath(event)
    for key in (event, name.with_suffix("").as_posix(), name.name, name.stem):
        found = files.get(key, [])
        if len(found) > 1:
            raise InputError(f"two label files for event {event}: {found[0]}, {found[1]}")
        if found:
            return found[0]
    return None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not JSON: {error}") from error
    if not isinstance(state, dict) or "frames" not in state:
        raise InputError(f"{file}: a label file is an object with fps and frames")
    fps = state.get("fps")
    if fps is not None and (not isinstance(fps, int | float) or not 0 < fps < math.inf):
        raise InputError(
            f"{file}: fps is {fps!r}, not a rate; leave it out where entry n is the video's frame n"
        )
    return state


def _is_target(value: Any) -> bool:
    if isinstance(value, float):
        return not value.is_integer()
    return isinstance(value, list | tuple | dict)


def _plain(value: Any) -> Any:
    """A label as it is compared, or None for one that says nothing: an empty cell, or NaN.

    Lists become tuples, so that a label can be a key and an array of labels stays flat.
    """
    if isinstance(value, list):
        parts = tuple(_plain(part) for part in value)
        return None if None in parts else parts
    if value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def _from_table(
    path: Path, embeddings: Embeddings, attribute: str, tolerance_s: float
) -> NDArray[np.object_]:
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a CSV or Parquet table: {error}") from error
    column = attribute if attribute in table.column_names else "label"
    missing = [n for n in ("video_id", "time_s", column) if n not in table.column_names]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; a label table has video_id, time_s and label"
        )
    names = [composed(str(name)) for name in table.column("video_id").to_pylist()]
    video = np.array(names, dtype=object)
    time_s = table.column("time_s").to_numpy().astype(np.float64)
    label = np.empty(len(video), dtype=object)
    label[:] = [_plain(value) for value in table.column(column).to_pylist()]
    values = np.full(len(embeddings), None, dtype=object)
    for name in np.unique(embeddings.video_id):
        rows = np.flatnonzero(embeddings.video_id == name)
        known = np.flatnonzero(video == composed(name))
        if not len(known):
            continue
        known = known[np.argsort(time_s[known], kind="stable")]
        middle = (time_s[known][1:] + time_s[known][:-1]) / 2
        pick = known[np.searchsorted(middle, embeddings.time_s[rows])]
        near = np.abs(time_s[pick] - embeddings.time_s[rows]) <= tolerance_s
        values[rows[near]] = label[pick[near]]
    return values
