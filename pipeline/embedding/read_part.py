"""How are the frames of one part of the embeddings read?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from marey.pipeline.data.reading import Reader, Wanted
from marey.pipeline.data.source import Source
from marey.pipeline.embedding.copies import strong_copy
from marey.pipeline.embedding.frame_parts import Part, frame_numbers
from marey.pipeline.sampling.lookback import clip_times
from marey.pipeline.sampling.shown import unlike_plan
from marey.pipeline.stream.decode import OPEN
from marey.pipeline.stream.graph import Rows

_KEYS = {
    "video_id": pa.string(),
    "uri": pa.string(),
    "event": pa.string(),
    "view": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "split": pa.string(),
    "extra": pa.string(),
    "frame": pa.int64(),
    "time_s": pa.float64(),
}
"""The columns of all embeddings but the vectors. `start_s` and `end_s` say which part of its file a
video is; null for a whole file."""
_READ = (*_KEYS, "label", "copy", "refused")


def columns_of(source: Source, copies: int, width: int, dtype: str) -> pa.Schema:
    """The columns of the embeddings of a corpus, the same in each part: D = `width`."""
    columns = dict(_KEYS)
    if source.labelled:
        labels = (source.label_of(number) for number in range(len(source)))
        some = next((label for label in labels if label is not None), "")
        columns["label"] = pa.infer_type([json.loads(json.dumps(some, default=str))])
    if copies:
        columns["copy"] = pa.int64()
    columns["embedding"] = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), width)
    return pa.schema(columns)


@dataclass
class ReadPart:
    """The first step of embedding: a part in, its frames and their keys out."""

    reader: Reader
    rate: float
    shape: tuple[int, int]
    copies: int = 0
    """Strongly changed copies of each frame to give in its place; 0 gives the frame itself."""
    clip: tuple[int, float] = (1, 0.0)
    """Frames that an embedding sees, and the seconds between them (see `clip_times`)."""
    suspicious: bool = False
    """Read each video in a process of its own: one of them may have killed this one before."""

    def __call__(self, part: Part) -> Iterator[Rows]:
        """What was read of a part, as one row."""
        yield as_one_row(self.columns(part))

    def columns(self, part: Part) -> Rows:
        """Rows `frames` uint8 [n, H, W, 3] (of clips [n, T, H, W, 3]) and their keys.

        `refused` rows keep their keys; `open` is why the part cannot be made for now, or empty.
        """
        columns: dict[str, list[Any]] = {name: [] for name in _READ}
        wanted: list[Wanted] = []
        for piece in part.pieces:
            event, view = piece.event, piece.view
            video = event.videos[view]
            numbers = frame_numbers(video, self.rate)[piece.start : piece.stop]
            times_s = video.frame_clock.middles(numbers)
            wanted_s, refused = clip_times(video, times_s, *self.clip)
            wanted += [Wanted(event, np.full(self.clip[0], view), clip_s) for clip_s in wanted_s]
            count = len(times_s)
            columns["video_id"] += [video.video_id] * count
            columns["uri"] += [piece.location] * count
            columns["event"] += [video.event] * count
            columns["view"] += [video.view] * count
            for name in ("start_s", "end_s", "split", "extra"):
                columns[name] += [getattr(video, name)] * count
            columns["frame"] += numbers.tolist()
            starts_s = video.frame_clock.starts(numbers)
            columns["time_s"] += video.event_time(starts_s).tolist()
            if part.labelled:
                columns["label"] += [piece.label] * count
            columns["refused"] += refused
        columns["part"] = [part.number] * len(columns["frame"])
        frames, columns["refused"] = self._read(wanted, columns["refused"])
        left = [why.removeprefix(OPEN) for why in columns["refused"] if why.startswith(OPEN)]
        columns["open"] = [*left, ""][:1] * len(columns["frame"])
        rows = {name: np.array(v) for name, v in columns.items() if v} | {"frames": frames}
        return self._changed(rows) if self.copies else rows

    def _changed(self, rows: Rows) -> Rows:
        """Every row `copies` times, its frames changed by draws that its own key decides."""
        count = len(rows["frames"])
        rows = {name: np.repeat(values, self.copies, axis=0) for name, values in rows.items()}
        rows["copy"] = np.tile(np.arange(self.copies), count)
        for n, row in enumerate(rows["frames"]):
            key = f"{rows['video_id'][n]} {rows['frame'][n]} {rows['copy'][n]}"
            # one change for all frames of a clip
            for frame in row.reshape(-1, *row.shape[-3:]):
                frame[:] = strong_copy(frame, key)
        return rows

    def _read(self, wanted: list[Wanted], refused: list[str]) -> tuple[np.ndarray, list[str]]:
        """Frames (or clips) of rows, of all videos together, and for each why it is refused.

        One request a row: a damaged frame costs only the rows that see it. refused: for each row
        why it is not to be read, or empty.
        """
        length = self.clip[0]
        refused = list(refused)
        good = [n for n, reason in enumerate(refused) if not reason]
        frames = np.zeros((len(wanted), length, *self.shape, 3), dtype=np.uint8)
        if good:
            asked = [wanted[n] for n in good]
            read = self.reader.read(asked, self.shape, suspected=self.suspicious)
            for n, lack, shown_s in zip(good, read.lacks, read.shown_s, strict=True):
                video = wanted[n].event.videos[int(wanted[n].views[0])]
                if lack:
                    why = lack.error or lack.reason
                    refused[n] = f"{OPEN if lack.passes else ''}{why}"
                else:
                    varies, times_s = video.frame_times is not None, wanted[n].times_s
                    refused[n] = unlike_plan(times_s, shown_s, video.fps, length, varies=varies)
            if len(good) == len(wanted):
                frames = read.frames
            else:
                frames[good] = read.frames
        return (frames if length > 1 else frames[:, 0]), refused


def as_one_row(columns: Rows) -> Rows:
    """A part's columns as one row: rows are never divided or joined, so that the part stays whole.

    Returns `frames` uint8 [1, n, ...] and `keys`, the other columns as JSON, [1].
    """
    keys = {name: values.tolist() for name, values in columns.items() if name != "frames"}
    return {"frames": columns["frames"][None], "keys": np.array([json.dumps(keys, default=str)])}


def from_one_row(row: Rows) -> Rows:
    """The columns that `as_one_row` was given."""
    keys = json.loads(str(row["keys"][0]))
    return {name: np.array(values) for name, values in keys.items()} | {"frames": row["frames"][0]}
