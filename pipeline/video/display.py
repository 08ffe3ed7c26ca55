"""How a decoded picture is turned for display: the container's matrix as flips and a transpose.

The eight orientations are held as (transpose, flip_x, flip_y), applied in this order. Cameras
write the matrix; players obey it; a reader that does not delivers people lying on their side.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from marey.pipeline.video.mp4_boxes import boxes


@dataclass(frozen=True, slots=True)
class Orientation:
    """Transpose first, then mirror left-right (`flip_x`), then top-bottom (`flip_y`)."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees clockwise from the coded to the displayed picture: 0, 90, 180 or 270.

        A mirrored picture reports the rotation that precedes its left-right mirror.
        """
        if self.transpose:
            return 270 if self.flip_y else 90
        return 180 if self.flip_y else 0

    @property
    def is_identity(self) -> bool:
        return not (self.transpose or self.flip_x or self.flip_y)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """View of `picture` [H, W, ...] as displayed; no pixel is copied."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.flip_x:
            picture = picture[:, ::-1]
        if self.flip_y:
            picture = picture[::-1]
        return picture

    def displayed(self, height: int, width: int) -> tuple[int, int]:
        """Displayed (height, width) of a coded picture of that size."""
        return (width, height) if self.transpose else (height, width)


UPRIGHT = Orientation()


def from_matrix(matrix: bytes) -> Orientation:
    """Orientation of a 3x3 display matrix (nine int32, 16.16 fixed point, row vectors).

    A point (x, y) of the coded picture goes to (a x + c y, b x + d y). A matrix that is no
    multiple of a quarter turn is taken as its nearest quarter turn; a singular one as upright.
    """
    if len(matrix) < 20:
        return UPRIGHT
    a, b, _, c, d = struct.unpack("<5i", matrix[:20])
    if max(abs(a), abs(d)) >= max(abs(b), abs(c)):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def from_mp4(file: BinaryIO, track_id: int) -> Orientation:
    """Orientation of one track of an MP4 or MOV file, read from its `tkhd` box (ISO 14496-12).

    Reads box headers and the track headers only. A file without such a box, or one cut short,
    is upright: the demuxer, not this function, reports damage.
    """
    try:
        file.seek(0, 2)
        for kind, start, stop in boxes(file, 0, file.tell()):
            if kind == b"moov":
                return _from_movie(file, start, stop, track_id)
    except (OSError, ValueError, struct.error):
        pass
    return UPRIGHT


def _from_movie(file: BinaryIO, start: int, stop: int, track_id: int) -> Orientation:
    for kind, track_start, track_stop in boxes(file, start, stop):
        if kind != b"trak":
            continue
        for inner, head_start, _ in boxes(file, track_start, track_stop):
            if inner != b"tkhd":
                continue
            file.seek(head_start)
            head = file.read(96)
            wide = head[0] == 1  # version 1 holds 64-bit times and duration
            (found,) = struct.unpack_from(">I", head, 20 if wide else 12)
            if found == track_id:
                matrix = struct.unpack_from(">9i", head, 52 if wide else 40)
                return from_matrix(struct.pack("<9i", *matrix))
    return UPRIGHT


_TRACK_ENTRY = 0xAE
_PATH_TO_ROLL = (0x18538067, 0x1654AE6B, _TRACK_ENTRY, 0xE0, 0x7670, 0x7675)
"""EBML ids: Segment, Tracks, TrackEntry, Video, Projection, ProjectionPoseRoll."""
_QUARTERS = (
    UPRIGHT,
    Orientation(True, False, True),
    Orientation(False, True, True),
    Orientation(True, True, False),
)


def from_matroska(file: BinaryIO, track: int) -> Orientation:
    """Orientation of one track of a Matroska or WebM file: its `ProjectionPoseRoll` (RFC 9559).

    track: counts all tracks from 0. Reads element headers only. A file without that element, or
    one cut short, is upright. A mirror (a yaw of half a turn) is left to the frames to tell.
    """
    try:
        file.seek(0, 2)
        start, stop = 0, file.tell()
        for wanted in _PATH_TO_ROLL:
            place = track if wanted == _TRACK_ENTRY else 0
            start, stop = list(_elements(file, start, stop, wanted, place + 1))[place]
        file.seek(start)
        (roll,) = struct.unpack(">d" if stop - start == 8 else ">f", file.read(stop - start))
    except (OSError, ValueError, IndexError, struct.error):
        return UPRIGHT
    return _QUARTERS[round(roll / 90) % 4]  # counter-clockwise


def _elements(
    file: BinaryIO, start: int, stop: int, wanted: int, count: int
) -> Iterator[tuple[int, int]]:
    """(start, end) of the content of the first `count` EBML elements `wanted` in [start, stop)."""
    while start < stop and count:
        file.seek(start)
        head = file.read(12)
        width = 9 - head[0].bit_length()
        length = 9 - head[width].bit_length()
        unknown = (1 << 7 * length) - 1
        size = int.from_bytes(head[width : width + length], "big") & unknown
        start += width + length
        end = stop if size == unknown else min(start + size, stop)
        if int.from_bytes(head[:width], "big") == wanted:
            count -= 1
            yield start, end
        start = end
