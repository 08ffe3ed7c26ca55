"""How are numbered parts of a result made, of which some cannot be made for now?

A part is written whole, with what its videos refused for good, or left open: a store that gives no
answer, a process that dies, are no reason to write that something is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from marey.configs.errors import UnfinishedError
from marey.pipeline.stream.graph import Engine, Rows, Stage, run

ROUNDS = 2
"""How often a command tries to make a part."""
DIED = "its process died each time"


def run_parts(
    numbers: Sequence[int],
    units: Callable[[list[int]], Iterable[Any]],
    stages: Sequence[Stage],
    engine: Engine,
    supply: Stage | None = None,
) -> Iterator[Rows]:
    """Make the parts with these numbers; gives the last stage's row of each part that is written.

    units: the units of work of parts with these ascending numbers, or the keys for which `supply`
    makes units (see `graph.run`). The rows of the last stage have
    `part` int64 [n] and `open` str [n]: empty, or why the part could not be made for now. Those are
    tried again when all others are made.
    Raises UnfinishedError when some are left open then.
    """
    left = list(numbers)
    why: dict[int, str] = {}
    for _ in range(ROUNDS):
        why = dict.fromkeys(left, DIED)
        for rows in run(units(left), stages, engine, supply):
            made = rows["open"] == ""
            for number, reason in zip(rows["part"].tolist(), rows["open"].tolist(), strict=True):
                why[number] = reason
            if made.any():
                yield {name: values[made] for name, values in rows.items()}
        why = {number: reason for number, reason in why.items() if reason}
        left = sorted(why)
        if not left:
            return
    raise UnfinishedError(
        f"{len(left)} of {len(numbers)} parts could not be made and are left open (part {left[0]}: "
        f"{why[left[0]]}); the same command goes on with them"
    )
