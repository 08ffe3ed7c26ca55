"""With which command does one go on after another was interrupted?"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence

from marey.configs.errors import MareyError
from marey.pipeline.runtime.storage import Folder

KEPT = ("index", "mine", "embed", "demo")
"""Commands that keep what is finished, and go on when they are typed again."""


def way_on(words: Sequence[str]) -> str:
    """What is kept of an interrupted command, and the line that goes on; "" where nothing is."""
    if words[0] in KEPT:
        return f"; what is finished is kept, and this goes on: {_line(words)}"
    if words[0] != "train":
        return ""
    begun = _has_checkpoint(words)
    if begun and "--resume" not in words:
        words = [*words, "--resume"]
    return f"; this {'goes on' if begun else 'begins again'}: {_line(words)}"


def _line(words: Sequence[str]) -> str:
    return shlex.join(["marey", *words])


def _has_checkpoint(words: Sequence[str]) -> bool:
    """Whether the folder that `-o` names holds a checkpoint of a run."""
    from marey.pipeline.cli.read_words import read_words

    with contextlib.suppress(MareyError, OSError):
        return bool(Folder(read_words(words).out).names("checkpoints", ".pt"))
    return False
