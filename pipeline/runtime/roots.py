"""Below which folders and stores may a job read? No row of an index, and no link, leads elsewhere.

A person declares roots (`--roots`, or the variable MAREY_ROOTS); otherwise those count that an
index records: the sources that it was made from. See docs/threat_model.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote

from marey.configs.errors import InputError
from marey.pipeline.runtime.address import place_of
from marey.pipeline.runtime.storage import absolute, is_remote, local_path
from marey.pipeline.runtime.stores import without_secrets

VARIABLE = "MAREY_ROOTS"
"""Declared roots as a JSON list: inherited by processes that this one starts."""
NOTE = b"marey.roots"
"""Where an index records its sources, in the metadata of its schema."""
SHOWN = 4
"""Roots that an error names."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Folders, files and URIs that may be read, and what is below them.

    anywhere: nothing says where the files of this index lie (an index of an earlier version): local
        files may be anywhere, remote ones only at the endpoints of the job itself.
    """

    places: tuple[str, ...] = ()
    anywhere: bool = False

    @classmethod
    def of(cls, places: Iterable[str]) -> Roots:
        """Roots as a person writes them, the same in every process."""
        return cls(tuple(dict.fromkeys(absolute(place) for place in places)))

    def and_those_of(self, metadata: Mapping[bytes, bytes] | None) -> Roots:
        """These and the roots that an index records."""
        return Roots.of([*self.places, *places_of(metadata)])

    def check(self, uri: str) -> None:
        """Raise InputError for a file that does not lie below a root, its links followed.

        Of a part of a file, or a folder of frames (`runtime.address`), that file or folder counts.
        """
        uri = place_of(uri)
        if is_remote(uri):
            inside = any(_is_below(uri, place) for place in self.places if is_remote(place))
            inside = inside or (self.anywhere and not _parts(uri)[2])
        else:
            real = os.path.realpath(local_path(uri))
            homes = (os.path.realpath(local_path(p)) for p in self.places if not is_remote(p))
            inside = self.anywhere or any(
                real == home or real.startswith(home.rstrip("/") + "/") for home in homes
            )
        if not inside:
            raise InputError(self._refusal(uri))

    def _refusal(self, uri: str) -> str:
        shown = without_secrets(uri)
        real = "" if is_remote(uri) else os.path.realpath(local_path(uri))
        leads = f" (it leads to {real})" if real and real != str(local_path(uri)) else ""
        known = ", ".join(map(without_secrets, self.places[:SHOWN])) or "none"
        more = f" and {len(self.places) - SHOWN} more" if len(self.places) > SHOWN else ""
        return (
            f"{shown}: lies outside of the roots{leads}; the roots are {known}{more}. "
            "To read it, name a folder or URI above it with --roots"
        )


def _parts(uri: str) -> tuple[str, tuple[str, ...], frozenset[tuple[str, str]]]:
    """Scheme, names of the path (the bucket or host first), and options of a URI."""
    scheme, _, rest = uri.partition("://")
    path, _, options = rest.partition("?")
    names = PurePosixPath(unquote(path)).parts
    return scheme.lower(), names, frozenset(parse_qsl(options, keep_blank_values=True))


def _is_below(uri: str, root: str) -> bool:
    """Whether a URI names something of a root: at its endpoint, and never by way of `..`."""
    scheme, names, options = _parts(uri)
    root_scheme, root_names, root_options = _parts(root)
    return (
        (scheme, options) == (root_scheme, root_options)
        and ".." not in names
        and bool(root_names)
        and names[: len(root_names)] == root_names
    )


def declared() -> tuple[str, ...]:
    """The roots that a person has declared, here or to the process that started this one."""
    return tuple(json.loads(os.environ.get(VARIABLE) or "[]"))


@contextmanager
def declaring(places: Iterable[str] | None) -> Iterator[None]:
    """Declare roots while this lasts, also for processes that are started meanwhile."""
    before = os.environ.get(VARIABLE)
    if places:
        declare(places)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def declare(places: Iterable[str]) -> None:
    """Declare roots for the rest of this process."""
    os.environ[VARIABLE] = json.dumps(Roots.of(places).places)


def recorded(roots: Roots) -> dict[bytes, bytes]:
    """Roots as an index records them."""
    return {NOTE: json.dumps(roots.places).encode()}


def places_of(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """The roots that an index records; none where it records nothing."""
    return json.loads((metadata or {}).get(NOTE, b"[]"))


def of_index(metadata: Mapping[bytes, bytes] | None, location: str) -> Roots:
    """The roots of an index: those that are declared, or else those that it records itself.

    What it records is no more than its maker's word: a whole file system does not count as a root,
    nor does a store at another endpoint than the index's own.
    """
    if places := declared():
        return Roots.of(places)
    if not metadata or NOTE not in metadata:
        return Roots(anywhere=True)
    own = _parts(location)[2] if is_remote(location) else frozenset()
    places = json.loads(metadata[NOTE])
    return Roots(
        tuple(
            place
            for place in places
            if (_parts(place)[2] in (frozenset(), own) if is_remote(place) else place != "/")
        )
    )
