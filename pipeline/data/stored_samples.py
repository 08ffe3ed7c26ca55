"""Shards as a source of training: one stored row is one sample, nothing is decoded from video."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from marey.configs.errors import InputError
from marey.pipeline.data.images import cover, still
from marey.pipeline.data.index import Event
from marey.pipeline.data.shards import Shards, decode_images

CACHED_PARTS = 4
"""Parts kept open: neighbouring samples of the shuffled order lie in few of them."""


class StoredSamples:
    """The rows of finished shards, by position; the same interface as an `Index`."""

    kind = "shards"

    def __init__(self, location: str) -> None:
        self.location = location
        self.shards = Shards(location)
        self._ends = np.cumsum(self.shards.manifest["rows_of_part"])
        self._parts: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return len(self.shards)

    def event(self, number: int) -> Event:
        """A row, as an event of one still."""
        name = f"row {number}"
        return Event(name, (still(name, str(number)),))

    @cached_property
    def digest(self) -> str:
        """A short hash of what was mined, and how."""
        content = json.dumps(self.shards.manifest, sort_keys=True).encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def labels(self) -> list[int] | None:
        """Stored samples carry no class."""
        return None

    def check_present(self) -> list[str]:
        """Stored samples need no videos."""
        return []

    def check_kind(self, wanted: str) -> None:
        """Raises InputError when a method needs other samples than these."""
        if self.shards.kind != wanted:
            raise InputError(
                f"{self.location} holds samples of kind {self.shards.kind!r}; this method trains "
                f"on {wanted!r} (mine those, or give an index)"
            )

    def read(
        self, numbers: Sequence[int], shape: tuple[int, int]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Frames uint8 [n, F, H, W, 3] and the other columns of rows, `instance` among them."""
        rows = [self._row(number) for number in numbers]
        frames = np.stack(
            [np.stack([cover(image, shape) for image in decode_images(r["images"])]) for r in rows]
        )
        if self.shards.kind == "tracks":
            videos = [_number(row["video_id"]) for row in rows]
            times_s = np.array([row["image_times_s"] for row in rows], dtype=np.float32)
            return frames, {"instance": np.array(videos, dtype=np.int64), "time_s": times_s}
        columns = {"instance": np.array([row["instance"] for row in rows], dtype=np.int64)}
        for name, (sizes, dtype) in self._targets.items():
            values = [np.array(row[name], dtype=dtype).reshape(sizes) for row in rows]
            columns[name] = np.stack(values)
        return frames, columns

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
        part = int(np.searchsorted(self._ends, number, side="right"))
        first = int(self._ends[part - 1]) if part else 0
        return self._part(part).slice(number - first, 1).to_pylist()[0]

    def _part(self, number: int) -> pa.Table:
        if number not in self._parts:
            self._parts[number] = self.shards.part(number)
            while len(self._parts) > CACHED_PARTS:
                self._parts.popitem(last=False)
        self._parts.move_to_end(number)
        return self._parts[number]


def _number(name: str) -> int:
    """A number for a video, the same in every process: nothing but its equality is used."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
