"""What does a unit of work carry to the process that decodes it? The rows of its events.

One process of a run opens the corpus and makes units; those that decode know none of it.
"""

from __future__ import annotations

from marey.pipeline.data.source import Reopened
from marey.pipeline.stream.drawing import Work
from marey.pipeline.stream.plan import Plan, Position, Unit, known_labels


class UnitSupply:
    """Units of a plan in, the same with the rows of their events out."""

    def __init__(self, plan: Plan, corpus: Reopened, done: Position | None = None) -> None:
        """done: the samples that are not to be decoded again."""
        self._plan, self._source = plan, corpus.source
        self._done = done or Position()
        self._labels = known_labels(self._source, plan.sampling)

    def __call__(self, unit: Unit) -> Work:
        """What a unit is decoded from."""
        return self._plan.work(unit, self._source, self._done, self._labels)
