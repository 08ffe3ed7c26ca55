"""How does one string say where a video is, when it is part of a file, or a folder of frames?

    range://START+SIZE.SUFFIX/FILE
        SIZE bytes of FILE from byte START on; SUFFIX as of `.mp4`
    range://START+SIZE.SUFFIX@PACKED_START+PACKED_SIZE:CODEC:WHOLE_SIZE/FILE
        the same of what PACKED_SIZE bytes of FILE hold, packed: a page of a Parquet table
    frames://FPS/FOLDER
        the numbered images of FOLDER; number k is shown from k / FPS

FILE and FOLDER are whatever a location may be: a local path, or a URI of a file system.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RANGE, FRAMES = "range://", "frames://"
_RANGE = re.compile(r"range://(\d+)\+(\d+)(\.\w+)?(?:@(\d+)\+(\d+):(\w+):(\d+))?/(.+)", re.DOTALL)
_FRAMES = re.compile(r"frames://(\d+(?:\.\d+)?)/(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Packed:
    """A part of a file that is compressed as one piece.

    start, size: in the file, in bytes. codec: as `pyarrow.decompress` calls it. whole_size: bytes
    that come out.
    """

    start: int
    size: int
    codec: str
    whole_size: int


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A file that lies within another one.

    start, size: in bytes. suffix: of its name, such as `.mp4`; "" where it has none. packed: what
    has to be unpacked first, of which `start` then counts; None where it lies there as it is.
    """

    location: str
    start: int
    size: int
    suffix: str = ""
    packed: Packed | None = None

    @property
    def uri(self) -> str:
        """The address of these bytes."""
        page, packed = self.packed, ""
        if page:
            packed = f"@{page.start}+{page.size}:{page.codec}:{page.whole_size}"
        return f"{RANGE}{self.start}+{self.size}{self.suffix}{packed}/{self.location}"


@dataclass(frozen=True, slots=True)
class FrameFolder:
    """A folder of numbered images, one a frame. fps: frames per second."""

    location: str
    fps: float

    @property
    def uri(self) -> str:
        """The address of this folder as a video."""
        rate = f"{self.fps:.6f}".rstrip("0").rstrip(".")
        return f"{FRAMES}{rate}/{self.location}"


def byte_range(uri: str) -> ByteRange | None:
    """The range that an address names; None for an address of another form."""
    if match := _RANGE.fullmatch(uri):
        packed = None
        if match[6]:
            packed = Packed(int(match[4]), int(match[5]), match[6], int(match[7]))
        return ByteRange(match[8], int(match[1]), int(match[2]), match[3] or "", packed)
    return None


def frame_folder(uri: str) -> FrameFolder | None:
    """The folder of frames that an address names; None for an address of another form."""
    match = _FRAMES.fullmatch(uri)
    return FrameFolder(match[2], float(match[1])) if match else None


def place_of(uri: str) -> str:
    """The file or folder that must be there for an address to be read."""
    part = byte_range(uri) or frame_folder(uri)
    return part.location if part else uri
