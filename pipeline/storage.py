"""Where results live: one small interface over a folder or an object store, writing atomically.

A location is a local path or any URI that pyarrow's file systems know (`s3://`, `gs://`). Files
appear under their final name only when they are whole.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from configs.errors import InputError


def is_remote(location: str | os.PathLike[str]) -> bool:
    """Whether the location is a URI of an object store rather than a local path."""
    scheme, separator, _ = str(location).partition("://")
    return bool(separator) and scheme != "file"


def local_path(location: str | os.PathLike[str]) -> Path:
    """A local location as a path (`file://` removed)."""
    return Path(str(location).removeprefix("file://"))


def absolute(location: str | os.PathLike[str]) -> str:
    """A location that means the same in every process: workers have folders of their own."""
    return str(location) if is_remote(location) else str(local_path(location).absolute())


def _remote(location: str):
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(location)
    except Exception as error:
        raise InputError(f"cannot open {location}: {error}") from error


class Folder:
    """Files by relative name under one location."""

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.location = str(location)
        self._remote = _remote(self.location) if is_remote(location) else None
        self._local = None if self._remote else local_path(location)

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self.location,)

    def join(self, name: str) -> str:
        """The full location of one file."""
        if self._local is not None:
            return str(self._local / name)
        return f"{self.location.rstrip('/')}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether a file (or the folder itself) is there."""
        if self._local is not None:
            return (self._local / name).exists()
        filesystem, base = self._remote  # type: ignore[misc]
        return bool(filesystem.get_file_info(f"{base}/{name}".rstrip("/")).type)

    def names(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names of the files directly in a subfolder, sorted; none when it is absent."""
        if self._local is not None:
            base = self._local / folder
            found = [p.name for p in base.iterdir() if p.is_file()] if base.is_dir() else []
        else:
            from pyarrow import fs

            filesystem, base = self._remote  # type: ignore[misc]
            selector = fs.FileSelector(f"{base}/{folder}".rstrip("/"), allow_not_found=True)
            found = [i.base_name for i in filesystem.get_file_info(selector) if i.is_file]
        return sorted(name for name in found if name.endswith(suffix) and ".tmp-" not in name)

    def size(self, name: str) -> int:
        """Bytes of a file; 0 when it is not there."""
        if self._local is not None:
            target = self._local / name
            return target.stat().st_size if target.is_file() else 0
        filesystem, base = self._remote  # type: ignore[misc]
        return filesystem.get_file_info(f"{base}/{name}").size or 0

    def read(self, name: str, start: int = 0) -> bytes:
        """A file's content from byte `start` on. Raises InputError when it is not there."""
        try:
            with self._opened(name) as stream:
                stream.seek(start)
                return stream.read()
        except OSError as error:
            raise InputError(f"cannot read {self.join(name)}: {error}") from error

    def _opened(self, name: str) -> IO[bytes]:
        if self._local is not None:
            return open(self._local / name, "rb")
        filesystem, base = self._remote  # type: ignore[misc]
        return filesystem.open_input_file(f"{base}/{name}")

    def write(self, name: str, content: bytes | Callable[[IO[bytes]], object]) -> None:
        """Write a file whole: under a temporary name, then renamed (an object store commits
        an object only when its upload is complete)."""
        put = content if callable(content) else (lambda stream: stream.write(content))
        if self._local is None:
            filesystem, base = self._remote  # type: ignore[misc]
            with filesystem.open_output_stream(f"{base}/{name}") as stream:
                put(stream)
            return
        target = self._local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex[:8]}")
        try:
            with open(temporary, "wb") as stream:
                put(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def append(self, name: str, content: bytes) -> None:
        """Add to a file (a log). An object store has no append: the object is written again."""
        if self._local is None:
            before = self.read(name) if self.exists(name) else b""
            self.write(name, before + content)
            return
        target = self._local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "ab") as stream:
            stream.write(content)

    def remove(self, name: str) -> None:
        """Remove a file or subfolder, if it is there."""
        if self._local is not None:
            target = self._local / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            return
        filesystem, base = self._remote  # type: ignore[misc]
        info = filesystem.get_file_info(f"{base}/{name}")
        if info.is_file:
            filesystem.delete_file(info.path)
        elif info.type:
            filesystem.delete_dir(info.path)


def sweep(folder: Folder, subfolder: str = "") -> None:
    """Remove what killed writers left under temporary names (local folders only)."""
    base = local_path(folder.join(subfolder))
    if not is_remote(folder.location) and base.is_dir():
        for leftover in base.glob("*.tmp-*"):
            leftover.unlink(missing_ok=True)
