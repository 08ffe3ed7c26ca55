"""Which bytes of an MP4 or MOV file must be read to know its packets? Its table, and little more.

The demuxer is given the file with zeros in place of the pictures and sound: it takes times, sizes
and places from the sample tables (ISO 14496-12), and never looks at what it hands on.
"""

from __future__ import annotations

from typing import Any

from marey.configs.errors import StoreError
from marey.pipeline.video.mp4_boxes import sample_entries
from marey.pipeline.video.reasons import IO_ERROR, VideoError
from marey.pipeline.video.remote import RemoteFile

PIECE = 2**18
"""A read fetches at least so much: the first has the first keyframe's head, mostly the table."""
FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
"""Boxes that an MP4 or MOV file begins with."""


MAX_TABLE = 2**26
"""Largest table, in bytes, that is read: that of a day at 30 frames per second."""
MAX_BOXES = 64
"""Boxes side by side that are looked through."""


class NoTable(Exception):
    """The file does not say in one place what its packets are, or not enough of it."""


class HeaderFile(RemoteFile):
    """A file of any place, of whose `mdat` boxes only what lies in pieces read anyway is real."""

    def __init__(self, uri: str) -> None:
        """Raises NoTable for a file without a whole table, else as `RemoteFile` does."""
        super().__init__(uri)
        self._known: list[tuple[int, bytes]] = []
        self._hollow: list[tuple[int, int]] = []
        try:
            self._walk()
        except BaseException:
            self.close()
            raise

    def _walk(self) -> None:
        place, kinds = 0, []
        while place + 8 <= self.size:
            head = self._piece(place, 16)
            kind, header = head[4:8], 8
            size = int.from_bytes(head[:4], "big")
            if size == 1:
                size, header = int.from_bytes(head[8:16], "big"), 16
            elif size == 0:
                size = self.size - place
            if size < header or place + size > self.size or not (kinds or kind in FIRST):
                raise NoTable("it is cut, or no MP4 file")
            if kind == b"moof":
                raise NoTable("its table is in fragments")
            if kind == b"mdat":
                self._hollow.append((place + header, place + size))
            if kind == b"moov":
                if size > MAX_TABLE:
                    raise NoTable("its table is too large")
                self._piece(place, size)
            kinds.append(kind)
            if len(kinds) > MAX_BOXES:
                raise NoTable("it is of very many boxes")
            place += size
        if b"moov" not in kinds:
            raise NoTable("it has no table")
        if sample_entries(self) != 1:  # type: ignore[arg-type]
            raise NoTable("its codec settings change")

    def is_real(self, start: int, size: int) -> bool:
        """Whether bytes were read, or would be."""
        held = any(a <= start and start + size <= a + len(b) for a, b in self._known)
        return held or not any(a < start + size and start < b for a, b in self._hollow)

    def hold(self, start: int, size: int) -> None:
        """Read some bytes, which are real from now on. Raises VideoError."""
        if not self.is_real(start, size):
            self._known.append((start, self._fetched(start, size)))

    def _piece(self, start: int, size: int) -> bytes:
        """Bytes from a place on, fetched where they are not held: what follows them too."""
        at, got = start, b""
        for begin, content in self._known:
            if begin <= start < begin + len(content):
                got = content[start - begin :]
                at = begin + len(content)
        if len(got) < size and at < self.size:
            got += self._fetched(at, max(size - len(got), PIECE))
            self._known.append((start, got))
        return got[:size]

    def _fetched(self, start: int, size: int) -> bytes:
        try:
            return self.fetch(start, size)
        except StoreError as error:
            self.failure = VideoError(str(error), IO_ERROR)
            raise self.failure from error

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, but for the end of the file, with zeros where nothing was read."""
        view = memoryview(buffer).cast("B")
        size = min(len(view), self.size - self._place)
        if size <= 0:
            return 0
        place = self._place
        ahead = [begin for begin, _ in self._known if begin > place]
        for begin, content in self._known:
            if begin <= place < begin + len(content):
                size = min(size, begin + len(content) - place)
                view[:size] = content[place - begin : place - begin + size]
                break
        else:
            inside = [stop for start, stop in self._hollow if start <= place < stop]
            if inside:
                size = min(size, min([*inside, *ahead]) - place)
                view[:size] = bytes(size)
            else:
                edges = [start for start, _ in self._hollow if start > place]
                size = min([size, *(edge - place for edge in (*edges, *ahead))])
                view[:size] = self._piece(place, size)
        self._place += size
        return size
