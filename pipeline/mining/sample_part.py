"""How does one unit of a plan become a part of stored samples?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from marey.configs.mining import ImageConfig
from marey.pipeline.data.shards import counts_row, open_part, sample_table, write_part
from marey.pipeline.data.source import Reopened
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.decode import OPEN, DecodeStage
from marey.pipeline.stream.drawing import Work
from marey.pipeline.stream.graph import Rows
from marey.pipeline.stream.plan import Plan, Unit
from marey.pipeline.stream.supply import UnitSupply


@dataclass(frozen=True, slots=True)
class SampleWork:
    """A unit of the plan, and the number of the part that it becomes."""

    number: int
    work: Work


class SampleSupply:
    """Numbered units of the plan in, the same with the rows of their events out."""

    def __init__(self, plan: Plan, corpus: Reopened) -> None:
        self._supply = UnitSupply(plan, corpus)

    def __call__(self, key: tuple[int, Unit]) -> SampleWork:
        """What one part is made of."""
        number, unit = key
        return SampleWork(number, self._supply(unit))


class SamplePart:
    """The one step of storing samples: decodes a unit, writes its part, gives its counts."""

    def __init__(self, out: str, image: ImageConfig, *decoding: Any) -> None:
        """decoding: of `decode.settings_of`."""
        self._decode = DecodeStage(*decoding)
        self._image, self._out = image, Folder(out)
        self.suspicious = False

    def __call__(self, work: SampleWork) -> Iterator[Rows]:
        """The `counts_row` of one part.

        A part with a sample that could not be read for now is left open: not written.
        """
        self._decode.suspicious = self.suspicious
        tables: list[pa.Table] = []
        reasons: Counter[str] = Counter()
        for rows in self._decode(work.work):
            if left := [why for why in rows["refused"].tolist() if why.startswith(OPEN)]:
                yield open_part(work.number, left[0].removeprefix(OPEN))
                return
            tables.append(sample_table(rows, self._image))
            reasons.update(f"sample: {why}" for why in rows["refused"].tolist() if why)
        reasons["sample: accepted"] += sum(len(table) for table in tables)
        part = write_part(self._out, work.number, pa.concat_tables(tables), dict(reasons))
        yield counts_row(work.number, part)
