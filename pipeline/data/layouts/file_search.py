"""Which files of some endings are at a location: a file, a folder at any depth, a glob, a URI?"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from marey.configs.errors import InputError
from marey.pipeline.data.discover import is_video_name
from marey.pipeline.data.remote_files import remote_files
from marey.pipeline.runtime.storage import absolute, as_utf8, is_companion, is_remote, local_path


def listed_files(source: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(name within the source, location) of each file, sorted by name.

    Raises InputError if the source does not exist or cannot be listed.
    """
    found = _remote(source, suffixes) if is_remote(source) else _local(source, suffixes)
    return iter(sorted(found))


def only_holds(source: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a source holds such files, and no video file that lies there by itself."""
    held = False
    try:
        for name, _ in _remote(source, ("",)) if is_remote(source) else _local(source, ("",)):
            if is_video_name(name):
                return False
            held = held or name.lower().endswith(suffixes)
    except InputError:
        return False
    return held


def _local(source: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    path = local_path(source)
    if path.is_dir():
        for folder, inner, files in os.walk(path):
            inner.sort()
            for name in files:
                if name.lower().endswith(suffixes) and not is_companion(name):
                    file = Path(folder, name)
                    yield as_utf8(file.relative_to(path).as_posix()), absolute(file)
    elif path.exists():
        if path.name.lower().endswith(suffixes):
            yield as_utf8(path.name), absolute(path)
    elif glob.has_magic(str(path)):
        root = path
        while glob.has_magic(str(root)):
            root = root.parent
        for text in glob.iglob(str(path), recursive=True):
            if text.lower().endswith(suffixes):
                yield as_utf8(Path(text).relative_to(root).as_posix()), absolute(text)
    else:
        raise InputError(f"no such file or folder: {source}")


def _remote(source: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for file in remote_files(source):
        if file.name.lower().endswith(suffixes):
            yield file.name, file.uri
