"""Which videos does a corpus have?"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from marey.configs.errors import InputError
from marey.pipeline.data.index import relative_name
from marey.pipeline.data.list_files import ListOptions, is_list_file, read_list
from marey.pipeline.data.listing import LISTINGS, Listed, Listing
from marey.pipeline.data.remote_files import remote_files
from marey.pipeline.runtime.range_file import RangeFile
from marey.pipeline.runtime.storage import as_utf8, is_companion, is_remote, local_path

SUFFIXES = frozenset(
    [
        ".mp4", ".mov", ".m4v", ".3gp", ".f4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob",
        ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".asf", ".ogv", ".mxf", ".gif", ".dv", ".y4m",
        ".ivf", ".nut", ".m2v", ".h264", ".264", ".h265", ".265", ".hevc",
    ]
)  # fmt: skip
"""File endings that a folder is searched for; a file named outright may have any."""
HEAD_BYTES = 2048
"""So much of a file is read to tell a transport stream from TypeScript."""
TS_PACKET_BYTES = 188
"""A file in a store of a multiple of this size is taken for a transport stream unread."""


def find_rows(
    sources: Iterable[str],
    lists: ListOptions,
    layout_of: Callable[[str], Listing | None] = LISTINGS.at,
) -> tuple[list[Listed], list[str]]:
    """The videos of all sources, by id, and for each source that some layout lists, which one.

    lists: how list files are read. layout_of: the layout that lies at a location.
    Raises InputError as `find_videos` and `read_list` do, and when two rows have one id.
    """
    files: list[str] = []
    rows: list[Listed] = []
    layouts: list[str] = []
    for source in sources:
        if listing := layout_of(source):
            listed = list(listing.rows(source))
            if not listed:
                raise InputError(f"{source} holds no video in the layout {listing.name}")
            layouts.append(f"{source}: {listing.name}")
            rows += listed
        elif is_list_file(source):
            layouts.append(f"{source}: list of videos")
            rows += read_list(source, lists)
        else:
            files.append(source)
    rows += find_videos(files)
    names: dict[str, Listed] = {}
    for row in rows:
        if (other := names.setdefault(row.video_id, row)) is not row:
            raise InputError(
                f"two rows have the id {row.video_id!r} ({other.uri} and {row.uri}); ids of their "
                "own, in a column `video_id`, tell them apart"
            )
    return [names[name] for name in sorted(names)], layouts


def find_videos(sources: Iterable[str]) -> list[Listed]:
    """All videos of folders (searched to any depth), files, globs and URIs, by name.

    A video's id is its path within its source. Raises InputError when a source does not exist or
    holds no video, and when two sources give two files one id or one file two.
    """
    found: dict[str, Listed] = {}
    names: dict[str, str] = {}
    for source in sources:
        files = list(_find_remote(source) if is_remote(source) else _find_local(source))
        if not files:
            raise InputError(
                f"{source} holds no video (looked for {' '.join(sorted(SUFFIXES))}, at any depth)"
            )
        for file in files:
            other = found.setdefault(file.video_id, file)
            if other.uri != file.uri:
                raise InputError(
                    f"two files would be called {file.video_id!r}: {other.uri} and {file.uri}; "
                    "index their common parent folder instead"
                )
            name = names.setdefault(file.uri, file.video_id)
            if name != file.video_id:
                raise InputError(
                    f"{file.uri} is in two of the sources, as {name!r} and {file.video_id!r}; "
                    "leave one of them out"
                )
    return [found[name] for name in sorted(found)]


def roots_of(sources: Iterable[str]) -> list[str]:
    """Below which places the files of these sources lie: a folder, or a video, itself; for a
    pattern the folder before it, for what lists or holds videos the folder that it is in."""
    return [_root_of(source) for source in sources]


_PATTERN = re.compile(r"[*\[{]")


def _root_of(source: str) -> str:
    path, mark, options = (
        source.partition("?") if is_remote(source) else (str(local_path(source)), "", "")
    )
    there = not is_remote(source) and Path(path).exists()
    if not there and (found := _PATTERN.search(path)):
        path = path[: found.start()].rpartition("/")[0] or "."
    elif PurePosixPath(path).suffix and not is_video_name(path) and not Path(path).is_dir():
        path = path.rpartition("/")[0] or "."
    return path + mark + options


def _fixed(path: Path) -> Path:
    """The part of a path that is no pattern; of one that exists, all."""
    while not path.exists() and glob.has_magic(str(path)):
        path = path.parent
    return path


def _find_local(source: str) -> Iterator[Listed]:
    path = local_path(source)
    if path.is_dir():
        root, paths = path, _videos_below(path)
    elif path.exists():
        root, paths = path.parent, iter([path])
    elif glob.has_magic(str(path)):
        root, paths = _fixed(path), map(Path, glob.iglob(str(path), recursive=True))
    else:
        raise InputError(f"no such file or folder: {source}")
    for file in paths:
        name = as_utf8(relative_name(file, root))
        if os.path.isfile(file):
            yield Listed(name, str(file.absolute()), file.stat().st_size)
        elif not os.access(file, os.R_OK):  # a link to nothing, a closed folder: a row that says so
            yield Listed(name, str(file.absolute()), 0)


def _videos_below(root: Path) -> Iterator[Path]:
    """Video files of a folder, to any depth, also behind links to folders; each folder once.

    Links are followed last, so that a file keeps its name when a link to its folder appears.
    Folders that may not be listed come out themselves.
    """
    seen: set[str] = set()
    starts = [str(root)]
    while starts:
        links: list[str] = []
        closed: list[OSError] = []
        for start in starts:
            for folder, inner, files in os.walk(start, onerror=closed.append):
                if (real := os.path.realpath(folder)) in seen:
                    inner.clear()
                    continue
                seen.add(real)
                links += [link for n in inner if os.path.islink(link := os.path.join(folder, n))]
                yield from (path for n in files if _is_video(path := Path(folder, n)))
        yield from (Path(error.filename) for error in closed)
        starts = sorted(links)


def _find_remote(source: str) -> Iterator[Listed]:
    for file in remote_files(source):
        if file.uri != source:
            if not is_video_name(file.name):
                continue
            if _may_be_text(file.name) and file.size % TS_PACKET_BYTES:
                with RangeFile(file.uri) as opened:
                    if _is_text(opened.fetch(0, HEAD_BYTES)):
                        continue
        yield Listed(file.name, file.uri, file.size)


def is_video_name(path: str) -> bool:
    """Whether a file of a folder is taken for a video, by its name."""
    name = PurePosixPath(path)
    return name.suffix.lower() in SUFFIXES and not is_companion(name.name)


def _is_video(path: Path) -> bool:
    """Whether a file of a local folder is taken for a video."""
    if not is_video_name(path.as_posix()):
        return False
    try:
        if not _may_be_text(path.name):
            return True
        with path.open("rb") as file:
            return not _is_text(file.read(HEAD_BYTES))
    except OSError:
        return True  # a row that says so


def _may_be_text(name: str) -> bool:
    """Whether a file may be TypeScript, by its name."""
    return PurePosixPath(name).suffix.lower() in (".ts", ".mts")


def _is_text(head: bytes) -> bool:
    """Whether a file that begins so is text: no control characters but those of lines."""
    return bool(head) and not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)
