"""Which videos, or parts of videos, does a list file name?

CSV, TSV, JSON, JSON Lines, Parquet, or lines of `path label`; one row a video or a span. Columns go
by their usual names, or by what `ListOptions` says; those that mean nothing here travel along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from marey.configs.errors import InputError, UsageError
from marey.configs.nearest import suggest
from marey.pipeline.data.list_rows import SUFFIXES, Row, rows_of_file
from marey.pipeline.data.listing import Listed, span_id
from marey.pipeline.runtime.storage import Folder, as_utf8, is_remote, join, local_path, split

Times = Literal["seconds", "frames"]
NAMES: dict[str, tuple[str, ...]] = {
    "uri": ("uri", "path", "video", "video_path", "filename"),
    "video_id": ("video_id",),
    "start_s": ("start_s", "start", "time_start", "start_timestamp", "start_time"),
    "end_s": ("end_s", "end", "time_end", "stop_timestamp", "end_timestamp", "end_time"),
    "start_frame": ("start_frame",),
    "end_frame": ("end_frame", "stop_frame"),
    "event": ("event",),
    "view": ("view",),
    "label": ("label", "class"),
    "split": ("split", "subset"),
    "clock_offset_s": ("clock_offset_s",),
    "clock_rate": ("clock_rate",),
}
"""What a row says, and the column names that are taken for it, the first that is there."""
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class ListOptions:
    """How list files are read.

    columns: for a name of `NAMES` the column that holds it, or a template (`{id}.webm`,
        `{youtube_id}_{time_start:06d}.mp4`); empty for none of the columns.
    root: folder or URI that relative paths start from; None is the list's own folder.
    times: whether `start_s` and `end_s` hold seconds (or `HH:MM:SS.mmm`) or frame numbers.
    rows_at: where in a JSON file the rows are: names joined by dots.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    root: str | None = None
    times: Times = "seconds"
    rows_at: str = ""

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in NAMES:
                raise UsageError(
                    f"--columns {name}={self.columns[name]}: {name} is nothing that a row says"
                    f"{suggest(name, list(NAMES))} (allowed: {', '.join(NAMES)})"
                )


USUAL = ListOptions()
"""Columns by their usual names, times in seconds."""


def read_columns(words: str | None) -> dict[str, str]:
    """`uri=file,label=verb` as a mapping. Raises UsageError for anything else."""
    found: dict[str, str] = {}
    for word in (words or "").split(","):
        name, mark, column = word.partition("=")
        if word and not mark:
            raise UsageError(f"--columns {words}: {word!r} is not of the form name=column")
        if word:
            found[name.strip()] = column.strip()
    return found


def is_list_file(location: str) -> bool:
    """Whether a location names a list of videos, by its ending."""
    name = location.partition("?")[0] if is_remote(location) else location
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        return False
    return is_remote(location) or local_path(location).is_file()


def read_list(location: str, options: ListOptions) -> list[Listed]:
    """The rows of a list file. Raises InputError, with the line, for one that says nothing.

    A row's id is its `video_id`, else its path and span: two of one id are refused.
    """
    home, _ = split(location)
    root = options.root or home
    rows: list[Listed] = []
    seen: dict[str, str] = {}
    sizes = _Sizes(root)
    columns: dict[str, str] = {}
    for number, (place, row) in enumerate(rows_of_file(location, options.rows_at)):
        if number == 0 or not set(columns.values()) <= set(row):
            columns = _columns(row, options, location)
        listed = _Reading(row, columns, options, f"{location}, {place}").listed(sizes)
        if listed.video_id in seen:
            hint = (
                "; `--columns video_id=` makes ids of paths and spans"
                if "video_id" in columns
                else "; a column `video_id` tells them apart"
            )
            raise InputError(
                f"{location}, {place}: {listed.video_id!r} stands in {seen[listed.video_id]} "
                f"already{hint}"
            )
        seen[listed.video_id] = place
        rows.append(listed)
    if not rows:
        raise InputError(f"{location} lists nothing")
    return rows


def _columns(row: Row, options: ListOptions, location: str) -> dict[str, str]:
    """Which column of a row holds what. Templates are left to `options`."""
    chosen: dict[str, str] = {}
    for name, usual in NAMES.items():
        asked = options.columns.get(name)
        if asked is None:
            found = next((column for column in usual if column in row), None)
            if found is not None:
                chosen[name] = found
        elif asked and "{" not in asked:
            if asked not in row:
                raise InputError(
                    f"{location} has no column {asked!r}{suggest(asked, list(row))} "
                    f"(it has {', '.join(row)})"
                )
            chosen[name] = asked
    # where both are given, times are used and frame numbers travel along
    if {"start_s", "end_s"} & set(chosen):
        chosen.pop("start_frame", None)
        chosen.pop("end_frame", None)
    if "uri" not in chosen and not options.columns.get("uri"):
        raise InputError(
            f"{location} has no column that names the videos (looked for "
            f"{', '.join(NAMES['uri'])}; it has {', '.join(row)}): say which one with "
            "--columns uri=COLUMN, or how names are made: --columns 'uri={id}.mp4'"
        )
    return chosen


class _Sizes:
    """Where relative paths lie, and how large local files are."""

    def __init__(self, root: str) -> None:
        self._root = Folder(root)
        self._remote = is_remote(root)

    def place(self, path: str) -> tuple[str, int]:
        """The uri of a path of the list, and its bytes; 0 where nothing is known."""
        if is_remote(path):
            return path, 0
        if self._remote and not PurePosixPath(path).is_absolute():
            return join(self._root.location, path), 0
        file = (local_path(self._root.location) / local_path(path)).absolute()
        return str(file), file.stat().st_size if file.is_file() else 0


@dataclass(frozen=True, slots=True)
class _Reading:
    """One row of a list that is being read. where: file and line, for messages."""

    row: Row
    columns: Mapping[str, str]
    options: ListOptions
    where: str

    def listed(self, sizes: _Sizes) -> Listed:
        """What the row says. Raises InputError where it says nothing that can be read."""
        path = self._text("uri")
        if not path:
            raise InputError(f"{self.where}: names no video")
        if "\\" in path and "/" not in path:
            path = path.replace("\\", "/")
        uri, size = sizes.place(path)
        in_frames = self.options.times == "frames"
        start_s, end_s = self._time("start_s", in_frames), self._time("end_s", in_frames)
        if "start_frame" in self.columns or "end_frame" in self.columns:
            in_frames = True
            start_s, end_s = self._time("start_frame", True), self._time("end_frame", True)
        if (start_s or 0.0) < 0 or (end_s is not None and end_s <= (start_s or 0.0)):
            raise InputError(
                f"{self.where}: the span {start_s}..{end_s} is none: 0 <= start < end is needed"
            )
        name = as_utf8(PurePosixPath(path).as_posix())
        rate = self._number("clock_rate", 1.0)
        if not 0.5 <= rate <= 2:
            raise InputError(f"{self.where}: clock_rate {rate} is not in [0.5, 2]")
        event, view = self._text("event"), self._text("view")
        if view and not event:
            raise InputError(f"{self.where}: has the view {view!r} and no event that it is of")
        used = set(self.columns.values())
        extra = {key: v for key, v in self.row.items() if key not in used and not _no(v)}
        in_frames = in_frames and not (start_s is None and end_s is None)
        return Listed(
            video_id=self._text("video_id") or span_id(name, start_s, end_s, in_frames=in_frames),
            uri=uri,
            bytes=size,
            start_s=start_s,
            end_s=end_s,
            in_frames=in_frames,
            event=event,
            view=view or "0",
            label=self._text("label"),
            clock_offset_s=self._number("clock_offset_s", 0.0),
            clock_rate=rate,
            split=self._text("split"),
            extra=extra,
        )

    def _value(self, name: str) -> Any:
        template = self.options.columns.get(name, "")
        if "{" in template:
            try:
                return template.format_map({key: _plain(v) for key, v in self.row.items()})
            except (KeyError, ValueError, IndexError) as error:
                raise InputError(
                    f"{self.where}: --columns {name}={template} cannot be filled in "
                    f"({type(error).__name__}: {error}; the row has {', '.join(self.row)})"
                ) from error
        return self.row.get(self.columns[name]) if name in self.columns else None

    def _text(self, name: str) -> str:
        value = self._value(name)
        return "" if _no(value) else str(value).strip()

    def _number(self, name: str, default: float) -> float:
        text = self._text(name)
        try:
            return float(text) if text else default
        except ValueError as error:
            raise InputError(f"{self.where}: {name} {text!r} is no number") from error

    def _time(self, name: str, in_frames: bool) -> float | None:
        """Seconds, or a frame number; None where the row gives none."""
        text = self._text(name)
        if not text:
            return None
        clock = _CLOCK.fullmatch(text)
        if clock and not in_frames:
            hours, minutes, seconds = clock.groups()
            return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)
        value = self._number(name, 0.0)
        if value != value or (in_frames and value != int(value)):
            raise InputError(f"{self.where}: {name} {text!r} is no frame number")
        return value


def _no(value: Any) -> bool:
    """Whether a cell is empty."""
    return value is None or value == "" or value != value


def _plain(value: Any) -> Any:
    """A cell for a template: text that is a number as that number."""
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            number = kind(value)
        except ValueError:
            continue
        # names such as 007 stay as they are unless they are formatted as numbers
        return number if str(number) == value else _Text(value)
    return value


class _Text(str):
    """Text that may be formatted as a number too: `{start:06d}` of "012.0"."""

    def __format__(self, spec: str) -> str:
        if spec.endswith("d"):
            return format(int(float(self)), spec)
        return format(float(self), spec) if spec.endswith("f") else format(str(self), spec)
