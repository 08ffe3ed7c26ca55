"""How mining is run: here in threads, or as Ray Data actors; both write the same parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from configs.errors import UsageError
from configs.load import check, override, suggest
from configs.mining import SamplesMining, TracksMining
from configs.sampling import Sampling
from pipeline.engine import ray_session
from pipeline.mining import MinePart, Runner, SamplePart, mine, run_here
from pipeline.shards import PartCounts
from pipeline.stream import budget

KINDS = {
    "tracks": "tracks",
    "tuples": "tuples",
    "pairs": "view_pairs",
    "time_pairs": "time_pairs",
    "view_pairs": "view_pairs",
    "clips": "clips",
    "frames": "frames",
}
"""Words of `--kind`, and the sampling that each stands for."""


def mining_settings(kind: str, words: list[str]) -> TracksMining | SamplesMining:
    """Checked settings of one kind. Raises UsageError for a kind that does not exist."""
    if kind not in KINDS:
        raise UsageError(f"no kind {kind!r}{suggest(kind, sorted(KINDS))}")
    if kind == "tracks":
        return check(TracksMining, override({}, words))
    sampling = TypeAdapter(Sampling).validate_python({"kind": KINDS[kind]})
    return check(SamplesMining, override({"sampling": sampling.model_dump()}, words))


def mine_corpus(
    data: str,
    out: str,
    settings: TracksMining | SamplesMining,
    *,
    engine: Literal["ray", "local"] = "ray",
    progress: Callable[[int, int, int], None] = lambda done, total, rows: None,
) -> dict[str, Any]:
    """Mine into shards and return their manifest; see `pipeline.mining.mine`."""
    runner = run_here if engine == "local" else run_on_ray
    return mine(data, out, settings, runner=runner, progress=progress)


def run_on_ray(make: Callable[[], MinePart | SamplePart]) -> Runner:
    """Runs parts on Ray Data actors, one a CPU of the budget."""

    def run(numbers: list[int]) -> Iterator[PartCounts]:
        with ray_session() as cpus:
            import ray.data

            # no trainer is running: its share goes to the actors
            share = budget(cpus, 1)
            blocks = [pa.table({"part": [number]}) for number in numbers]
            dataset = ray.data.from_blocks(blocks).map_batches(
                RayPart,
                fn_constructor_args=(make,),
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=share.actors),
                num_cpus=share.actor_cpus,
            )
            (rows,) = dataset.streaming_split(1, equal=False)
            for row in rows.iter_rows():
                yield PartCounts(int(row["rows"]), json.loads(row["reasons"]))

    return run


class RayPart:
    """A stage that writes parts, as a Ray Data actor."""

    def __init__(self, make: Callable[[], MinePart | SamplePart]) -> None:
        self._stage = make()

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._stage(rows)
