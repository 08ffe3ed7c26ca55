"""What Ray costs: samples through the Ray graph beside the same stages in a plain loop.

    python benchmarks/stream.py [--videos FOLDER] [--repeats 3]

Both read the same plan with as many decoders as there are cores; the consumer takes batches of
uint8 frames as a trainer does. Rates are of the steady state: the clock starts when the first
quarter of the samples has arrived; the time until the first sample is reported apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from marey.configs.sampling import FramesSampling, TimePairsSampling, TuplesSampling
from marey.configs.schema import DataConfig
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.index import Index
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.runtime.engine import ray_session
from marey.pipeline.stream.plan import Plan, Position, make_plan
from marey.pipeline.stream.resources import Budget
from marey.pipeline.stream.samples import (
    Sample,
    batches,
    rows_of_shard,
    stream_here,
    stream_ray,
)
from marey.pipeline.synthetic.arm_corpus import make_corpus

BATCH = 8


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", help="a folder of videos (default: a generated corpus)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_session():
        videos = options.videos
        if videos is None:
            make_corpus(Path(folder), events=24, seconds=12, size=256)
            videos = folder
        location = f"{folder}/index.parquet"
        write_index(make_index([videos], workers=default_workers()), location)
        index = Index.load(location)
        cores = default_workers()
        data = DataConfig(decode_size=128, decode_actors=cores)
        print(
            f"{len(index)} videos, {cores} cores, frames of {data.frame_shape}, batches of {BATCH}"
        )
        header = ("plain/s", "ray/s", "ray:plain", "plain first", "ray first")
        print(f"{'samples':<12}" + "".join(f"{name:>12}" for name in header))
        for sampling in (
            TimePairsSampling(pairs=8, per_video=6),
            TuplesSampling(max_span_s=1.0, min_gap_s=0.3, per_video=32),
            FramesSampling(per_video=48),
        ):
            plan = make_plan(index, sampling, seed=0, epochs=4)
            share = Budget(0.5, cores, 0.9)
            plain, ray = [], []
            for _ in range(options.repeats):
                plain.append(_measure(stream_here(plan, index, data), plan))
                dataset = stream_ray(plan, location, data, Position(), share)
                ray.append(_measure(rows_of_shard(dataset.iterator(), 2), plan))
            here, there = (statistics.median(rate for rate, _ in runs) for runs in (plain, ray))
            ratio = statistics.median(b[0] / a[0] for a, b in zip(plain, ray, strict=True))
            first = [statistics.median(wait for _, wait in runs) for runs in (plain, ray)]
            print(
                f"{sampling.kind:<12}{here:>12.1f}{there:>12.1f}{ratio:>12.2f}"
                f"{first[0]:>10.2f} s{first[1]:>10.2f} s"
            )


def _measure(samples: Iterable[Sample], plan: Plan) -> tuple[float, float]:
    """(samples/s after the first quarter, seconds until the first sample)."""
    began = time.perf_counter()
    first = quarter = 0.0
    seen = counted = 0
    for batch in batches(samples, BATCH):
        now = time.perf_counter()
        first = first or now - began
        seen += len(batch)
        if not quarter and seen >= plan.total / 4:
            quarter, counted = now, seen
    return (seen - counted) / (time.perf_counter() - quarter), first


if __name__ == "__main__":
    main()
