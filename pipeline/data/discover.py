"""Which videos does a corpus have, and which of them show one event from several cameras?"""

from __future__ import annotations

import csv
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from marey.configs.errors import InputError, UsageError
from marey.pipeline.data.index import relative_name
from marey.pipeline.runtime.storage import as_utf8, is_companion, is_remote, join, local_path

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


@dataclass(frozen=True, slots=True)
class Found:
    """A file of the corpus: its stable name and where it is."""

    video_id: str
    uri: str
    bytes: int


def find_videos(sources: Iterable[str]) -> list[Found]:
    """All videos of folders (searched to any depth), files, globs and URIs, by name.

    A video's id is its path within its source. Raises InputError when a source does not exist or
    holds no video, and when two sources give two files one id or one file two.
    """
    found: dict[str, Found] = {}
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


def _find_local(source: str) -> Iterator[Found]:
    path = local_path(source)
    if path.is_dir():
        root, paths = path, _videos_below(path)
    elif path.exists():
        root, paths = path.parent, iter([path])
    elif glob.has_magic(str(path)):
        fixed = path
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        root, paths = fixed, map(Path, glob.iglob(str(path), recursive=True))
    else:
        raise InputError(f"no such file or folder: {source}")
    for file in paths:
        name = as_utf8(relative_name(file, root))
        if os.path.isfile(file):
            yield Found(name, str(file.absolute()), file.stat().st_size)
        elif not os.access(file, os.R_OK):  # a link to nothing, a closed folder: a row that says so
            yield Found(name, str(file.absolute()), 0)


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


def _find_remote(source: str) -> Iterator[Found]:
    from pyarrow import fs

    try:
        filesystem, base = fs.FileSystem.from_uri(source)
        info = filesystem.get_file_info(base)
        if info.type == fs.FileType.NotFound:
            raise InputError(f"no such file or folder: {source}")
        if info.is_file:
            yield Found(info.base_name, source, info.size)
            return
        for item in filesystem.get_file_info(fs.FileSelector(base, recursive=True)):
            if item.is_file and _may_be_video(item.path):
                if _may_be_text(item.path) and item.size % TS_PACKET_BYTES:
                    with filesystem.open_input_stream(item.path) as stream:
                        if _is_text(stream.read(HEAD_BYTES)):
                            continue
                name = PurePosixPath(item.path).relative_to(base).as_posix()
                yield Found(name, join(source, name), item.size)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot list {source}: {error}") from error


def _may_be_video(path: str) -> bool:
    """Whether a file of a folder is taken for a video, by its name."""
    name = PurePosixPath(path)
    return name.suffix.lower() in SUFFIXES and not is_companion(name.name)


def _is_video(path: Path) -> bool:
    """Whether a file of a local folder is taken for a video."""
    if not _may_be_video(path.as_posix()):
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


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a video stands among its event's views, and what the event shows, if that is known."""

    event: str
    view: str
    label: str = ""
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0


def group_views(names: list[str], views: str | None) -> dict[str, Placement]:
    """The event and view of every video id.

    views: None (each video is its own event), a regular expression with the named groups `event`
    and `view`, `label`, or all three, searched for in the id, or the path of a CSV with the columns
    `video_id,event,view` and optionally `label,clock_offset_s,clock_rate`. A video that it does not
    cover is its own event, without label.
    Raises UsageError when it covers none, or gives two videos one view of one event.
    """
    if views is None:
        return {name: Placement(name, "0") for name in names}
    rule = _read_placements(views) if views.lower().endswith(".csv") else _match_placements(views)
    placed = {name: rule(name) for name in names}
    if names and not any(placed.values()):
        raise UsageError(f"--views {views} covers none of the videos (first: {names[0]!r})")
    result: dict[str, Placement] = {}
    taken: dict[tuple[str, str], str] = {}
    for name, placement in placed.items():
        placement = placement or Placement(name, "0")
        other = taken.setdefault((placement.event, placement.view), name)
        if other != name:
            raise UsageError(
                f"--views {views} gives {other!r} and {name!r} the same event "
                f"{placement.event!r} and view {placement.view!r}"
            )
        result[name] = placement
    return result


def _match_placements(expression: str) -> Callable[[str], Placement | None]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--views {expression} is no regular expression: {error}") from error
    groups = pattern.groupindex.keys()
    grouped = {"event", "view"} <= groups
    if not grouped and not ("label" in groups and groups.isdisjoint({"event", "view"})):
        raise UsageError(
            f"--views {expression} must name the groups (?P<event>...) and (?P<view>...), "
            "or (?P<label>...) alone"
        )

    def place(name: str) -> Placement | None:
        match = pattern.search(name)
        if match is None:
            return None
        label = (match["label"] or "") if "label" in groups else ""
        if not grouped:
            return Placement(name, "0", label)
        # what stands before the match keeps equal names of different folders apart
        return Placement(name[: match.start("event")] + match["event"], match["view"], label)

    return place


def _read_placements(location: str) -> Callable[[str], Placement | None]:
    path = local_path(location)
    if not path.is_file():
        raise InputError(f"no such file: {location}")
    rows: dict[str, Placement] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        absent = {"video_id", "event", "view"} - set(reader.fieldnames or ())
        if absent:
            raise InputError(f"{location} lacks the column {', '.join(sorted(absent))}")
        for line, row in enumerate(reader, start=2):
            try:
                offset = float(row.get("clock_offset_s") or 0)
                rate = float(row.get("clock_rate") or 1)
            except ValueError as error:
                raise InputError(f"{location}, line {line}: {error}") from error
            if not 0.5 <= rate <= 2:
                raise InputError(f"{location}, line {line}: clock_rate {rate} is not in [0.5, 2]")
            label = row.get("label") or ""
            rows[row["video_id"]] = Placement(row["event"], row["view"], label, offset, rate)
    return rows.get
