"""The stage graph: the same stages in one process, or as Ray Data actors into Ray Train.

    units of work -> DecodeStage -> rows -> (shuffle) -> batches

Rows arrive in the plan's order from either engine when one trainer reads them.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from marey.configs.errors import SettingError
from marey.configs.schema import DataConfig
from marey.pipeline.data.source import Source, open_source
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.runtime.engine import Suspicion, actor_retries
from marey.pipeline.stream.decode import DecodeStage, Rows
from marey.pipeline.stream.plan import Plan, Position, Unit
from marey.pipeline.video.backends import ON_GPU

if TYPE_CHECKING:
    import ray.data

SHUFFLE_BYTES = 512 * 2**20
"""A shuffle buffer holds at most this many bytes of frames."""
MAX_BLOCKS = 4096
"""Ray Data keeps state for every input block: more are fed in turns."""
UNIT_BLOCKS = 16_384
"""Input blocks of a training run at a time (docs/decisions/007-turns.md)."""
TURN_UNITS = 4 * UNIT_BLOCKS
"""Units that Ray Data gets at a time: what a block gives must fit in the store once an actor."""
GPU_DECODERS = 2
"""Decoding actors to a GPU that decodes, if none are asked for."""
DECODERS_GPU = 0.25
"""What actors that decode on a trainer's GPU take of it, in Ray's books: Ray keeps no time."""
Sample = dict[str, np.ndarray]
"""One row: the columns of `Rows` without their first dimension."""
T = TypeVar("T")
U = TypeVar("U")


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
    for sample in samples:
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


def ahead(function: Callable[[U], Iterable[T]], items: Iterable[U], threads: int) -> Iterator[T]:
    """Run `function` on the next items in threads, and give what it gives in the items' order.

    At most `threads` items are under way or waiting to be taken.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        jobs: deque = deque()
        source = iter(items)
        try:
            for item in source:
                jobs.append(pool.submit(lambda item=item: list(function(item))))
                if len(jobs) >= threads:
                    yield from jobs.popleft().result()
            while jobs:
                yield from jobs.popleft().result()
        finally:
            for job in jobs:
                job.cancel()


def stream_here(
    plan: Plan, source: Source, data: DataConfig, done: Position | None = None
) -> Iterator[Sample]:
    """The samples of a plan, decoded in threads of this process, in order."""
    done = done or Position()
    stage = DecodeStage(plan, source, data, done)
    threads = data.decode_actors or default_workers()
    for rows in ahead(stage, plan.units(done), threads):
        yield from split_rows(rows)


@dataclass(frozen=True, slots=True)
class Budget:
    """How a cluster's logical CPUs are shared, so that trainer and actors leave a slot free.

    Ray Data waits for ever when actors hold every logical CPU and a task needs one.
    """

    trainer_cpus: float
    actors: int
    actor_cpus: float
    trainer_gpus: float = 1.0
    """Of a GPU, for a trainer that runs on one."""
    actor_gpus: float = 0.0


def budget(cpus: float, workers: int, actors: int | None = None) -> Budget:
    """Share `cpus` among `workers` trainers and the decoding actors, keeping a tenth free.

    Where there are fewer than two CPUs to a worker all take fractions, and the kernel shares.
    """
    trainer = min(1.0, cpus / (4 * workers))
    left = 0.9 * cpus - trainer * workers
    count = actors or max(1, math.floor(left + 1e-9))
    share = min(1.0, left / count)
    # two decimals: Ray counts in ten-thousandths, and sums must stay below the total
    return Budget(math.floor(trainer * 100) / 100, count, max(0.01, math.floor(share * 100) / 100))


def gpu_share(actors: int, gpus: int, of_each: float = 1.0) -> float:
    """The part of a GPU that each of the actors gets so that all find room in `of_each` GPU."""
    # Ray counts in ten-thousandths, and no actor has parts of two GPUs
    return math.floor(1e4 * of_each / math.ceil(actors / gpus)) / 1e4 if gpus else 0.0


def budget_on_gpus(
    cpus: float, workers: int, gpus: int, actors: int | None, *, trainers: bool
) -> Budget:
    """`budget` with actors that decode on `gpus`, beside trainers where these run there too.

    Raises SettingError where the cluster has no GPU: Ray would wait for one for ever.
    """
    if not gpus:
        raise SettingError(
            f"data.backend={ON_GPU} needs a GPU, and the cluster has none; set data.backend=pyav"
        )
    share = budget(cpus, workers, actors or GPU_DECODERS * gpus)
    free = DECODERS_GPU if trainers else 1.0
    return replace(
        share, trainer_gpus=1 - free if trainers else 1.0,
        actor_gpus=gpu_share(share.actors, gpus, free),
    )  # fmt: skip


class RayDecode:
    """`DecodeStage` as a Ray Data actor: rows of (epoch, start, stop) in, samples out."""

    def __init__(self, plan: Plan, location: str, data: DataConfig, done: Position) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._stage = DecodeStage(plan, open_source(location), data, done)
        self._suspicion = Suspicion()

    def __call__(self, units: dict[str, np.ndarray]) -> Iterator[Rows]:
        self._stage.suspicious = self._suspicion.next()
        columns = (units["epoch"], units["start"], units["stop"])
        for epoch, start, stop in zip(*columns, strict=True):
            yield from self._stage(Unit(int(epoch), int(start), int(stop)))


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
    import ray.data

    units = itertools.islice(plan.units(done), turn)
    # from_arrow would run a task for each block, and wait for a CPU slot to run it in
    return ray.data.from_blocks(unit_blocks(units)).map_batches(
        RayDecode,
        fn_constructor_args=(plan, location, data, done),
        batch_size=1,  # with GPUs Ray Data wants a number
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=share.actors),
        num_cpus=share.actor_cpus,
        num_gpus=share.actor_gpus,
        ray_remote_args_fn=actor_retries,
    )


def even_pieces(rows: np.ndarray, most: int) -> list[np.ndarray]:
    """Rows in runs, one a run, or evenly several where there are more than `most`."""
    return np.array_split(rows, max(1, min(len(rows), most)))


def unit_blocks(units: Iterable[Unit]) -> list[pa.Table]:
    """Units as input blocks: one a block, or evenly several where there are many.

    The blocks are data in the object store, not read tasks: no task ever needs a CPU slot.
    """
    rows = ((unit.epoch, unit.start, unit.stop) for unit in units)
    values = np.fromiter(rows, dtype=np.dtype((np.int64, 3)))
    pieces = even_pieces(values, UNIT_BLOCKS)
    return [pa.table({"epoch": p[:, 0], "start": p[:, 1], "stop": p[:, 2]}) for p in pieces]


def rows_of_shard(shard: Any, prefetch: int) -> Iterator[Sample]:
    """The samples of one trainer's Ray Data shard."""
    for rows in shard.iter_batches(
        batch_size=None, prefetch_batches=prefetch, batch_format="numpy"
    ):
        yield from split_rows(rows)
