"""What does an MP4 or MOV file say that libav does not pass on? Read from its boxes (ISO 14496-12).

libav plays an edit list's parts one after another, but takes an empty part in the middle for one
that shows the beginning of the track.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np


@dataclass(frozen=True, slots=True)
class EditList:
    """Which parts of a track are shown when.

    parts: how many parts show something; 1 without an edit list.
    gaps: [start, stop) of the empty parts after the first that shows something, in the track's
        ticks: nothing new is shown there.
    """

    parts: int = 1
    gaps: tuple[tuple[float, float], ...] = ()

    def hides(self, ticks: np.ndarray) -> np.ndarray:
        """Whether packets of these presentation times, int64 [N], lie in a gap: bool [N]."""
        hidden = np.zeros(len(ticks), dtype=bool)
        for start, stop in self.gaps:
            hidden |= (ticks >= start - 0.5) & (ticks < stop - 0.5)
        return hidden


def read_edit_list(file: BinaryIO, track_id: int) -> EditList:
    """The edit list of one track; that of a file without one, or cut short, has one part."""
    try:
        file.seek(0, 2)
        for movie_start, movie_stop in _inside(file, 0, file.tell(), b"moov"):
            movie_scale = _timescale(file, movie_start, movie_stop, b"mvhd")
            for start, stop in _inside(file, movie_start, movie_stop, b"trak"):
                if _track_id(file, start, stop) == track_id:
                    return _edits_of_track(file, start, stop, movie_scale)
    except (OSError, ValueError, IndexError, struct.error, ZeroDivisionError):
        pass
    return EditList()


def sample_entries(file: BinaryIO) -> int:
    """The largest number of sample entries (`stsd`) that a track has; 0 where there is no table."""
    most = 0
    try:
        ranges = [(0, file.seek(0, 2))]
        for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
            ranges = [found for a, b in ranges for found in _inside(file, a, b, kind)]
        for start, _ in ranges:
            file.seek(start)
            most = max(most, int.from_bytes(file.read(8)[4:], "big"))
    except (OSError, ValueError, struct.error):
        return 0
    return most


def _edits_of_track(file: BinaryIO, start: int, stop: int, movie_scale: int) -> EditList:
    scale = 0
    for media_start, media_stop in _inside(file, start, stop, b"mdia"):
        scale = _timescale(file, media_start, media_stop, b"mdhd")
    entries: list[tuple[int, int]] = []
    for edits_start, edits_stop in _inside(file, start, stop, b"edts"):
        for list_start, list_stop in _inside(file, edits_start, edits_stop, b"elst"):
            file.seek(list_start)
            content = file.read(list_stop - list_start)
            entry = ">Qqhh" if content[0] == 1 else ">Iihh"
            (count,) = struct.unpack_from(">I", content, 4)
            size = struct.calcsize(entry)
            for n in range(min(count, (len(content) - 8) // size)):
                duration, media_time, *_ = struct.unpack_from(entry, content, 8 + n * size)
                entries.append((duration, media_time))
    gaps: list[tuple[float, float]] = []
    parts, at = 0, 0.0
    for duration, media_time in entries:
        length = duration * scale / movie_scale
        if media_time >= 0:
            parts += 1
        elif parts:
            gaps.append((at, at + length))
        at += length
    return EditList(max(1, parts), tuple(gaps))


def _track_id(file: BinaryIO, start: int, stop: int) -> int:
    for head, _ in _inside(file, start, stop, b"tkhd"):
        file.seek(head)
        content = file.read(24)
        return struct.unpack_from(">I", content, 20 if content[0] == 1 else 12)[0]
    return -1


def _timescale(file: BinaryIO, start: int, stop: int, kind: bytes) -> int:
    for head, _ in _inside(file, start, stop, kind):
        file.seek(head)
        content = file.read(24)
        return struct.unpack_from(">I", content, 20 if content[0] == 1 else 12)[0]
    return 0


def _inside(file: BinaryIO, start: int, stop: int, wanted: bytes) -> Iterator[tuple[int, int]]:
    """(payload start, end) of the boxes of one kind that lie side by side in [start, stop)."""
    return ((a, b) for kind, a, b in boxes(file, start, stop) if kind == wanted)


def boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, payload start, end) of the boxes that lie side by side in [start, stop)."""
    while start + 8 <= stop:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            header = 16
        elif size == 0:
            size = stop - start
        if size < header:
            return
        yield kind, start + header, min(start + size, stop)
        start += size
