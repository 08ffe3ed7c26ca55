"""How are several corpora, perhaps with weights, named as one location?"""

from __future__ import annotations

from collections.abc import Sequence

from marey.configs.errors import UsageError
from marey.pipeline.runtime.storage import absolute

MIXTURE = "mix://"
"""How the location of a mixture begins: `mix://A:3|B:1`."""
BETWEEN = "|"
"""Parts the corpora in it."""


def mixture_of(words: Sequence[str]) -> str:
    """The location of what several `--data` name, each perhaps with `:WEIGHT`; of one, itself.

    Weights are counted as 1 where only others have them.
    """
    if len(words) == 1 and _parted(words[0])[1] is None:
        return words[0]
    parts = [_parted(word) for word in words]
    weighted = any(weight is not None for _, weight in parts)
    named = []
    for location, weight in parts:
        if BETWEEN in location:
            raise UsageError(f"--data {location}: `{BETWEEN}` cannot be in a name of a mixture")
        end = f":{1.0 if weight is None else weight:g}" if weighted else ""
        named.append(absolute(location) + end)
    return MIXTURE + BETWEEN.join(named)


def members_of(location: str) -> list[tuple[str, float | None]]:
    """Locations and weights of a mixture's corpora; of anything else, itself."""
    if not location.startswith(MIXTURE):
        return [(location, None)]
    return [_parted(part) for part in location.removeprefix(MIXTURE).split(BETWEEN)]


def _parted(word: str) -> tuple[str, float | None]:
    location, mark, weight = word.rpartition(":")
    try:
        value = float(weight)
    except ValueError:
        return word, None
    if not mark or "/" in weight:
        return word, None
    if not 0 < value < float("inf"):
        raise UsageError(f"--data {word}: a weight is a positive number, not {weight}")
    return location, value
