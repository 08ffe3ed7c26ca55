"""Which files lie at a URI? Listed with the patience that all requests to a store have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from marey.configs.errors import InputError
from marey.pipeline.runtime.storage import join
from marey.pipeline.runtime.stores import connect, patiently
from marey.pipeline.video.http_file import is_http


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a store. name: within what was listed. size: in bytes, 0 where it is not known."""

    name: str
    uri: str
    size: int = 0


def remote_files(source: str) -> Iterator[RemoteFile]:
    """The file at a URI, or those below it, at any depth.

    A web server lists no folders: an `http(s)://` address is one file. Raises InputError where
    nothing is there or it cannot be listed, StoreError where the store gives no answer.
    """
    from pyarrow import fs  # slow to import

    if is_http(source):
        yield RemoteFile(source.partition("?")[0].rstrip("/").rpartition("/")[2], source)
        return
    try:
        filesystem, base = patiently(lambda: connect(source), source)
        info = patiently(lambda: filesystem.get_file_info(base), source)
        if info.type == fs.FileType.NotFound:
            raise InputError(f"no such file or folder: {source}")
        if info.is_file:
            yield RemoteFile(info.base_name, source, info.size)
            return
        below = fs.FileSelector(base, recursive=True)
        found = patiently(lambda: filesystem.get_file_info(below), source)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot list {source}: {error}") from error
    for item in found:
        if item.is_file:
            name = PurePosixPath(item.path).relative_to(base).as_posix()
            yield RemoteFile(name, join(source, name), item.size)
