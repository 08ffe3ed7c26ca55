"""How fast can one trainer be fed? Decoding made free: frames are there, the rest is real.

    python -m benchmarks.feed [--seconds 6] [--ray]

Rows: clips of 16x224x224 and single images of 224x224, with the shuffle buffer of the settings and
without, on the way that a training step's samples take: blocks, samples, shuffling, batch. With
`--ray` the blocks come from decoding actors through Ray's object store. `copy` is the limit: one
copy of the same bytes into memory that is there. An H200 would want some 1,860 clips (a step of
VideoMAE-B) or 2,000 to 8,000 images (SimCLR with a ResNet-50) per second.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator

import numpy as np
import psutil
import torch

from marey.configs.schema import DataConfig
from marey.pipeline.runtime.engine import ray_session
from marey.pipeline.stream.decode import Rows
from marey.pipeline.stream.graph import Stage, ahead, dataset
from marey.pipeline.stream.resources import budget
from marey.pipeline.stream.samples import (
    COPIERS,
    Sample,
    batches,
    rows_of_shard,
    shuffled,
    split_rows,
)
from marey.pipeline.training.collate import Room, collate

CASES = {
    "clips 16x224": ((16, 224, 224, 3), 4, 32),
    "images 224": ((1, 224, 224, 3), 64, 256),
}
"""Shape of a sample's frames, samples of a block, of a batch."""


class Free:
    """A decode stage whose frames are there already: units in, one block each."""

    suspicious = False

    def __init__(self, shape: tuple[int, ...], size: int) -> None:
        self._frames = np.random.default_rng(0).integers(0, 255, (size, *shape), dtype=np.uint8)

    def __call__(self, unit: int) -> Iterator[Rows]:
        """One block of samples that all show the same."""
        size, length = self._frames.shape[:2]
        yield {
            "sample": np.arange(unit * size, (unit + 1) * size),
            "instance": np.full(size, unit),
            "place": np.arange(unit * size, (unit + 1) * size),
            "time_s": np.zeros((size, length), np.float32),
            "refused": np.full(size, ""),
            "frames": self._frames,
        }


class Made:
    """Builds `Free` where it runs."""

    def __init__(self, shape: tuple[int, ...], size: int) -> None:
        self.shape, self.size = shape, size

    def __call__(self) -> Free:
        """The stage."""
        return Free(self.shape, self.size)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--ray", action="store_true", help="blocks come through Ray as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    header = ("samples/s", "GB/s", "of copy", "CPU s/1000", "MiB")
    print(f"{'':<34}" + "".join(f"{name:>12}" for name in header))
    for name, (shape, size, batch) in CASES.items():
        limit = _copy(shape, batch)
        for buffer in (1, DataConfig().shuffle_buffer):
            blocks = itertools.chain.from_iterable(map(Free(shape, size), itertools.count()))
            stream = ahead(split_rows, blocks, COPIERS)
            _row(f"{name}, buffer {buffer}", stream, shape, batch, buffer, options.seconds, limit)
    if not options.ray:
        return
    with ray_session() as cpus:
        for name, (shape, size, batch) in CASES.items():
            limit = _copy(shape, batch)
            buffer = DataConfig().shuffle_buffer
            units = range(int(4_000 * options.seconds * 2) // size)
            share = budget(cpus, 1).of_actors
            rows = dataset(units, [Stage(Made(shape, size))], [share]).iterator()
            stream = rows_of_shard(rows, 2)
            title = f"{name}, buffer {buffer}, Ray"
            _row(title, stream, shape, batch, buffer, options.seconds, limit)


def _row(
    title: str,
    stream: Iterable[Sample],
    shape: tuple[int, ...],
    batch: int,
    buffer: int,
    seconds: float,
    limit: float,
) -> None:
    """Batches for some seconds, from when the buffer is full."""
    room, device = Room(), torch.device("cpu")
    mixed = batches(shuffled(stream, buffer, np.random.default_rng(0)), batch)
    for _ in range(2):
        collate(next(mixed), device, room)
    count, started, spent = 0, time.perf_counter(), time.process_time()
    for samples in mixed:
        collate(samples, device, room)
        count += len(samples)
        if time.perf_counter() - started > seconds:
            break
    passed, spent = time.perf_counter() - started, time.process_time() - spent
    rate = count / passed
    held = psutil.Process().memory_info().rss / 2**20
    print(
        f"{title:<34}{rate:>12.0f}{rate * np.prod(shape) / 1e9:>12.2f}{rate / limit:>12.2f}"
        f"{1e3 * spent / count:>12.2f}{held:>12.0f}",
        flush=True,
    )


def _copy(shape: tuple[int, ...], batch: int, repeats: int = 20) -> float:
    """Samples/s of one copy into a batch that is there."""
    sample, room = np.ones(shape, np.uint8), np.zeros((batch, *shape), np.uint8)
    started = time.perf_counter()
    for _ in range(repeats):
        for n in range(batch):
            room[n] = sample
    return repeats * batch / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
