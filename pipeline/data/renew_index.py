"""How does an index follow its corpus? Rows of files that stayed as they were are kept, the others
are made anew.

A file counts as the same if its place, its size and its ids are those of the index, and it has not
been written since (of object stores: if its size is the same). What was unreadable is tried again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from marey.configs.errors import InputError, UsageError
from marey.pipeline.data.corpus import Corpus
from marey.pipeline.data.index_files import completed, read_table
from marey.pipeline.data.index_manifest import MANIFEST
from marey.pipeline.data.listing import Listed
from marey.pipeline.runtime.address import place_of
from marey.pipeline.runtime.roots import recorded
from marey.pipeline.runtime.storage import as_utf8, is_remote, local_path

Renewal = Literal["append", "refresh"]
"""`append`: rows of files that the sources do not name stay; `refresh`: they go."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What of an index stays, and what is to be probed."""

    kept: pa.Table
    corpus: Corpus
    new: int
    """Files that the index did not have."""
    changed: list[str]
    """Ids of files that are probed again."""
    vanished: list[str]
    """Ids of rows that the sources no longer have."""


def renew(location: str, corpus: Corpus, how: Renewal) -> Renewed:
    """Compare an index with what its sources hold today.

    Rows that stay keep their event, view, label and clock. Raises InputError when there is no index
    at `location`, or an id would stand for two files; UsageError when two videos would be one view
    of one event.
    """
    table = completed(read_table(location))
    written_s = 0.0 if is_remote(location) else _written_s(location)
    known = _Known(table)
    listed: dict[str, list[Listed]] = defaultdict(list)
    for row in corpus.rows:
        listed[as_utf8(row.uri)].append(row)
    same = {uri for uri, rows in listed.items() if known.holds(uri, rows, written_s)}
    rest = [row for row in corpus.rows if as_utf8(row.uri) not in same]
    stays = [uri in same or (uri not in listed and how == "append") for uri in known.uris]
    kept = table.filter(pa.array(stays, pa.bool_()))
    gone = [] if how == "append" else sorted({*known.ids_of_others(listed)})
    names = set(kept["video_id"].to_pylist())
    for row in rest:
        if row.video_id in names:
            raise InputError(
                f"{location} has {row.video_id!r} already, of another file than {row.uri}; index "
                "the common parent folder, or give ids of their own in a list"
            )
    views = set(zip(kept["event"].to_pylist(), kept["view"].to_pylist(), strict=True))
    for row in rest:
        home = corpus.placed[row.video_id]
        if (home.event, home.view) in views:
            raise UsageError(
                f"{row.video_id!r} would be view {home.view!r} of the event {home.event!r}, which "
                f"{location} has already"
            )
    changed = sorted({row.video_id for row in rest if as_utf8(row.uri) in known.by_uri})
    new = len({row.uri for row in rest if as_utf8(row.uri) not in known.by_uri})
    roots = corpus.roots.and_those_of(table.schema.metadata)
    kept = kept.replace_schema_metadata(recorded(roots))
    return Renewed(kept, replace(corpus, rows=rest, roots=roots), new, changed, gone)


def _written_s(location: str) -> float:
    path = local_path(location)
    return (path / MANIFEST if path.is_dir() else path).stat().st_mtime


class _Known:
    """The rows of an index by their file."""

    def __init__(self, table: pa.Table) -> None:
        self.uris: list[str] = table["uri"].to_pylist()
        self._ids: list[str] = table["video_id"].to_pylist()
        self._bytes: list[int] = table["bytes"].to_pylist()
        self._status: list[str] = table["status"].to_pylist()
        self.by_uri: dict[str, list[int]] = defaultdict(list)
        for place, uri in enumerate(self.uris):
            self.by_uri[uri].append(place)

    def holds(self, uri: str, rows: list[Listed], written_s: float) -> bool:
        """Whether the index has these rows of a file, and the file is as it was."""
        places = self.by_uri.get(uri, [])
        found = {self._ids[place]: place for place in places}
        whole = {row.video_id for row in rows if row.span is None}
        for name in set(found) - {row.video_id for row in rows}:
            base, _, stream = name.rpartition("#")
            if base not in whole or not stream.isdigit():
                return False  # a row that is listed no more
        for row in rows:
            place = found.get(row.video_id)
            if place is None or self._bytes[place] != row.bytes:
                return False
            if self._status[place] == "unreadable":
                return False
        place = place_of(rows[0].uri)
        if is_remote(place) or not local_path(place).is_file():
            return True
        return local_path(place).stat().st_mtime <= written_s

    def ids_of_others(self, listed: dict[str, list[Listed]]) -> Iterator[str]:
        """The ids of rows whose file, or which themselves, are not listed."""
        for place, uri in enumerate(self.uris):
            names = {row.video_id for row in listed.get(uri, [])}
            base = self._ids[place].rpartition("#")[0]
            if self._ids[place] not in names and base not in names:
                yield self._ids[place]


def summary_of(renewed: Renewed) -> str:
    """What became of the rows of an index, in a line."""
    named = [
        f"{len(ids)} {word} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
        for ids, word in ((renewed.changed, "probed again"), (renewed.vanished, "gone"))
        if ids
    ]
    return ", ".join([f"{len(renewed.kept)} rows stay", f"{renewed.new} files are new", *named])
