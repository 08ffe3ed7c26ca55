"""How is a file of an object store, or a part of a file, read? In blocks, again where it fails."""

from __future__ import annotations

import io
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from marey.configs.errors import InputError
from marey.pipeline.runtime.address import ByteRange, Packed, byte_range
from marey.pipeline.runtime.storage import is_remote, local_path
from marey.pipeline.video.http_file import HttpFile, is_http
from marey.pipeline.video.reasons import IO_ERROR, VideoError

BLOCK_BYTES = 2**20
"""A read fetches so much: libav asks for 32 KiB at a time, and each request costs a round trip."""
BLOCKS_KEPT = 8
"""Blocks in memory a file: a demuxer goes to and fro between index, pictures and sound."""
PAUSES_S = (0.5, 2.0, 8.0)
"""Waits before the second, third and fourth try of a request; then it has failed."""
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that another try does not mend."""
T = TypeVar("T")


def persistently(attempt: Callable[[], T], uri: str) -> T:
    """What `attempt` gives, tried again after each OSError that may pass.

    Raises VideoError (`io_error`) when every try failed, and errors of `FINAL` at once.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            return attempt()
        except FINAL:
            raise
        except OSError as error:
            if pause_s is None:
                raise VideoError(
                    f"{uri}: cannot be read, {len(PAUSES_S) + 1} tries failed ({error})", IO_ERROR
                ) from error
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


class RemoteFile(io.RawIOBase):
    """A file behind a URI that pyarrow's file systems know, or `http`, or a range of any file.

    failure: the VideoError that a read ended with. libav is given it as well, but may take it for
    the end of the file. Nothing outside of a range is fetched.
    """

    def __init__(self, uri: str, block_bytes: int = BLOCK_BYTES) -> None:
        """uri: see `runtime.address` for ranges. block_bytes: size of one request.

        Raises InputError if there is no such file, or a range ends after it, and VideoError if it
        cannot be reached.
        """
        self.failure: VideoError | None = None
        self._uri = uri
        self._block_bytes = block_bytes
        self._place = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._file: Any = None
        part = byte_range(uri)
        location = part.location if part else uri
        try:
            self._open = persistently(lambda: _opener(location), uri)
            self._file = persistently(self._open, uri)
            size = int(persistently(lambda: _size(self._file), uri))
        except (OSError, ValueError) as error:
            text = str(error).strip() or type(error).__name__
            raise InputError(f"{uri}: cannot be opened ({text.splitlines()[0]})") from error
        self._start, self._size = (part.start, part.size) if part else (0, size)
        if self._start + self._size > size:
            self.close()
            raise InputError(
                f"{uri}: the range ends at byte {self._start + self._size} of a file of {size}; "
                "if the file has changed, index it again"
            )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, but for the end of the file. Raises VideoError (`io_error`)."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._place < self._size:
            number, inside = divmod(self._place, self._block_bytes)
            piece = self._block(number)[inside : inside + len(view) - done]
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._place += len(piece)
        return done

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        try:
            block = persistently(lambda: self._fetch(number * self._block_bytes), self._uri)
        except VideoError as error:
            self.failure = error
            raise
        self._blocks[number] = block
        while len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return block

    def _fetch(self, start: int) -> bytes:
        wanted = min(self._block_bytes, self._size - start)
        if self._file is None:
            self._file = self._open()
        try:
            self._file.seek(self._start + start)
            block = self._file.read(wanted)
        except OSError:
            self._file.close()  # a connection that broke may not serve again
            self._file = None
            raise
        if len(block) < wanted:
            raise OSError(f"{len(block)} of {wanted} bytes from {start} on came")
        return block


class PackedFile(io.BytesIO):
    """A file in a compressed part of another one: that part alone is fetched, and held unpacked.

    failure: as that of a `RemoteFile`; what cannot be reached shows when it is opened.
    """

    failure: VideoError | None = None

    def __init__(self, part: ByteRange, packed: Packed) -> None:
        """Raises InputError if it cannot be unpacked, or as `RemoteFile` does."""
        import pyarrow as pa

        with RemoteFile(ByteRange(part.location, packed.start, packed.size).uri) as file:
            content = file.read()
        try:
            whole = pa.decompress(content, packed.whole_size, packed.codec, asbytes=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{part.uri}: cannot be unpacked ({error})") from error
        super().__init__(whole[part.start : part.start + part.size])


def open_stored(uri: str) -> RemoteFile | PackedFile:
    """A file of an object store, or a part of any file. Raises InputError and VideoError."""
    part = byte_range(uri)
    return PackedFile(part, part.packed) if part and part.packed else RemoteFile(uri)


def _opener(location: str) -> Callable[[], Any]:
    """A function that opens a file for reading."""
    if not is_remote(location):
        return lambda: open(local_path(location), "rb", buffering=0)
    if is_http(location):
        return lambda: HttpFile(location)
    import pyarrow.fs  # slow to import, and needed for remote files only

    system, path = pyarrow.fs.FileSystem.from_uri(location)
    return lambda: system.open_input_file(path)


def _size(file: Any) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size if isinstance(file, io.RawIOBase) else file.size()
