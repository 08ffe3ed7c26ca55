"""Whose is a folder of results? One piece of work's, and of one process while that is at work."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from marey.configs.errors import UsageError
from marey.pipeline.runtime.part_notes import damaged_parts
from marey.pipeline.runtime.storage import Folder

UNFINISHED = "unfinished.json"
"""What the parts of a folder belong to, until all of them are there."""
_log = logging.getLogger("marey")


@contextmanager
def claimed(folder: Folder, key: dict[str, Any], *, things: str, finished: str) -> Iterator[None]:
    """Hold a folder that is empty, or has unfinished parts of exactly this work, to finish it.

    key: what the work is made of; things: what the parts are called in errors; finished: the file
    that says that all is there, written inside by the caller.
    Parts that are cut or altered are removed, and named: they are made again, also those of work
    that is finished. Raises UsageError for a folder of anything else, and one that another process
    works in.
    """
    with folder.held():
        _check(folder, key, things, finished)
        yield
        folder.remove(UNFINISHED)


def _check(folder: Folder, key: dict[str, Any], things: str, finished: str) -> None:
    if folder.exists(finished):
        if not _is_of(folder, finished, key) or not _without_damaged(folder):
            raise UsageError(f"{folder.location} holds finished {things} already; give another -o")
        folder.write(UNFINISHED, json.dumps(key, sort_keys=True).encode())
        folder.remove(finished)
    elif folder.exists(UNFINISHED):
        before = json.loads(folder.read(UNFINISHED))
        differing = sorted(k for k in before.keys() | key if before.get(k) != key.get(k))
        if differing:
            raise UsageError(
                f"{folder.location} holds unfinished {things} made with another "
                f"{', '.join(differing)}; give another -o, or remove it"
            )
        folder.sweep("parts")
        _without_damaged(folder)
    elif folder.names("parts"):
        raise UsageError(f"{folder.location} holds files of something else; give another -o")
    else:
        folder.write(UNFINISHED, json.dumps(key, sort_keys=True).encode())


def _is_of(folder: Folder, finished: str, key: dict[str, Any]) -> bool:
    """Whether finished work is exactly this work, as far as can be told."""
    try:
        about = json.loads(folder.read(finished))
    except ValueError:
        return False
    return isinstance(about, dict) and all(about.get(name) == value for name, value in key.items())


def _without_damaged(folder: Folder) -> bool:
    """Remove the parts that are cut or altered; whether there was any."""
    damaged = damaged_parts(folder, [f"parts/{name}" for name in folder.names("parts", ".parquet")])
    for name, fault in damaged.items():
        _log.warning("warning: %s: it is made again", fault)
        folder.remove(name)
    return bool(damaged)
