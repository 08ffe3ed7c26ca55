"""How is a corpus indexed by the actors of a cluster? Each part of the index is a unit of work."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from marey.configs.errors import UnfinishedError
from marey.pipeline.data.build_index import Progress, probe_parts, store_part
from marey.pipeline.data.corpus import Corpus
from marey.pipeline.runtime.storage import Folder, absolute
from marey.pipeline.stream.graph import Engine, Rows, Stage
from marey.pipeline.stream.part_runs import run_parts


@dataclass(frozen=True, slots=True)
class PartToProbe:
    """A part of an index, and its files as a corpus of their own."""

    number: int
    corpus: Corpus


class ProbePart:
    """The one step of indexing: describes the files of a part, stores its rows, counts them."""

    def __init__(self, folder: Folder, limit_s: float | None) -> None:
        self._folder, self._limit_s = folder, limit_s
        self.suspicious = False

    def __call__(self, work: PartToProbe) -> Iterator[Rows]:
        """`part`, `files` int64 [1], `seconds` float64 [1], `open` str [1].

        A part with a file that could not be read for now is left open: not stored. Where a file may
        have killed the process before, each is described in a process that it may kill.
        """
        tables: list[pa.Table] = []
        files, seconds, why = len(work.corpus.files), 0.0, ""
        try:
            probe_parts(
                work.corpus, (), lambda _, table: tables.append(table),
                workers=int(self.suspicious), limit_s=self._limit_s,
            )  # fmt: skip
        except UnfinishedError as error:
            why = str(error)
        else:
            (table,) = tables
            seconds = float(np.nansum(table["duration_s"].to_numpy()))
            store_part(self._folder, work.number, table)
        values = {"part": work.number, "files": files, "seconds": seconds, "open": why}
        yield {name: np.array([value]) for name, value in values.items()}


def index_parts(
    corpus: Corpus,
    folder: Folder,
    done: Container[int],
    limit_s: float | None,
    progress: Progress,
    seen: tuple[int, float],
    *,
    engine: Engine = "ray",
) -> None:
    """Make the parts of an index that are not done: see `build_index.Elsewhere`.

    Actors write their parts themselves: the folder, and the files, must be in reach of every node.
    Raises UnfinishedError where some parts could not be made for now.
    """
    left = [number for number in range(corpus.parts) if number not in done]

    def units(numbers: list[int]) -> Iterator[PartToProbe]:
        return (PartToProbe(number, corpus.alone(number)) for number in numbers)

    stages = [
        # The one stage reads files: an actor for each CPU that is left.
        Stage(partial(ProbePart, Folder(absolute(folder.location)), limit_s)),
    ]
    files, seconds = seen
    for rows in run_parts(left, units, stages, engine):
        files += int(rows["files"].sum())
        seconds += float(rows["seconds"].sum())
        progress(files, len(corpus.files), seconds)
