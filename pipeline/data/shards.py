"""What lies on disk after mining? Parquet files, one a unit of work, each written once and whole.

A folder of shards holds `parts/part-000000.parquet` and so on, and `manifest.json`, which is
written last: without it the work is unfinished, and running it again does only the parts that are
missing. Parts appear under their final name when they are complete.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.configs.mining import ImageConfig
from marey.pipeline.data.encoded_picture import decode_picture
from marey.pipeline.runtime.claims import UNFINISHED
from marey.pipeline.runtime.parquet import read_parquet
from marey.pipeline.runtime.part_notes import part_notes
from marey.pipeline.runtime.seal import check_seal, sealed
from marey.pipeline.runtime.storage import Folder, is_remote, local_path

MANIFEST = "manifest.json"
FORMAT = 1
ROW_GROUP = 64
"""Rows that are read together: about 2 MB of pictures."""

TRACKS = pa.schema(
    [
        ("sample", pa.string()),  # names the track for ever: video, start, box
        ("video_id", pa.string()),
        ("event", pa.string()),
        ("view", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("image_times_s", pa.list_(pa.float64())),
        ("times_s", pa.list_(pa.float64())),  # of every frame of the track, in the video's clock
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),  # xywh in pixels of the displayed picture
        ("scores", pa.list_(pa.float32())),
        ("fb_iou", pa.float32()),
        ("fb_error", pa.float32()),
        ("appearance", pa.float32()),
        ("moving", pa.float32()),  # share of the start frame's points that moved
        ("camera_px", pa.float32()),  # camera motion there, pixels a frame at tracking size
    ]
)
"""Columns of the kind `tracks`."""


@dataclass(frozen=True, slots=True)
class PartCounts:
    """What one part holds: rows, and how often each reason refused something."""

    rows: int
    reasons: dict[str, int]


def counts_row(number: int, counts: PartCounts, why_open: str = "") -> dict[str, np.ndarray]:
    """What a stage says of a part: `part`, `rows` int64 [1]; `reasons` (JSON), `open` str [1]."""
    reasons = json.dumps(counts.reasons)
    values = {"part": number, "rows": counts.rows, "reasons": reasons, "open": why_open}
    return {name: np.array([value]) for name, value in values.items()}


def open_part(number: int, why: str) -> dict[str, np.ndarray]:
    """The row of a part that could not be made for now."""
    return counts_row(number, PartCounts(0, {}), why)


def part_name(number: int) -> str:
    """File of a unit of work, relative to the folder of shards."""
    return f"parts/part-{number:06d}.parquet"


def write_part(folder: Folder, number: int, table: pa.Table, reasons: dict[str, int]) -> PartCounts:
    """Write one part whole. The same table and reasons give the same bytes."""
    ordered = dict(sorted(reasons.items()))
    about = {"rows": str(len(table)), "reasons": json.dumps(ordered)}
    buffer = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata((table.schema.metadata or {}) | about),
        buffer,
        compression="none",  # the pictures are compressed already
        row_group_size=ROW_GROUP,
    )
    folder.write(part_name(number), sealed(buffer.getvalue()))
    return PartCounts(len(table), ordered)


def part_counts(folder: Folder, numbers: Sequence[int]) -> Iterator[PartCounts]:
    """What finished parts say about themselves, in the order of their numbers."""
    for about in part_notes(folder, [part_name(number) for number in numbers]):
        yield PartCounts(int(about[b"rows"]), json.loads(about[b"reasons"]))


def parts_left(folder: Folder, parts: int) -> list[int]:
    """Numbers of the parts, of so many, that are not there yet: one listing."""
    present = set(folder.names("parts"))
    return [n for n in range(parts) if part_name(n).partition("/")[2] not in present]


def finish(
    folder: Folder, key: dict[str, Any], parts: int, refused: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Write the manifest of `parts` parts, all of which must be there; returns it.

    refused: reasons of what is in no part, for the manifest's counts.
    """
    reasons = Counter(refused or {})
    rows = []
    for counts in part_counts(folder, range(parts)):
        rows.append(counts.rows)
        reasons.update(counts.reasons)
    manifest = {
        **key,
        "format": FORMAT,
        "parts": parts,
        "rows": sum(rows),
        "rows_of_part": rows,
        "reasons": dict(reasons.most_common()),
    }
    folder.write(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    return manifest


class Shards:
    """Finished shards, read row by row or part by part."""

    def __init__(self, location: str) -> None:
        """Raises InputError when there are none, or unfinished ones."""
        self.folder = Folder(location)
        self.location = location
        if not self.folder.exists(MANIFEST):
            state = "unfinished shards; run the same `marey mine` again to finish them"
            if not self.folder.exists(UNFINISHED):
                state = "no shards (no manifest.json)"
            raise InputError(f"{location} holds {state}")
        self.manifest: dict[str, Any] = json.loads(self.folder.read(MANIFEST))

    @property
    def kind(self) -> str:
        """What the rows are: tracks, tuples, time_pairs, ..."""
        return str(self.manifest["kind"])

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.manifest["rows_of_part"])

    def part(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of one part."""
        chosen = list(columns) if columns else None
        name = part_name(number)
        if chosen is None:  # all of it is read: a look at its seal costs little more
            content = self.folder.read(name)
            try:
                check_seal(content, self.folder.join(name))
            except InputError as error:
                raise InputError(f"{error}; the same `marey mine` makes it again") from error
            return read_parquet(content)
        if not is_remote(self.location):
            return pq.read_table(local_path(self.folder.join(name)), columns=chosen)
        with self.folder.opened(name) as stream:
            return read_parquet(stream, chosen)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows; leave `images` out unless they fit in memory."""
        return pa.concat_tables([self.part(n, columns) for n in range(self.manifest["parts"])])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Row by row, in order, one part in memory."""
        for number in range(self.manifest["parts"]):
            yield from self.part(number).to_pylist()

    def place(self, number: int) -> tuple[int, int]:
        """Where a row is: its part, and its place there. Raises IndexError for one that is not."""
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        part = int(np.searchsorted(self._ends, number, side="right"))
        return part, number - (int(self._ends[part - 1]) if part else 0)

    def row(self, number: int) -> dict[str, Any]:
        """One row by its number. Reads its part; use `rows` to read many."""
        part, place = self.place(number)
        return self.part(part).slice(place, 1).to_pylist()[0]


def encode_image(image: np.ndarray, config: ImageConfig) -> bytes:
    """uint8 [H, W, 3] RGB -> the bytes of a JPEG or PNG file."""
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    if config.format == "png":
        ok, data = cv2.imencode(".png", bgr)
    else:
        ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, config.quality])
    if not ok:
        raise InputError(f"OpenCV cannot encode a picture of shape {image.shape}")
    return data.tobytes()


def decode_images(images: Sequence[bytes]) -> np.ndarray:
    """The stored pictures of one row: uint8 [n, H, W, 3] RGB."""
    out = []
    for content in images:
        try:
            bgr = decode_picture(content)
        except ValueError as error:
            raise InputError(
                f"a stored picture cannot be decoded ({error}): the shard is damaged"
            ) from error
        out.append(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    return np.stack(out).astype(np.uint8)


def sample_table(rows: dict[str, np.ndarray], image: ImageConfig) -> pa.Table:
    """Decoded samples (`pipeline.stream.decode.Rows`) without the refused ones, as a table.

    Every target becomes a column of flat lists; its shape stands in the schema's metadata.
    """
    good = np.flatnonzero(rows["refused"] == "")
    columns: dict[str, Any] = {
        "sample": pa.array(rows["sample"][good], pa.int64()),
        "instance": pa.array(rows["instance"][good], pa.int64()),
        "images": pa.array(
            [[encode_image(frame, image) for frame in rows["frames"][n]] for n in good],
            pa.list_(pa.binary()),
        ),
    }
    shapes: dict[str, list[int]] = {}
    for name in sorted(set(rows) - {"sample", "instance", "frames", "refused"}):
        values = rows[name][good]
        shapes[name] = list(values.shape[1:])
        kind = pa.list_(pa.from_numpy_dtype(values.dtype))
        columns[name] = pa.array([v.ravel() for v in values], kind)
    return pa.table(columns).replace_schema_metadata({"shapes": json.dumps(shapes)})
