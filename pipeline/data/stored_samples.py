"""Shards as a source of training: one stored row is one sample, nothing is decoded from video."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from threading import Lock

import numpy as np
import pyarrow as pa

from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.images import cover, still
from marey.pipeline.data.reading import Frames, Reader, Wanted
from marey.pipeline.data.shards import Shards, decode_images

CACHED_PARTS = 4
"""Parts kept open: neighbouring samples of the shuffled order lie in few of them."""


class StoredSamples:
    """The rows of finished shards as a source, one an event."""

    kind = "shards"
    stills = True

    def __init__(self, location: str) -> None:
        self.location = location
        self.shards = Shards(location)
        self.reader: Reader = StoredReader(location)

    @property
    def sample_kind(self) -> str | None:
        """What the rows are: tracks, tuples, time_pairs, ..."""
        return self.shards.kind

    @property
    def labelled(self) -> bool:
        """Stored samples have no labels."""
        return False

    def label_of(self, number: int) -> None:
        """Stored samples have no labels."""
        return

    def __len__(self) -> int:
        return len(self.shards)

    def event(self, number: int) -> Event:
        """A row, as an event of one still."""
        name = f"row {number}"
        return Event(name, (still(name, str(number)),))

    @property
    def digest(self) -> str:
        """A short hash of what was mined, and how."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = json.dumps(self.shards.manifest, sort_keys=True).encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def labels(self) -> list[int] | None:
        """Stored samples carry no class."""
        return None

    def video(self, place: int) -> Video:
        """The still of the event at a position."""
        return self.event(place).videos[0]

    def durations_s(self) -> np.ndarray:
        """Stills have no duration: zeros."""
        return np.zeros(len(self))

    def without_frames(self) -> Iterator[Video]:
        """None: what could not be read was not stored."""
        return iter(())

    def check_present(self) -> None:
        """Stored samples need no videos."""


class StoredReader:
    """Reads stored rows by the number in the `uri` of their events."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._parts: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[StoredReader], tuple[str]]:
        return StoredReader, (self._location,)

    @cached_property
    def _shards(self) -> Shards:
        return Shards(self._location)

    def read(
        self,
        wanted: Sequence[Wanted],
        shape: tuple[int, int],
        *,
        suspected: bool = False,
        backend: str = "pyav",
    ) -> Frames:
        """See `Reader.read`: a row has the frames that it was stored with, whatever is wanted.

        The columns are those of the rows, `instance` among them.
        """
        rows = [self._row(int(one.event.videos[0].uri)) for one in wanted]
        frames = np.stack(
            [np.stack([cover(image, shape) for image in decode_images(r["images"])]) for r in rows]
        )
        shown_s = np.full(frames.shape[:2], np.nan)
        return Frames(frames, shown_s, [None] * len(rows), self._columns(rows))

    def _columns(self, rows: list[dict]) -> dict[str, np.ndarray]:
        if self._shards.kind == "tracks":
            videos = [_number(row["video_id"]) for row in rows]
            times_s = np.array([row["image_times_s"] for row in rows], dtype=np.float32)
            return {"instance": np.array(videos, dtype=np.int64), "time_s": times_s}
        columns = {"instance": np.array([row["instance"] for row in rows], dtype=np.int64)}
        for name, (sizes, dtype) in self._targets.items():
            values = [np.array(row[name], dtype=dtype).reshape(sizes) for row in rows]
            columns[name] = np.stack(values)
        return columns

    @cached_property
    def _targets(self) -> dict[str, tuple[list[int], np.dtype]]:
        """Shape and type of every target that the rows carry."""
        schema = self._part(0).schema
        shapes = json.loads((schema.metadata or {})[b"shapes"])
        return {
            name: (sizes, np.dtype(schema.field(name).type.value_type.to_pandas_dtype()))
            for name, sizes in shapes.items()
        }

    def _row(self, number: int) -> dict:
        part, place = self._shards.place(number)
        return self._part(part).slice(place, 1).to_pylist()[0]

    def _part(self, number: int) -> pa.Table:
        with self._lock:  # threads of one process share the reader
            if number not in self._parts:
                self._parts[number] = self._shards.part(number)
                while len(self._parts) > CACHED_PARTS:
                    self._parts.popitem(last=False)
            self._parts.move_to_end(number)
            return self._parts[number]


def _number(name: str) -> int:
    """A number for a video, the same in every process: nothing but its equality is used."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
