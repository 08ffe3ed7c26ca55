"""What was an export made of? A note beside it, so that the same export is not made twice."""

from __future__ import annotations

import json
from typing import Any

from marey.configs.errors import MareyError, UsageError
from marey.pipeline.runtime.storage import Folder, split

INSIDE = "marey.json"
"""The note of an export that is a folder; that of a file has the file's name before it."""


class ExportNote:
    """The note of one export.

    files: names of what an export into a folder writes there; none for an export that is a file.
    """

    def __init__(self, out: str, files: tuple[str, ...] = ()) -> None:
        home, name = (out, "") if files else split(out)
        self._out, self._files = out, files or (name,)
        self._folder = Folder(home)
        self._name = f"{name}.{INSIDE}" if name else INSIDE
        self._is_folder = bool(files)

    def before(self, made_of: dict[str, Any]) -> dict[str, Any] | None:
        """What was said of the export when it was made of exactly this, and is whole; else None.

        Raises UsageError where something else is there.
        """
        there = [name for name in self._files if self._folder.exists(name)]
        foreign = set(self._folder.names()) - {*self._files, INSIDE} if self._is_folder else set()
        if foreign:
            raise UsageError(
                f"-o {self._out} holds other things ({', '.join(sorted(foreign)[:3])}): give a "
                f"folder of its own, for example -o {self._out.rstrip('/')}/export"
            )
        if not there:
            return None
        note = self._read()
        if note.get("made_of") != json.loads(json.dumps(made_of)):
            raise UsageError(
                f"-o {self._out} is there already, and not of this export; --overwrite makes it "
                "anew, or give another -o"
            )
        return note["said"] if note["bytes"] == self._bytes() else None

    def write(self, made_of: dict[str, Any], said: dict[str, Any]) -> None:
        """Note what was made, when it is there; said: what a person, or --json, is told of it."""
        note = {"made_of": made_of, "said": said, "bytes": self._bytes()}
        self._folder.write(self._name, json.dumps(note, indent=1).encode())

    def remove(self) -> None:
        """Remove the note, before the export is made anew."""
        self._folder.remove(self._name)

    def _bytes(self) -> dict[str, int]:
        return {name: self._folder.size(name) for name in self._files}

    def _read(self) -> dict[str, Any]:
        try:
            note = json.loads(self._folder.read(self._name))
        except (ValueError, OSError, MareyError):
            return {}
        return note if isinstance(note, dict) and {"said", "bytes"} <= note.keys() else {}
