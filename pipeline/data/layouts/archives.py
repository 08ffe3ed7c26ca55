"""Videos in tars and zips, read in place: WebDataset shards and what video2dataset writes.

Members whose names are equal up to the first dot belong together: `KEY.mp4`, `KEY.json`, `KEY.cls`.
Several videos of one key (`KEY.left.mp4`, `KEY.right.mp4`) are views of one event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from marey.configs.errors import InputError
from marey.pipeline.data.discover import is_video_name
from marey.pipeline.data.layouts.archive_members import (
    Member,
    open_archive,
    tar_members,
    zip_members,
)
from marey.pipeline.data.layouts.file_search import listed_files, only_holds
from marey.pipeline.data.listing import Listed, register_listing
from marey.pipeline.runtime.address import ByteRange
from marey.pipeline.runtime.storage import is_companion

_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
"""As WebDataset parts a name: up to the first dot of its last part, and the rest."""
ABOUT_BYTES = 2**20
"""Largest `.json`, `.cls` or `.txt` that is read as being about a video."""
LABEL_FIELDS = ("label", "class")
"""Fields of a `.json` that name a class, where there is no `.cls`."""


def list_tars(source: str) -> Iterator[Listed]:
    """The videos of tar shards, by `SHARD/MEMBER`."""
    for name, location in listed_files(source, (".tar",)):
        yield from _videos(name, location, tar_members)


def list_zips(source: str) -> Iterator[Listed]:
    """The videos of zips, by `ZIP/MEMBER`."""
    for name, location in listed_files(source, (".zip",)):
        yield from _videos(name, location, zip_members)


def _videos(
    archive: str, location: str, members_of: Callable[[str, BinaryIO], Iterator[Member]]
) -> Iterator[Listed]:
    """The videos of one archive; where it cannot be read on, a last one that says so."""
    groups: dict[str, _Sample] = {}
    fault = ""
    try:
        with open_archive(location) as file:
            for member in members_of(location, file):
                _sort_in(groups, member)
            for sample in groups.values():
                sample.read_about(file)
    except InputError as error:
        fault = str(error)
    for key, sample in groups.items():
        yield from sample.listed(archive, location, key)
    if fault:
        yield Listed(archive, location, error=f"{archive}: {fault}")
    elif not any(sample.videos for sample in groups.values()):
        yield Listed(archive, location, error=f"{archive}: holds no video")


def _sort_in(groups: dict[str, _Sample], member: Member) -> None:
    match = _KEY.fullmatch(member.name)
    if match is None or is_companion(PurePosixPath(member.name).name):
        return
    sample = groups.setdefault(match[1], _Sample())
    if is_video_name(member.name):
        sample.videos[match[2]] = member
    elif match[2] in ("json", "cls", "txt") and member.size <= ABOUT_BYTES and not member.fault:
        sample.about[match[2]] = member


class _Sample:
    """The members of one key. videos, about: by what follows the key's dot."""

    def __init__(self) -> None:
        self.videos: dict[str, Member] = {}
        self.about: dict[str, Member] = {}
        self.fields: dict[str, Any] = {}
        self.label = ""

    def read_about(self, file: BinaryIO) -> None:
        """Take label and further columns from the members that are no video."""
        if not self.videos:
            return
        if member := self.about.get("json"):
            file.seek(member.start)
            try:
                fields = json.loads(file.read(member.size))
                self.fields = fields if isinstance(fields, dict) else {"json": fields}
            except ValueError as error:
                self.fields = {"json": f"is no JSON ({error})"}
        known = (self.fields[name] for name in LABEL_FIELDS if self.fields.get(name) is not None)
        self.label = str(next(known, ""))
        if member := self.about.get("cls"):
            file.seek(member.start)
            self.label = file.read(member.size).decode(errors="replace").strip()
        if member := self.about.get("txt"):
            file.seek(member.start)
            self.fields["txt"] = file.read(member.size).decode(errors="replace")

    def listed(self, archive: str, location: str, key: str) -> Iterator[Listed]:
        """A row for each of its videos."""
        several = len(self.videos) > 1
        for rest, member in self.videos.items():
            name = f"{archive}/{member.name}"
            suffix = PurePosixPath(member.name).suffix
            yield Listed(
                video_id=name,
                uri=ByteRange(location, member.start, member.size, suffix).uri,
                bytes=member.size,
                event=f"{archive}/{key}" if several else "",
                view=(rest.rpartition(".")[0] or "0") if several else "0",
                label=self.label,
                extra=self.fields,
                error=f"{name}: {member.fault}" if member.fault else "",
            )


register_listing("webdataset", lambda source: only_holds(source, (".tar",)), list_tars)
register_listing("zip", lambda source: only_holds(source, (".zip",)), list_zips)
