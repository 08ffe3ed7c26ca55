"""What may have been meant: the nearest of the words that there are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def suggest(word: str, known: Sequence[str], *, otherwise: str | None = None) -> str:
    """The end of an error message: what may have been meant.

    otherwise: the end where nothing is near; without it, what there is.
    """
    near = nearest(word, known)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if otherwise is None:
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        otherwise = f"; known are {', '.join(known[:20])}{more}" if known else ""
    return otherwise


def nearest(word: str, known: Sequence[str]) -> list[str]:
    """At most three of `known` that are spelled alike; capitals and dashes do not count."""
    by_plain = {plain(name): name for name in reversed(known)}
    if plain(word) in by_plain:
        return [by_plain[plain(word)]]
    sure = difflib.get_close_matches(plain(word), by_plain, n=1, cutoff=0.8)
    near = sure or difflib.get_close_matches(plain(word), by_plain, n=3, cutoff=0.5)
    return [by_plain[name] for name in near]


def plain(word: str) -> str:
    """A word without capitals and dashes."""
    return word.lower().replace("-", "_")


ALSO_CALLED = {
    "learning_rate": "lr",
    "num_workers": "workers",
    "gpus": "workers",
    "bs": "batch_size",
    "max_steps": "steps",
    "num_epochs": "epochs",
    "model": "backbone",
    "size": "image_size",
    "amp": "precision",
}
"""Names of other programs for settings of ours."""


def nearest_settings(key: str, known: Sequence[str]) -> list[str]:
    """At most three of the dotted keys `known` that `key` may have meant.

    Those that end as it does come first (`batch_size`: `trainer.batch_size`), then those spelled
    alike.
    """
    bare = {re.sub(r"\[\w+\]", "", name): None for name in known}
    parents, _, leaf = key.rpartition(".")
    leaf = ALSO_CALLED.get(plain(leaf), plain(leaf))
    ends = [name for name in bare if name.rpartition(".")[2] == leaf]
    if ends:
        # the group that was named, then groups near the top
        return sorted(ends, key=lambda n: (n.rpartition(".")[0] != parents, n.count(".")))[:3]
    leaves = {name.rpartition(".")[2] for name in bare}
    near = difflib.get_close_matches(leaf, leaves, n=3, cutoff=0.6)
    whole = difflib.get_close_matches(plain(key), bare, n=3, cutoff=0.75)
    inside = [n for n in bare if parents and n.rpartition(".")[0] == parents]
    inside = [n for n in inside if n.rpartition(".")[2] in near]
    found = [*inside, *whole, *(n for leaf in near for n in bare if n.rpartition(".")[2] == leaf)]
    return [*dict.fromkeys(found)][: 1 if inside or (near and _sure(leaf, near[0])) else 3]


def _sure(word: str, other: str) -> bool:
    return difflib.SequenceMatcher(None, word, other).ratio() >= 0.8
