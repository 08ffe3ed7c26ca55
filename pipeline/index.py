"""The index: which videos a corpus has and what is known of each without decoding a pixel.

One Parquet row a video stream; every file found gets a row, damaged and unreadable ones with a
reason. Rows that show one happening from several cameras share their `event`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import InputError
from pipeline.storage import is_remote, local_path

Times = TypeVar("Times", float, np.ndarray)
"""One time or several, in seconds."""

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("event", pa.string()),
        ("view", pa.string()),
        ("label", pa.string()),
        ("clock_offset_s", pa.float64()),
        ("clock_rate", pa.float64()),
        ("duration_s", pa.float64()),
        ("fps", pa.float64()),
        ("frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("codec", pa.string()),
        ("stream", pa.int32()),
        ("keyframes", pa.list_(pa.float64())),
        ("motion", pa.list_(pa.float32())),
        ("motion_hz", pa.float64()),
        ("cuts", pa.list_(pa.float64())),
        ("bytes", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """One row of the index, as the samplers see it. Times are seconds from the first shown frame.

    The event has a clock of its own: see `shown_at`.
    """

    video_id: str
    uri: str
    event: str
    view: str
    label: str
    """Class of what the event shows, for evaluation and semi-supervised methods; mostly empty."""
    clock_offset_s: float
    clock_rate: float
    duration_s: float
    fps: float
    frames: int
    width: int
    height: int
    stream: int
    motion: np.ndarray
    motion_hz: float
    cuts: tuple[float, ...]
    status: str

    @property
    def has_frames(self) -> bool:
        """Whether there is anything to sample: damaged and unreadable videos may have no frame."""
        return self.frames > 0 and self.fps > 0

    def shown_at(self, time_s: Times) -> Times:
        """When in this video a time of the event's clock is shown."""
        return self.clock_rate * time_s + self.clock_offset_s

    def event_time(self, shown_s: Times) -> Times:
        """The time of the event's clock that this video shows at one of its own times."""
        return (shown_s - self.clock_offset_s) / self.clock_rate


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Synchronised videos of one happening, in the order of their view names; mostly one."""

    event_id: str
    videos: tuple[Video, ...]


class Index:
    """A loaded index: events in a fixed order, rows made only when asked for."""

    kind = "video"

    def __init__(self, table: pa.Table, location: str) -> None:
        self.table = table
        self.location = location

    @classmethod
    def load(cls, location: str) -> Index:
        """Read an index. Raises InputError when it is not one."""
        return cls(read_table(location, SCHEMA.names), location)

    @cached_property
    def _groups(self) -> list[tuple[str, list[int]]]:
        """Event name and row numbers, views in order, events sorted by name."""
        events = self.table.column("event").to_pylist()
        views = self.table.column("view").to_pylist()
        rows: dict[str, list[int]] = {}
        for row in sorted(range(len(events)), key=lambda r: (events[r], views[r])):
            rows.setdefault(events[row], []).append(row)
        return list(rows.items())

    def __len__(self) -> int:
        return len(self._groups)

    def event(self, number: int) -> Event:
        """The event at a position of the fixed order."""
        name, rows = self._groups[number]
        return Event(name, tuple(self._video(row) for row in rows))

    def events(self) -> Iterator[Event]:
        """All events in order."""
        return (self.event(number) for number in range(len(self)))

    def _video(self, row: int) -> Video:
        value = {name: self.table.column(name)[row] for name in _VIDEO_COLUMNS}
        plain = {name: value[name].as_py() for name in _VIDEO_COLUMNS if name != "motion"}
        motion = value["motion"].values
        profile = motion.to_numpy(zero_copy_only=False) if motion is not None else np.empty(0)
        plain["cuts"] = tuple(plain["cuts"] or ())
        return Video(motion=np.asarray(profile, dtype=np.float32), **plain)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes of the events, sorted; `labels` counts them from 0."""
        return sorted({name for name in self.table.column("label").to_pylist() if name})

    def labels(self) -> list[int] | None:
        """The class of each event, -1 where it has none; None for a corpus without labels."""
        return self._labels

    @cached_property
    def _labels(self) -> list[int] | None:
        if not self.classes:
            return None
        number = {name: n for n, name in enumerate(self.classes)} | {"": -1}
        names = self.table.column("label").to_pylist()
        return [number[names[rows[0]]] for _, rows in self._groups]

    @cached_property
    def digest(self) -> str:
        """What the samples depend on, as a short hash: ids, grouping, lengths and clocks."""
        digest = hashlib.blake2b(digest_size=8)
        for name in (
            "video_id", "event", "view", "label", "frames", "fps", "clock_offset_s", "clock_rate",
        ):  # fmt: skip
            for value in self.table.column(name).to_pylist():
                digest.update(repr(value).encode())
        return digest.hexdigest()

    def missing(self) -> list[str]:
        """Local uris that are no file, of rows that were readable when they were indexed."""
        uris = self.table.column("uri").to_pylist()
        states = self.table.column("status").to_pylist()
        return [
            uri
            for uri, status in zip(uris, states, strict=True)
            if status != "unreadable" and not is_remote(uri) and not local_path(uri).is_file()
        ]

    def check_present(self) -> list[str]:
        """The videos that are gone; raises InputError when none is left at its place."""
        gone = self.missing()
        if gone and len(gone) == sum(s != "unreadable" for s in self.table["status"].to_pylist()):
            raise InputError(
                f"{self.location} lists {len(gone)} videos and none is at its place "
                f"(first: {gone[0]}); were they moved? index the new folder again"
            )
        return gone


_VIDEO_COLUMNS = tuple(Video.__slots__)  # type: ignore[attr-defined]


def read_table(location: str, columns: list[str]) -> pa.Table:
    """A Parquet table that must have these columns. Raises InputError saying what is wrong."""
    if not is_remote(location) and not local_path(location).is_file():
        raise InputError(f"no such file: {location}")
    try:
        table = pq.read_table(
            location if is_remote(location) else local_path(location),
            partitioning=None,  # pyright: ignore[reportArgumentType]
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{location} is not a Parquet file: {error}") from error
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise InputError(
            f"{location} is not an index: it lacks {', '.join(absent)} "
            f"(it has {', '.join(table.column_names[:12])})"
        )
    return table.combine_chunks()


def default_workers() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def relative_name(path: Path, root: Path) -> str:
    """A file's name within its source, the same on every machine: POSIX, no leading `./`."""
    return path.relative_to(root).as_posix()
