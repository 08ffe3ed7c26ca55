"""The one stage graph: units of work in, rows out, in this process or as Ray Data actors.

    keys -> supply (knows the corpus) -> units -> stage 1 (reads files) -> rows -> stage 2 -> ...

A key is a number or two. One process turns keys into units, which carry all that the stages have to
know of the corpus: what the others are given is of one size, whatever the corpus.

Training, embedding and mining each list their stages and use this. A stage is a plain callable
that knows nothing of Ray: how it is started and supplied, that a unit of work which killed its
process is suspected, and how a lost process is replaced, is decided here; what a stage is given of
the cluster, in `stream.resources`. Either engine gives the same rows in the order of the units.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from marey.configs import plugins
from marey.pipeline.runtime import counters, messages, telling
from marey.pipeline.runtime.cores import default_workers, set_threads, threads
from marey.pipeline.runtime.engine import (
    MAX_DEATHS,
    Suspicion,
    actor_retries,
    gpu_count,
    ray_session,
)
from marey.pipeline.runtime.roots import declare, declared
from marey.pipeline.stream.resources import Needs, Share, shares

if TYPE_CHECKING:
    import ray.data

UNIT_BLOCKS = 16_384
"""Blocks of units that Ray Data decodes at a time (docs/decisions/007-turns.md)."""
TURN_UNITS = 4 * UNIT_BLOCKS
"""Units that Ray Data gets at a time: what a block gives must fit in the store once an actor."""
KEYS = 64
"""Keys in a block: each costs a millisecond before anything is decoded."""
WAITING = 16
"""Results of a graph of one stage that may wait, for each thread: they are counts, not frames."""
Rows = dict[str, np.ndarray]
"""Columns of one length."""
Engine = Literal["ray", "local"]
_log = logging.getLogger("marey")
T = TypeVar("T")
U = TypeVar("U")


class Reading(Protocol):
    """The first step of a graph: reads what a unit of work needs, and gives rows."""

    suspicious: bool
    """Whether a unit of work, from now on, may be the one that killed its process."""

    def __call__(self, unit: Any) -> Iterable[Rows]:
        """The rows of one unit."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a graph."""

    make: Callable[[], Any]
    """Builds the step where it runs; pickled to every actor. The first step is a `Reading`, a later
    one a function of one row (columns of length 1) of the step before; all give rows."""
    needs: Needs = field(default_factory=Needs)
    """What its actors need."""
    plugins: Mapping[str, bool] = field(default_factory=plugins.active)
    """What its processes import first."""
    roots: tuple[str, ...] = field(default_factory=declared)
    """Below which its processes may read."""


def run(
    units: Iterable[Any], stages: Sequence[Stage], engine: Engine, supply: Stage | None = None
) -> Iterator[Rows]:
    """Take all units through all stages; gives the rows of the last.

    supply: makes a function that gives the unit of a key; `units` are keys then.
    engine: `ray` (actors on this machine or a cluster, see `ray_session`) or `local` (the first
    stage in threads of this process, one a core, the others in the caller's). Where there is no
    unit, nothing is started. A unit at which every process dies gives no row.
    Raises SettingError where a stage needs GPUs that are not there.
    """
    left = iter(units)
    if (first := next(left, None)) is None:
        return
    left = itertools.chain([first], left)
    if engine == "ray":
        yield from _run_on_ray(left, stages, supply)
        return
    alone = len(stages) == 1
    # a thread a core is enough, unless a later stage computes while these wait
    with threads(1) if alone else nullcontext():
        yield from run_here(left, stages, waiting=WAITING if alone else 1, supply=supply)


def run_here(
    units: Iterable[Any],
    stages: Sequence[Stage],
    workers: int | None = None,
    waiting: int = 1,
    supply: Stage | None = None,
) -> Iterator[Rows]:
    """`run` in this process, for a caller that has set the threads of its libraries.

    workers: threads of the first stage; one a core if unset. waiting: see `ahead`, for each.
    """
    if supply is not None:
        units = map(supply.make(), units)
    first, *rest = (stage.make() for stage in stages)
    workers = workers or default_workers()
    rows: Iterator[Rows] = ahead(first, units, workers, waiting * workers)
    for step in rest:
        rows = itertools.chain.from_iterable(map(step, rows))
    yield from rows


def ahead(
    function: Callable[[U], Iterable[T]], items: Iterable[U], threads: int, held: int | None = None
) -> Iterator[T]:
    """Run `function` on the next items in threads, and give what it gives in the items' order.

    At most `held` items (by default as many as threads) are under way or waiting to be taken.
    """
    held = held or threads
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        jobs: deque = deque()
        source = iter(items)
        try:
            for item in source:
                jobs.append(pool.submit(lambda item=item: list(function(item))))
                if len(jobs) >= held:
                    yield from jobs.popleft().result()
            while jobs:
                yield from jobs.popleft().result()
        finally:
            for job in jobs:
                job.cancel()


def _run_on_ray(
    units: Iterator[Any], stages: Sequence[Stage], supply: Stage | None
) -> Iterator[Rows]:
    """`run` as Ray Data actors, in turns of `TURN_UNITS` units."""
    with ray_session() as cpus:
        telling.now("starting the processes that read and compute")
        parts = shares(cpus, gpu_count(), [stage.needs for stage in stages])
        while turn := list(itertools.islice(units, TURN_UNITS)):
            # as one split, so that Ray runs the graph, and writes its log, in an actor of its own
            rows: Any = dataset(turn, stages, parts, supply).streaming_split(1, equal=False)[0]
            yield from rows.iter_batches(batch_size=None, batch_format="numpy")


def dataset(
    units: Iterable[Any],
    stages: Sequence[Stage],
    parts: Sequence[Share],
    supply: Stage | None = None,
) -> ray.data.Dataset:
    """The rows of the last stage as a Ray Data dataset: made when they are asked for, in order.

    parts: what each stage is given of the cluster. supply: see `run`.
    """
    import ray.data

    todo = list(units)
    together = -(-len(todo) // UNIT_BLOCKS) if todo else 1
    # blocks in the store: from_arrow would run a task for each, and wait for a CPU slot to do so
    blocks = unit_blocks(todo, UNIT_BLOCKS if supply is None else -(-len(todo) // KEYS))
    data = ray.data.from_blocks(blocks)
    if supply is not None:
        data = data.map_batches(
            SupplyActor,
            fn_constructor_args=(supply,),
            batch_size=KEYS,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0,  # it is idle most of the time, and takes no slot from those that decode
            ray_remote_args_fn=actor_retries,
        )
        # done in the same actor: Ray fuses the two
        data = data.repartition(target_num_rows_per_block=together)
    for number, (stage, part) in enumerate(zip(stages, parts, strict=True)):
        least = part.actors if part.fixed else 1
        data = data.map_batches(
            RowActor if number else UnitActor,
            fn_constructor_args=(stage,),
            batch_size=1,  # with GPUs Ray Data wants a number; no row is joined with another
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=part.actors),
            num_cpus=part.cpus,
            num_gpus=part.gpus,
            ray_remote_args_fn=actor_retries,
        )
    return data


def unit_blocks(units: Iterable[Any], most: int | None = None) -> list[pa.Table]:
    """Units as input blocks: one a block, or evenly several where there are more than `most`.

    most: by default `UNIT_BLOCKS`.
    The blocks are data in the object store, not read tasks: no task ever needs a CPU slot.
    """
    rows = [pickle.dumps(unit) for unit in units]
    ends = np.linspace(0, len(rows), min(len(rows), most or UNIT_BLOCKS) + 1).astype(int)
    return [
        pa.table({"unit": pa.array(rows[start:stop], pa.binary())})
        for start, stop in itertools.pairwise(ends.tolist())
    ]


class SupplyActor:
    """The supply as a Ray Data actor: `unit` in (pickled keys), `unit` out (pickled units)."""

    def __init__(self, supply: Stage) -> None:
        self._unit_of = _made(supply)

    def __call__(self, keys: Rows) -> Iterator[pa.Table]:
        for key in keys["unit"]:
            unit = pickle.dumps(self._unit_of(pickle.loads(key)))
            yield pa.table({"unit": pa.array([unit], pa.binary())})


class UnitActor:
    """The first stage as a Ray Data actor: `unit` (pickled) in, rows out."""

    def __init__(self, stage: Stage) -> None:
        self._step: Reading = _made(stage)
        self._suspicion = Suspicion()
        counters.count("marey_restarts", self._suspicion.restarted, stage="reading")

    def __call__(self, units: Rows) -> Iterator[Rows]:
        for unit in units["unit"]:
            self._step.suspicious = self._suspicion.next()
            if self._step.suspicious and self._suspicion.deaths(unit) > MAX_DEATHS:
                _log.warning("a unit of work is left open: %d processes died at it", MAX_DEATHS)
                continue
            for rows in self._step(pickle.loads(unit)):
                counters.count_rows(rows)
                yield rows
            counters.count("marey_units_read")


class RowActor:
    """A later stage as a Ray Data actor: one row in, rows out."""

    def __init__(self, stage: Stage) -> None:
        self._step = _made(stage)

    def __call__(self, row: Rows) -> Iterator[Rows]:
        for rows in self._step(row):
            counters.count_rows(rows)
            yield rows


def _made(stage: Stage) -> Any:
    """The step, with the threads that its actor's libraries may take."""
    messages.send_here()
    counters.export_here()
    plugins.adopt(stage.plugins)
    if stage.roots:
        declare(stage.roots)
    step = stage.make()
    if stage.needs.one_a_gpu:
        import torch

        # Ray allows one thread to a logical CPU; the only encoder may use the machine
        if not torch.cuda.is_available():
            set_threads(default_workers())
    elif "torch" in sys.modules:
        set_threads(1)  # actors share the cores
    else:
        import cv2

        cv2.setNumThreads(1)
    return step
