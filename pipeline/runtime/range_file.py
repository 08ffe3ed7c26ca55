"""A file of an object store, or a part of any file, read by ranges: it rides out what passes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

from marey.configs.errors import InputError
from marey.pipeline.runtime.address import byte_range
from marey.pipeline.runtime.stores import connect, patiently


class RangeFile(io.RawIOBase):
    """A file behind a URI that pyarrow's file systems know, or a range of bytes of any file.

    Nothing outside of a range is fetched. size: in bytes. requests, bytes_read: what has been
    asked for so far.
    """

    def __init__(self, uri: str, opener: Callable[[], Any] | None = None) -> None:
        """uri: see `runtime.address` for ranges. opener: opens it, where that is known.

        Raises InputError if there is no such file, or a range ends after it, and StoreError if it
        cannot be reached.
        """
        self.uri = uri
        self.requests = self.bytes_read = 0
        self._place = 0
        self._file: Any = None
        part = byte_range(uri)
        self._location = part.location if part else uri
        try:
            self._open = opener or patiently(lambda: _opener(self._location), self._location)
            self._file = patiently(self._open, self._location)
            whole = int(patiently(lambda: _size(self._file), self._location))
        except (OSError, ValueError) as error:
            text = str(error).strip() or type(error).__name__
            raise InputError(f"{uri}: cannot be opened ({text.splitlines()[0]})") from error
        self._start, self.size = (part.start, part.size) if part else (0, whole)
        if self._start + self.size > whole:
            self.close()
            raise InputError(
                f"{uri}: the range ends at byte {self._start + self.size} of a file of {whole}; "
                "if the file has changed, index it again"
            )

    def fetch(self, start: int, size: int) -> bytes:
        """Bytes from `start` on: `size` of them, or as many as there are. Raises StoreError."""
        wanted = max(0, min(size, self.size - start))
        return patiently(lambda: self._fetch(start, wanted), self._location) if wanted else b""

    def _fetch(self, start: int, wanted: int) -> bytes:
        if self._file is None:
            self._file = self._open()
        try:
            self._file.seek(self._start + start)
            content = self._file.read(wanted)
        except OSError:
            self._file.close()  # a connection that broke may not serve again
            self._file = None
            raise
        if len(content) < wanted:
            raise OSError(f"{len(content)} of {wanted} bytes from {start} on came")
        self.requests += 1
        self.bytes_read += wanted
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, but for the end of the file. Raises StoreError."""
        view = memoryview(buffer).cast("B")
        content = self.fetch(self._place, len(view))
        view[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _opener(location: str) -> Callable[[], Any]:
    """A function that opens a file for reading."""
    scheme, found, _ = location.partition("://")
    if not found or scheme == "file":
        return lambda: open(location.removeprefix("file://"), "rb", buffering=0)
    system, path = connect(location)
    return lambda: system.open_input_file(path)


def _size(file: Any) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size if isinstance(file, io.RawIOBase) else file.size()
