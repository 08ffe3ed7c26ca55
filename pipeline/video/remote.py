"""How is a video of an object store, or in a part of a file, read? In blocks, the last few kept."""

from __future__ import annotations

import io
from collections import OrderedDict
from functools import partial
from typing import Any

from marey.configs.errors import InputError, StoreError
from marey.pipeline.runtime.address import ByteRange, Packed, byte_range
from marey.pipeline.runtime.range_file import RangeFile
from marey.pipeline.video.http_file import HttpFile, is_http
from marey.pipeline.video.reasons import IO_ERROR, VideoError

BLOCK_BYTES = 2**20
"""A read fetches so much: libav asks for 32 KiB at a time, and each request costs a round trip."""
BLOCKS_KEPT = 8
"""Blocks in memory a file: a demuxer goes to and fro between index, pictures and sound."""
MAX_UNPACKED = 2**31
"""Largest part, in bytes, that is unpacked: how large it becomes is a number in its address."""


class RemoteFile(RangeFile):
    """A file behind a URI that pyarrow's file systems know, or `http`, or a range of any file.

    failure: the VideoError that a read ended with. libav is given it as well, but may take it for
    the end of the file.
    """

    def __init__(self, uri: str, block_bytes: int = BLOCK_BYTES) -> None:
        """uri: see `runtime.address` for ranges. block_bytes: size of one request.

        Raises InputError if there is no such file, or a range ends after it, and VideoError if it
        cannot be reached.
        """
        self.failure: VideoError | None = None
        self._block_bytes = block_bytes
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        try:
            part = byte_range(uri)
            location = part.location if part else uri
            super().__init__(uri, partial(HttpFile, location) if is_http(location) else None)
        except StoreError as error:
            raise VideoError(str(error), IO_ERROR) from error

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, but for the end of the file. Raises VideoError (`io_error`)."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._place < self.size:
            number, inside = divmod(self._place, self._block_bytes)
            piece = self._block(number)[inside : inside + len(view) - done]
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._place += len(piece)
        return done

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        try:
            block = self.fetch(number * self._block_bytes, self._block_bytes)
        except StoreError as error:
            self.failure = VideoError(str(error), IO_ERROR)
            raise self.failure from error
        self._blocks[number] = block
        while len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return block


class PackedFile(io.BytesIO):
    """A file in a compressed part of another one: that part alone is fetched, and held unpacked.

    failure: as that of a `RemoteFile`; what cannot be reached shows when it is opened.
    """

    failure: VideoError | None = None

    def __init__(self, part: ByteRange, packed: Packed) -> None:
        """Raises InputError if it cannot be unpacked, or as `RemoteFile` does."""
        import pyarrow as pa

        if packed.whole_size > MAX_UNPACKED:
            raise InputError(
                f"{part.uri}: would be {packed.whole_size} bytes unpacked; the bound is "
                f"{MAX_UNPACKED}"
            )
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
