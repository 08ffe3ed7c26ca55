"""Where results live: one small interface over a folder or an object store, writing atomically.

A location is a local path or any URI that pyarrow's file systems know (`s3://`, `gs://`). Files
appear under their final name only when they are whole. What is asked of an object store is asked
again while its fault is of the kind that passes (`stores.patiently`): StoreError says that it did
not pass.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar, cast

from marey.configs.errors import InputError, UsageError
from marey.pipeline.runtime.range_file import RangeFile
from marey.pipeline.runtime.stores import connect, patiently

try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None

T = TypeVar("T")
OBJECT_STORES = ("s3", "gcs", "abfs")
"""pyarrow file systems where an object is there only once all of it has been taken."""


def is_remote(location: str | os.PathLike[str]) -> bool:
    """Whether the location is a URI of an object store rather than a local path."""
    scheme, separator, _ = str(location).partition("://")
    return bool(separator) and scheme != "file"


def local_path(location: str | os.PathLike[str]) -> Path:
    """A local location as a path (`file://` removed)."""
    return Path(str(location).removeprefix("file://"))


def as_utf8(text: str) -> str:
    """A name or message as Parquet holds it: bytes of a file's name that are no UTF-8 escaped."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def is_companion(name: str) -> bool:
    """Whether a file's name is `._NAME`: what macOS leaves beside NAME on disks of other systems,
    which holds nothing of it."""
    return name.startswith("._")


def absolute(location: str | os.PathLike[str]) -> str:
    """A location that means the same in every process: workers have folders of their own."""
    return str(location) if is_remote(location) else str(local_path(location).absolute())


def join(location: str, name: str) -> str:
    """The location of a file below a URI; options (`?endpoint_override=...`) stay at the end."""
    path, mark, options = location.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def without_options(location: str) -> str:
    """A location without the options of a URI (`?endpoint_override=...`)."""
    return location.partition("?")[0] if is_remote(location) else location


def split(location: str | os.PathLike[str]) -> tuple[str, str]:
    """A file's location as (folder, name), each of which keeps its meaning."""
    path, mark, options = str(location), "", ""
    if is_remote(location):
        path, mark, options = path.partition("?")
    folder, _, name = path.rpartition("/")
    return (folder or ".") + mark + options, name


def _remote(location: str):
    try:
        return patiently(lambda: connect(location), location)
    except OSError as error:
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
        return join(self.location, name)

    def exists(self, name: str = "") -> bool:
        """Whether a file (or the folder itself) is there."""
        if self._local is not None:
            return (self._local / name).exists()
        filesystem, base = self._remote  # type: ignore[misc]
        info = self._ask(lambda: filesystem.get_file_info(f"{base}/{name}".rstrip("/")))
        return bool(info.type)

    def names(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names of the files directly in a subfolder, sorted; none when it is absent."""
        found = self._all_names(folder)
        whole = (name for name in found if ".tmp-" not in name and not is_companion(name))
        return sorted(name for name in whole if name.endswith(suffix))

    def _all_names(self, folder: str) -> list[str]:
        """Also those that are being written."""
        if self._local is not None:
            base = self._local / folder
            return [p.name for p in base.iterdir() if p.is_file()] if base.is_dir() else []
        from pyarrow import fs

        filesystem, base = self._remote  # type: ignore[misc]
        selector = fs.FileSelector(f"{base}/{folder}".rstrip("/"), allow_not_found=True)
        found = self._ask(lambda: filesystem.get_file_info(selector))
        return [info.base_name for info in found if info.is_file]

    def _ask(self, attempt: Callable[[], T]) -> T:
        """What an object store answers, once it does. Raises StoreError."""
        return patiently(attempt, self.location)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep others who hold this folder out of it, on any machine that shares its file system.

        Raises UsageError while another does. Ends with the process. Object stores, and file
        systems without locks, hold nobody out.
        """
        if self._local is None or fcntl is None:
            yield
            return
        self._local.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._local, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another process is at work in {self.location}; wait for it, or give "
                    "another -o"
                ) from None
            except OSError:
                pass  # no locks here
            yield
        finally:
            os.close(handle)

    def sweep(self, folder: str = "") -> None:
        """Remove what killed writers left in a subfolder under temporary names."""
        for name in self._all_names(folder):
            if ".tmp-" in name:
                self.remove(f"{folder}/{name}".lstrip("/"))

    def size(self, name: str) -> int:
        """Bytes of a file; 0 when it is not there."""
        if self._local is not None:
            target = self._local / name
            return target.stat().st_size if target.is_file() else 0
        filesystem, base = self._remote  # type: ignore[misc]
        return self._ask(lambda: filesystem.get_file_info(f"{base}/{name}")).size or 0

    def read(self, name: str, start: int = 0) -> bytes:
        """A file's content from byte `start` on. Raises InputError when it is not there."""
        try:
            with self.opened(name) as stream:
                stream.seek(start)
                return stream.read()
        except OSError as error:
            raise InputError(f"cannot read {self.join(name)}: {error}") from error

    def opened(self, name: str) -> IO[bytes]:
        """A file to read pieces of, without the others. Raises InputError when it is not there."""
        try:
            if self._local is not None:
                return open(self._local / name, "rb")
            filesystem, base = self._remote  # type: ignore[misc]
            path = f"{base}/{name}"
            opened = RangeFile(self.join(name), lambda: filesystem.open_input_file(path))
            return cast("IO[bytes]", opened)
        except (OSError, InputError) as error:
            raise InputError(f"cannot read {self.join(name)}: {error}") from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole: an object store takes it in one piece, elsewhere it gets its name
        when it is complete. Where that fails, a file of that name stays as it was."""
        try:
            self._write(name, content)
        except OSError as error:
            if error.filename is None:  # a full disk does not say which
                raise OSError(error.errno, error.strerror or str(error), self.join(name)) from error
            raise

    def _write(self, name: str, content: bytes) -> None:
        temporary = f"{name}.tmp-{uuid.uuid4().hex[:8]}"
        if self._local is not None:
            target = self._local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(self._local / temporary, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(self._local / temporary, target)
            finally:
                self.remove(temporary)
            return
        filesystem, base = self._remote  # type: ignore[misc]

        def put(target: str) -> None:
            with filesystem.open_output_stream(f"{base}/{target}") as stream:
                stream.write(content)

        if filesystem.type_name in OBJECT_STORES:
            self._ask(lambda: put(name))
            return
        parent = f"{base}/{name}".rpartition("/")[0]
        self._ask(lambda: filesystem.create_dir(parent, recursive=True))
        try:
            self._ask(lambda: put(temporary))
            self._ask(lambda: filesystem.move(f"{base}/{temporary}", f"{base}/{name}"))
        finally:
            self.remove(temporary)

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

    def remove(self, name: str = "") -> None:
        """Remove a file or subfolder (or the folder itself), if it is there."""
        if self._local is not None:
            target = self._local / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            return
        filesystem, base = self._remote  # type: ignore[misc]
        info = self._ask(lambda: filesystem.get_file_info(f"{base}/{name}".rstrip("/")))
        with contextlib.suppress(FileNotFoundError):  # a first try may have done it
            if info.is_file:
                self._ask(lambda: filesystem.delete_file(info.path))
            elif info.type:
                self._ask(lambda: filesystem.delete_dir(info.path))
