"""Whose is a folder of results? One piece of work's, and of one process while that is at work."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from marey.configs.errors import UsageError
from marey.pipeline.runtime.part_notes import damaged_parts
from marey.pipeline.runtime.status_file import reported
from marey.pipeline.runtime.storage import Folder

UNFINISHED = "unfinished.json"
"""What the parts of a folder belong to, until all of them are there."""
_log = logging.getLogger("marey")


@contextmanager
def claimed(
    folder: Folder,
    key: dict[str, Any],
    *,
    things: str,
    finished: str,
    said: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[None]:
    """Hold a folder that is empty, or has unfinished parts of exactly this work, to finish it.

    key: what the work is made of; things: what the parts are called in errors; finished: the file
    that says that all is there, written inside by the caller; said: what that file says, where it
    is no JSON; overwrite: parts of other work are removed.
    Parts that are cut or altered are removed, and named: they are made again, also those of work
    that is finished. Raises UsageError for a folder of anything else, and one that another process
    works in.
    """
    with folder.held():
        if overwrite and (folder.exists(finished) or folder.exists(UNFINISHED)):
            for name in ("parts", finished, UNFINISHED):
                folder.remove(name)
        _check(folder, key, things, finished, said)
        with reported(folder, things, stays=False, data=key.get("data", "")):
            yield
        folder.remove(UNFINISHED)


def _check(
    folder: Folder, key: dict[str, Any], things: str, finished: str, said: dict[str, Any] | None
) -> None:
    if folder.exists(finished):
        about = said or _read(folder, finished)
        same = all(about.get(name) == value for name, value in key.items())
        if not same or not _without_damaged(folder):
            other = sorted(name for name, value in key.items() if about.get(name) != value)
            raise UsageError(
                f"{folder.location} holds finished {things} already"
                f"{', made with another ' * bool(other)}{', '.join(other)}; "
                "give another -o, or --overwrite to make them anew"
            )
        folder.write(UNFINISHED, json.dumps(key, sort_keys=True).encode())
        folder.remove(finished)
    elif folder.exists(UNFINISHED):
        before = json.loads(folder.read(UNFINISHED))
        differing = sorted(k for k in before.keys() | key if before.get(k) != key.get(k))
        if differing:
            raise UsageError(
                f"{folder.location} holds unfinished {things} made with another "
                f"{', '.join(differing)}; give another -o, or --overwrite to make them anew"
            )
        folder.sweep("parts")
        _without_damaged(folder)
    elif folder.names("parts"):
        raise UsageError(f"{folder.location} holds files of something else; give another -o")
    else:
        folder.write(UNFINISHED, json.dumps(key, sort_keys=True).encode())


def _read(folder: Folder, finished: str) -> dict[str, Any]:
    """What a file of JSON says of finished work; nothing where it is damaged."""
    try:
        about = json.loads(folder.read(finished))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _without_damaged(folder: Folder) -> bool:
    """Remove the parts that are cut or altered; whether there was any."""
    damaged = damaged_parts(folder, [f"parts/{name}" for name in folder.names("parts", ".parquet")])
    for name, fault in damaged.items():
        _log.warning("warning: %s: it is made again", fault)
        folder.remove(name)
    return bool(damaged)
