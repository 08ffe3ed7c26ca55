"""How mining is run: units of work become parts, in threads or as Ray Data actors, each once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from marey.configs.errors import InputError, SettingError
from marey.configs.mining import ImageConfig, SamplesMining, TracksMining
from marey.configs.schema import DataConfig
from marey.pipeline.data.index import Index
from marey.pipeline.data.shards import (
    MANIFEST,
    PartCounts,
    finish,
    parts_left,
    sample_table,
    write_part,
)
from marey.pipeline.data.source import open_source
from marey.pipeline.mining.tracks import TrackMiner, TrackUnits, track_table
from marey.pipeline.runtime.claims import claimed
from marey.pipeline.runtime.cores import default_workers, set_threads, threads
from marey.pipeline.runtime.engine import Suspicion, actor_retries, gpu_count, ray_session
from marey.pipeline.runtime.storage import Folder, absolute
from marey.pipeline.stream.decode import DecodeStage
from marey.pipeline.stream.graph import MAX_BLOCKS, budget, even_pieces, gpu_share
from marey.pipeline.stream.plan import Plan, Position, make_plan
from marey.pipeline.video.backends import ON_GPU, check_backend


class MinePart:
    """Units of an index by number: mines one, writes its part."""

    def __init__(self, index: str, out: str, settings: TracksMining) -> None:
        self.settings = settings
        self.index = Index.load(index)
        self.units = TrackUnits(self.index, settings)
        self.miner = TrackMiner(settings)
        self.out = Folder(out)

    def suspect(self, suspicious: bool) -> None:
        """Whether videos are read in processes of their own from now on."""
        self.miner.suspicious = suspicious

    def write(self, number: int) -> PartCounts:
        """Mine one unit and write its part."""
        unit = self.units[number]
        video = self.index.video(unit.row)
        mined, reasons = self.miner.unit(video, unit)
        return write_part(self.out, number, track_table(video, mined, self.settings), reasons)


class SamplePart:
    """The same for planned samples (tuples, pairs, clips, frames): a unit of a plan, one part."""

    def __init__(
        self, source: str, out: str, plan: Plan, data: DataConfig, image: ImageConfig
    ) -> None:
        self.units = list(plan.units())
        self.stage = DecodeStage(plan, open_source(source), data, Position())
        self.image, self.out = image, Folder(out)

    def suspect(self, suspicious: bool) -> None:
        """Whether videos are read in processes of their own from now on."""
        self.stage.suspicious = suspicious

    def write(self, number: int) -> PartCounts:
        """Decode one unit's samples and write their part."""
        tables: list[pa.Table] = []
        reasons: Counter[str] = Counter()
        for rows in self.stage(self.units[number]):
            tables.append(sample_table(rows, self.image))
            reasons.update(f"sample: {why}" for why in rows["refused"].tolist() if why)
        reasons["sample: accepted"] += sum(len(table) for table in tables)
        return write_part(self.out, number, pa.concat_tables(tables), dict(reasons))


Runner = Callable[[list[int]], Iterable[PartCounts]]
"""Runs the parts with these numbers, and gives their counts in any order, as they finish."""


def run_here(make: Callable[[], MinePart | SamplePart]) -> Runner:
    """Runs parts in threads of this process, one a core."""

    def run(numbers: list[int]) -> Iterator[PartCounts]:
        workers = ThreadPoolExecutor(default_workers(), thread_name_prefix="mine")
        with threads(1), workers as pool:
            yield from pool.map(make().write, numbers)

    return run


def run_on_ray(make: Callable[[], MinePart | SamplePart], on_gpus: bool = False) -> Runner:
    """Runs parts on Ray Data actors, one a CPU of the budget.

    on_gpus: whether the actors share the cluster's GPUs. Raises SettingError where it has none.
    """

    def run(numbers: list[int]) -> Iterator[PartCounts]:
        with ray_session() as cpus:
            import ray.data

            # no trainer is running: its share goes to the actors
            share = budget(cpus, 1)
            gpus = gpu_count() if on_gpus else 0
            if on_gpus and not gpus:
                raise SettingError(
                    "device=cuda or data.backend=torchcodec-cuda, but the cluster has no GPU"
                )
            dataset = ray.data.from_blocks(part_blocks(numbers)).map_batches(
                RayPart,
                fn_constructor_args=(make,),
                batch_size=1,  # with GPUs Ray Data wants a number
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=share.actors),
                num_cpus=share.actor_cpus,
                num_gpus=gpu_share(share.actors, gpus),
                ray_remote_args_fn=actor_retries,
            )
            (rows,) = dataset.streaming_split(1, equal=False)
            for row in rows.iter_rows():
                yield PartCounts(int(row["rows"]), json.loads(row["reasons"]))

    return run


def part_blocks(numbers: list[int]) -> list[pa.Table]:
    """Numbers as input blocks: one a block, or evenly several where there are very many."""
    pieces = even_pieces(np.array(numbers, dtype=np.int64), MAX_BLOCKS)
    return [pa.table({"part": piece}) for piece in pieces]


class RayPart:
    """A stage as a Ray Data actor: `part` int64 [n] in; `rows` and `reasons` (JSON) [n] out."""

    def __init__(self, make: Callable[[], MinePart | SamplePart]) -> None:
        set_threads(1)  # actors share the cores, boxes are batched
        self._stage = make()
        self._suspicion = Suspicion()

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._stage.suspect(self._suspicion.next())
        counts = [self._stage.write(int(number)) for number in rows["part"]]
        return {
            "rows": np.array([c.rows for c in counts], dtype=np.int64),
            "reasons": np.array([json.dumps(c.reasons) for c in counts]),
        }


def mine_corpus(
    data: str,
    out: str,
    settings: TracksMining | SamplesMining,
    *,
    engine: Literal["ray", "local"] = "ray",
    progress: Callable[[int, int, int], None] = lambda done, total, rows: None,
) -> dict[str, Any]:
    """Mine an index (or images) into shards; returns the manifest.

    engine: parts are made by Ray Data actors, or in threads of this process; they are the same.
    A folder with an unfinished run of the same work is finished: parts that exist are kept.
    Raises UsageError if `out` holds anything else, InputError if nothing can be mined.
    """
    data, out = absolute(data), absolute(out)
    source = open_source(data)
    source.check_present()
    key: dict[str, Any] = {
        "kind": settings.kind, "data": data, "data_digest": source.digest,
        "settings": settings.model_dump(mode="json"),
    }  # fmt: skip
    if isinstance(settings, TracksMining):
        if not isinstance(source, Index):
            raise InputError(f"{data} holds images: tracks are mined from an index of videos")
        units = TrackUnits(source, settings)
        parts = len(units)
        refused = {"video: no_frames": units.refused} if units.refused else {}
        make: Callable[[], MinePart | SamplePart] = partial(MinePart, data, out, settings)
        on_gpus = settings.device != "cpu"
    else:
        plan = make_plan(source, settings.sampling, seed=settings.seed, epochs=settings.epochs)
        parts = len(list(plan.units()))
        refused = {f"event: {reason}": count for reason, count in plan.refused_by_name().items()}
        make = partial(SamplePart, data, out, plan, settings.data, settings.image)
        check_backend(settings.data.backend)
        on_gpus = settings.data.backend == ON_GPU
    if not parts:
        raise InputError(f"{data} has no readable video")
    folder = Folder(out)
    run = run_here(make) if engine == "local" else run_on_ray(make, on_gpus)
    with claimed(folder, key, things="shards", finished=MANIFEST):
        left = parts_left(folder, parts)
        rows = 0
        progress(parts - len(left), parts, rows)
        for done, counts in enumerate(run(left) if left else (), start=1):
            rows += counts.rows
            progress(parts - len(left) + done, parts, rows)
        return finish(folder, key, parts, refused)
