"""Where do the members of a tar or a zip begin? Read from their headers; nothing is unpacked."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from marey.configs.errors import InputError
from marey.pipeline.runtime.storage import is_remote, local_path
from marey.pipeline.video.reasons import VideoError
from marey.pipeline.video.remote import RemoteFile

HEADER_BLOCK_BYTES = 2**16
"""One request for headers of an object store; a member's video lies between two of them."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    start, size: of its content in the archive, in bytes. fault: why it cannot be read in place.
    """

    name: str
    start: int
    size: int
    fault: str = ""


def open_archive(location: str) -> BinaryIO:
    """A file to look around in. Raises InputError where there is none."""
    if is_remote(location):
        file = RemoteFile(location, HEADER_BLOCK_BYTES)
        return cast(BinaryIO, io.BufferedReader(file, HEADER_BLOCK_BYTES))
    try:
        return open(local_path(location), "rb")
    except OSError as error:
        raise InputError(f"{location}: cannot be opened ({error.strerror})") from error


def tar_members(location: str, file: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar, in its order. Links and folders are no members.

    Raises InputError where a header cannot be read: what came before it is good.
    """
    if (head := file.read(6))[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head == b"\xfd7zXZ\0":
        raise InputError(
            f"{location}: is a compressed tar, in which nothing can be read in place; "
            "decompress it (gunzip, bunzip2, unxz)"
        )
    file.seek(0, io.SEEK_END)
    end = file.tell()
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header
                if not info.isreg():
                    continue
                sparse = "is stored sparse; write it anew without `--sparse`"
                cut = "is cut short: the archive ends within it"
                fault = sparse if info.issparse() else ""
                if info.offset_data + info.size > end:
                    fault = cut
                yield Member(info.name, info.offset_data, info.size, fault)
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        if isinstance(error, VideoError):
            raise
        raise InputError(f"{location}: its headers cannot be read on ({error})") from error


def zip_members(location: str, file: BinaryIO) -> Iterator[Member]:
    """The files of a zip, in the order of its directory. Raises InputError where it has none."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{location}: is no whole zip ({error})") from error
    for info in archive.infolist():
        if info.is_dir():
            continue
        if info.compress_type != zipfile.ZIP_STORED:
            fault = "is deflated, so no part of it can be read in place; write the zip anew, stored"
            yield Member(info.filename, 0, info.file_size, f"{fault} (zip -0)")
        elif info.flag_bits & 1:
            yield Member(info.filename, 0, info.file_size, "is encrypted; write the zip anew")
        else:
            yield _stored(file, info)


def _stored(file: BinaryIO, info: zipfile.ZipInfo) -> Member:
    """Where the content of a stored member begins: after a header whose length it states itself."""
    try:
        file.seek(info.header_offset)
        head = file.read(_LOCAL_HEADER.size)
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)
    except (OSError, struct.error):
        magic, name_bytes, extra_bytes = b"", 0, 0
    if magic != b"PK\3\4":
        return Member(info.filename, 0, info.file_size, "is not where the zip's directory says")
    start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    return Member(info.filename, start, info.file_size)
