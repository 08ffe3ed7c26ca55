"""Of which parts is an index, where it lies in a folder, and what does each hold?

A folder of an index holds Parquet files, each of them an index of some of its rows, and
`index.json`, which is written last and names them in order. A part's name ends in a digest of its
content: parts that did not change stay, and a reader that has the manifest before never meets the
parts of the one after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from marey.configs.errors import InputError
from marey.pipeline.runtime.storage import Folder, is_remote, local_path, without_options

MANIFEST = "index.json"
FORMAT = 1
AGAIN = "the same `marey index` makes it again"


@dataclass(frozen=True, slots=True)
class IndexPart:
    """One file of an index. frames, seconds: sums over its rows; digest: of its content."""

    name: str
    rows: int
    frames: int
    seconds: float
    bytes: int
    digest: str


def part_of(number: int, content: bytes, rows: int, frames: int, seconds: float) -> IndexPart:
    """What the manifest says of a part that is about to be written."""
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    name = f"part-{number:05d}-{digest[:8]}.parquet"
    return IndexPart(name, rows, frames, seconds, len(content), digest)


def is_index_folder(location: str) -> bool:
    """Whether a finished index lies at a location as a folder. A look at one name."""
    if without_options(location).endswith((".parquet", ".json")):
        return False
    if not is_remote(location) and not local_path(location).is_dir():
        return False
    return Folder(location).exists(MANIFEST)


def read_manifest(location: str) -> list[IndexPart]:
    """The parts of an index in a folder, in order. Raises InputError where it is damaged."""
    folder = Folder(location)
    try:
        said = json.loads(folder.read(MANIFEST))
        if said["format"] > FORMAT:
            raise InputError(
                f"{location} is an index of a later version (format {said['format']}, here "
                f"{FORMAT}); install a newer marey"
            )
        parts = [IndexPart(**part) for part in said["parts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder.join(MANIFEST)} is damaged ({error}); {AGAIN}") from error
    for part in parts:
        if "/" in part.name or not part.name.endswith(".parquet"):
            raise InputError(f"{folder.join(MANIFEST)} names {part.name!r}, which is no part of it")
    return parts


def made_of(location: str) -> str:
    """What the index in a folder was made of, as its manifest has it; empty where it has not."""
    try:
        return str(json.loads(Folder(location).read(MANIFEST)).get("made_of") or "")
    except (ValueError, AttributeError):  # damaged: what reads its parts says so
        return ""


def write_manifest(
    location: str,
    parts: Sequence[IndexPart],
    events: int,
    roots: Sequence[str],
    made_of: str | None = None,
) -> None:
    """Name the parts of an index, and remove from its folder those that are no longer."""
    folder = Folder(location)
    said = {
        "format": FORMAT,
        "rows": sum(part.rows for part in parts),
        "events": events,
        "frames": sum(part.frames for part in parts),
        "seconds": sum(part.seconds for part in parts),
        "roots": list(roots),
        "made_of": made_of,
        "parts": [asdict(part) for part in parts],
    }
    folder.write(MANIFEST, json.dumps(said, indent=1).encode())
    named = {part.name for part in parts}
    for name in folder.names(suffix=".parquet"):
        if name.startswith("part-") and name not in named:
            folder.remove(name)
