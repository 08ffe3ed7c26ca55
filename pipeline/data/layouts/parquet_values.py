"""Where in a Parquet file do the bytes of each value of a column begin? Read from its page headers.

A page holds a value as it is, after its length, and may be compressed as a whole. Headers are
Thrift's compact protocol; the format is that of github.com/apache/parquet-format (Encodings.md,
parquet.thrift).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.runtime.address import Packed


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a value are. start, size: in the file, or in what is unpacked first."""

    start: int
    size: int
    packed: Packed | None = None


DATA, DICTIONARY, DATA_V2 = 0, 2, 3
"""Types of pages."""
PLAIN, BY_NUMBER = 0, (2, 8)
"""Encodings: the values themselves; their numbers in the dictionary page."""
CODECS = {"UNCOMPRESSED": "none", "LZ4": "lz4_raw"}
"""Codecs that `pyarrow.decompress` calls otherwise than in lower case."""
_LENGTH = struct.Struct("<I")


def locate_values(
    file: BinaryIO, table: pq.ParquetFile, column: int, group: int
) -> Iterator[Place | None]:
    """Where the values of one row group lie, row by row; None for null.

    column: number of a column of bytes among the file's leaf columns, not inside a list.
    Raises InputError where they do not lie in the file as bytes.
    """
    about = table.metadata.row_group(group).column(column)
    named = str(about.compression)
    codec = CODECS.get(named, named.lower())
    shape = table.schema.column(column)
    if shape.max_repetition_level:
        raise InputError("its values lie in lists")
    start = about.data_page_offset
    if about.has_dictionary_page and about.dictionary_page_offset:
        start = min(start, about.dictionary_page_offset)
    stop = start + about.total_compressed_size
    dictionary: list[Place] = []
    while start < stop:
        file.seek(start)
        header = _structure(file)
        page = _Page(file, header, file.tell(), codec)
        start = page.stop
        if header[1] == DICTIONARY:
            dictionary = list(page.plain(page.values, header[7][1]))
        elif header[1] in (DATA, DATA_V2):
            yield from _places(page, shape.max_definition_level, dictionary)


class _Page:
    """A page of a column: its levels, and its values, perhaps compressed."""

    def __init__(self, file: BinaryIO, header: dict[int, Any], start: int, codec: str) -> None:
        whole_file = file
        self.header = header
        self.stop = start + header[3]
        levels = header[8][5] + header[8][6] if header[1] == DATA_V2 else 0
        apart = header[1] == DATA_V2 and not header[8].get(7, True)
        self.packed: Packed | None = None
        if codec != "none" and not apart and self.stop > start + levels:
            size, whole = self.stop - start - levels, header[2] - levels
            self.packed = Packed(start + levels, size, codec, whole)
            file.seek(start + levels)
            file = _unpacked(file.read(size), self.packed)
        self._whole, self._start = whole_file, start
        self._file = file
        self.values = 0 if self.packed else start + levels

    def read(self, start: int, size: int) -> bytes:
        """Some of its values' bytes. start: as of places."""
        self._file.seek(start)
        return self._file.read(size)

    def plain(self, start: int, count: int) -> Iterator[Place]:
        """Values one after another, each after its length."""
        for _ in range(count):
            (size,) = _LENGTH.unpack(self.read(start, 4))
            yield Place(start + 4, size, self.packed)
            start += 4 + size

    def levels(self, before: int, size: int) -> bytes:
        """The levels of a page of the second version, which are never compressed."""
        self._whole.seek(self._start + before)
        return self._whole.read(size)

    def rest(self, start: int) -> bytes:
        """All from a place on."""
        end = self.packed.whole_size if self.packed else self.stop
        return self.read(start, end - start)


def _unpacked(content: bytes, packed: Packed) -> BinaryIO:
    try:
        whole = pa.decompress(content, packed.whole_size, packed.codec, asbytes=True)
    except (OSError, ValueError) as error:
        raise InputError(f"a page cannot be unpacked with {packed.codec} ({error})") from error
    return io.BytesIO(whole)


def _places(page: _Page, depth: int, known: list[Place]) -> Iterator[Place | None]:
    """The values of one data page. depth: the level at which a value is there."""
    second = page.header[1] == DATA_V2
    about = page.header[8] if second else page.header[5]
    count, encoding = about[1], about[4] if second else about[2]
    values = page.values
    levels = [depth] * count
    if second:
        if about[2]:
            packed_levels = page.levels(about[6], about[5])
            levels = _hybrid(packed_levels, depth.bit_length(), count)
    elif depth:
        (size,) = _LENGTH.unpack(page.read(values, 4))
        levels = _hybrid(page.read(values + 4, size), depth.bit_length(), count)
        values += 4 + size
    present = [level == depth for level in levels]
    if encoding == PLAIN:
        found = page.plain(values, sum(present))
    elif encoding in BY_NUMBER:
        content = page.rest(values)
        found = (known[n] for n in _hybrid(content[1:], content[0], sum(present)))
    else:
        raise InputError(
            f"its values are encoded (encoding {encoding}); write it anew with plain encoding"
        )
    for there in present:
        yield next(found) if there else None


def _hybrid(content: bytes, width: int, count: int) -> list[int]:
    """Whole numbers of `width` bits in runs, repeated or packed in groups of eight."""
    found: list[int] = []
    wide = -(-width // 8)
    place = 0
    while len(found) < count and place < len(content):
        head, place = _varint(content, place)
        if head & 1:
            size = (head >> 1) * width
            packed = int.from_bytes(content[place : place + size], "little")
            mask = (1 << width) - 1
            found += [packed >> (n * width) & mask for n in range((head >> 1) * 8)]
            place += size
        else:
            value = int.from_bytes(content[place : place + wide], "little")
            found += [value] * min(head >> 1, count - len(found))
            place += wide
    return found[:count]


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


# Thrift, compact: a field is a byte (step of its number, type), then its value.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12


def _structure(file: BinaryIO) -> dict[int, Any]:
    """A Thrift structure from where the file stands: field number -> value."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := _byte(file)) != 0:
        step = head >> 4
        number = number + step if step else _signed(file)
        fields[number] = _value(file, head & 15)
    return fields


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE
    if kind == _BYTE:
        return _byte(file)
    if kind == _DOUBLE:
        return file.read(8)
    if kind == _BINARY:
        return file.read(_unsigned(file))
    if kind in (_LIST, _SET):
        head = _byte(file)
        count = head >> 4 if head >> 4 < 15 else _unsigned(file)
        return [_value(file, head & 15) for _ in range(count)]
    return _structure(file) if kind == _STRUCT else _signed(file)


def _byte(file: BinaryIO) -> int:
    if not (byte := file.read(1)):
        raise InputError("it ends within the header of a page")
    return byte[0]


def _unsigned(file: BinaryIO) -> int:
    value = shift = 0
    while (byte := _byte(file)) > 127:
        value |= (byte & 127) << shift
        shift += 7
    return value | byte << shift


def _signed(file: BinaryIO) -> int:
    value = _unsigned(file)
    return value >> 1 ^ -(value & 1)
