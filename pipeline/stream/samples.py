"""The planned samples of a run as a stream of decoded ones, one by one: what a trainer takes.

Rows arrive in the plan's order from either engine when one trainer reads them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from marey.configs.schema import DataConfig
from marey.pipeline.data.source import Reopened, Source, open_source
from marey.pipeline.runtime import counters
from marey.pipeline.stream.decode import DecodeStage, Rows, settings_of
from marey.pipeline.stream.graph import TURN_UNITS, Stage, ahead, dataset, run_here
from marey.pipeline.stream.plan import Plan, Position
from marey.pipeline.stream.resources import Budget
from marey.pipeline.stream.supply import UnitSupply

if TYPE_CHECKING:
    import ray.data

SHUFFLE_BYTES = 512 * 2**20
"""A shuffle buffer holds at most this many bytes of frames."""
SHOWN_EVERY = 64
"""Samples between two looks at the shuffle buffer, for metrics."""
COPIERS = 2
"""Threads that copy samples out of blocks: one cannot fill a trainer on a large GPU."""
Sample = dict[str, np.ndarray]
"""One row: the columns of `Rows` without their first dimension."""


def split_rows(rows: Rows) -> Iterator[Sample]:
    """Rows one by one; frames are copied, so that a block is not kept alive by one of its rows."""
    for n in range(len(rows["sample"])):
        sample = {name: column[n] for name, column in rows.items()}
        sample["frames"] = np.array(sample["frames"])
        yield sample


def shuffled(samples: Iterable[Sample], size: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Mix a stream through a buffer of `size` samples; a function of the stream and the seed."""
    buffer: list[Sample] = []
    room = size
    for number, sample in enumerate(samples):
        if number % SHOWN_EVERY == 0:
            counters.show("marey_shuffle_buffer_samples", len(buffer))
        if len(buffer) >= room:
            place = int(rng.integers(len(buffer)))
            yield buffer[place]
            buffer[place] = sample
            continue
        buffer.append(sample)
        room = min(size, max(1, SHUFFLE_BYTES // max(1, sample["frames"].nbytes)))
    for place in rng.permutation(len(buffer)):
        yield buffer[place]


def batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Runs of `size` samples; the last may be shorter."""
    iterator = iter(samples)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def stream_here(
    plan: Plan, source: Source, data: DataConfig, done: Position | None = None
) -> Iterator[Sample]:
    """The samples of a plan, decoded in threads of this process, in order."""
    stages = [
        # 1. Decode: a thread a core, or as many as were asked for.
        Stage(partial(DecodeStage, *settings_of(plan, source, data))),
    ]
    supply = Stage(partial(UnitSupply, plan, Reopened(source), done))
    yield from _split_ahead(run_here(plan.units(done), stages, data.decode_actors, supply=supply))


def stream_ray(
    plan: Plan,
    location: str,
    data: DataConfig,
    done: Position,
    share: Budget,
    turn: int = TURN_UNITS,
) -> ray.data.Dataset:
    """The next samples of a plan as a Ray Data dataset: lazily decoded, in the plan's order.

    turn: units of work, of those that are not done, that it holds at most.
    """
    source = open_source(location)
    # 0. Supply: one actor opens the corpus, and gives every unit the rows of its events.
    supply = Stage(partial(UnitSupply, plan.for_others(), Reopened(source), done))
    stages = [
        # 1. Decode: what the trainers leave of the CPUs, an actor each (or a quarter of the GPUs,
        #    where these decode): see `resources.budget`.
        Stage(partial(DecodeStage, *settings_of(plan, source, data))),
    ]
    units = itertools.islice(plan.units(done), turn)
    return dataset(units, stages, [share.of_actors], supply=supply)


def rows_of_shard(shard: Any, prefetch: int) -> Iterator[Sample]:
    """The samples of one trainer's Ray Data shard."""
    yield from _split_ahead(
        shard.iter_batches(batch_size=None, prefetch_batches=prefetch, batch_format="numpy")
    )


def _split_ahead(blocks: Iterable[Rows]) -> Iterator[Sample]:
    """The samples of blocks, copied out of these by threads while the consumer is at work."""
    return ahead(split_rows, blocks, COPIERS)
