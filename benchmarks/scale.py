"""What grows with the corpus? One table of index sizes: planning, units, memory, what is sent.

    python benchmarks/scale.py [--rows 10000 1000000] [--ray]

Rows are made up but for their file, which all share: 240 motion values, 4 cuts, 30 keyframes.
Every size is measured in processes of its own. Seconds are of the CPU (of all threads). `driver`
and `actor` are peaks of resident memory, libraries among them (a process that trains imports torch
as well: 540 MB more, whatever the corpus). `first unit` is the time from the opening of the index,
with the plan, to a unit that could be decoded. With `--ray` also the resident memory of the
decoding actors of a real run, after 200 units, and the time to its first sample.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 10_000
"""Rows that are made at a time."""
MOTION, CUTS, KEYFRAMES = 240, 4, 30
FRAMES, FPS = 48, 24.0
UNITS = 200
"""Units that are supplied and, with `--ray`, decoded."""
COLUMNS = {
    "rows": "rows", "index_mb": "index MB", "open_s": "open s", "digest_s": "digest s",
    "plan_s": "plan s", "first_unit_s": "first unit s", "unit_us": "a unit us",
    "plan_kb": "plan KB", "stage_bytes": "actor arg B", "unit_bytes": "unit B",
    "driver_mb": "driver MB", "actor_mb": "actor MB",
}  # fmt: skip
"""What is printed, in order."""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--actor", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, ray=options.ray)))
        return
    if options.actor:
        print(json.dumps(_actor(Path(options.actor))))
        return
    figures = list(measured(options.rows, ray=options.ray))
    names = COLUMNS | {key: key for key in figures[0] if key not in COLUMNS}
    print("  ".join(f"{title:>12}" for title in names.values()))
    for row in figures:
        print("  ".join(f"{row[name]:>12.5g}" for name in names))


def measured(sizes: list[int], *, ray: bool = False) -> Iterator[dict[str, float]]:
    """The figures of each size, one line of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        video = make_video(Path(scratch))
        for rows in sizes:
            index = Path(scratch) / "index.parquet"
            write_rows(index, rows, str(video))
            words = ["--measure", str(index), *(["--ray"] if ray else [])]
            yield {"rows": rows, "index_mb": index.stat().st_size / 1e6} | _in_process(words)


def _in_process(words: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_video(folder: Path) -> Path:
    """The one file of all rows: noise of 48 frames."""
    from marey.pipeline.synthetic.encode import encode_frames

    path = folder / "noise.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 64, 64, 3), dtype=np.uint8)
    encode_frames(path, frames, fps=int(FPS), size=64)
    return path


def write_rows(location: Path, rows: int, uri: str) -> None:
    """An index of so many rows, all of one file, as `marey index` writes it."""
    from marey.pipeline.data.index_files import SCHEMA

    random = np.random.default_rng(0)
    lists = {
        "motion": pa.array(random.random(BLOCK * MOTION, np.float32).round(6)),
        "cuts": pa.array(np.sort(random.random((BLOCK, CUTS)) * FRAMES / FPS).ravel()),
        "keyframes": pa.array(np.tile(np.arange(KEYFRAMES) * 0.06, BLOCK)),
    }
    plain: dict[str, Any] = {
        "uri": uri, "view": "0", "label": "", "clock_offset_s": 0.0, "clock_rate": 1.0,
        "start_s": None, "end_s": None, "split": "", "extra": None, "duration_s": FRAMES / FPS,
        "fps": FPS, "frames": FRAMES, "width": 64, "height": 64, "rotation": 0, "codec": "h264",
        "stream": 0, "motion_hz": MOTION * FPS / FRAMES, "frame_times": None, "bytes": 1000,
        "status": "ok", "error": None, "scan": "header", "read_bytes": None, "requests": None,
    }  # fmt: skip
    with pq.ParquetWriter(location, SCHEMA, compression="zstd") as writer:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            names = pa.array(
                [f"videos/{n // 1000:06d}/{n:09d}.mp4" for n in range(start, start + count)]
            )
            columns = {"video_id": names, "event": names}
            for name, value in plain.items():
                columns[name] = pa.array([value] * count, SCHEMA.field(name).type)
            for name, values in lists.items():
                each = len(values) // BLOCK
                edges = pa.array(np.arange(count + 1, dtype=np.int32) * each)
                columns[name] = pa.ListArray.from_arrays(edges, values[: count * each])
            table = pa.table([columns[name].cast(SCHEMA.field(name).type) for name in SCHEMA.names],
                             schema=SCHEMA)  # fmt: skip
            writer.write_table(table, row_group_size=1000)


def measure(location: str, *, ray: bool) -> dict[str, float]:
    """What the process that plans takes."""
    from marey.configs.sampling import TimePairsSampling
    from marey.configs.schema import DataConfig
    from marey.pipeline.data.source import Reopened, open_source
    from marey.pipeline.stream.decode import settings_of
    from marey.pipeline.stream.plan import Position, make_plan
    from marey.pipeline.stream.supply import UnitSupply

    begun, clock = time.monotonic(), _Clock()
    source = open_source(location)
    count = len(source)
    open_s = clock.lap()
    plan = make_plan(
        source, TimePairsSampling(pairs=4, positive_s=0.1, negative_s=0.2), seed=0, epochs=2
    )
    plan_s = clock.lap()
    supply = UnitSupply(plan, Reopened(source), Position())
    units = plan.units()
    first = supply(next(units))
    first_unit_s = time.monotonic() - begun
    clock.lap()
    source.digest  # noqa: B018
    digest_s = clock.lap()
    works = [pickle.dumps(supply(unit)) for unit, _ in zip(units, range(UNITS), strict=False)]
    unit_s = clock.lap() / max(1, len(works))
    data = DataConfig(decode_size=32)
    stage = pickle.dumps(settings_of(plan, source, data))
    assert count == len(source)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "stage").write_bytes(stage)
        (Path(scratch) / "unit").write_bytes(pickle.dumps(first))
        actor = _in_process(["--actor", scratch])
    figures = {
        "open_s": open_s, "plan_s": plan_s, "digest_s": digest_s, "first_unit_s": first_unit_s,
        "unit_us": 1e6 * unit_s, "plan_kb": len(pickle.dumps(plan.for_others())) / 1e3,
        "stage_bytes": len(stage), "unit_bytes": len(pickle.dumps(first)),
        "driver_mb": _peak_mb(), **actor,
    }  # fmt: skip
    return figures | (_through_ray(plan, location, data) if ray else {})


def _actor(folder: Path) -> dict[str, float]:
    """What a process that decodes one unit takes."""
    from marey.pipeline.stream.decode import DecodeStage

    stage = DecodeStage(*pickle.loads((folder / "stage").read_bytes()))
    for rows in stage(pickle.loads((folder / "unit").read_bytes())):
        if any(rows["refused"]):
            raise SystemExit(str(rows["refused"]))
    return {"actor_mb": _peak_mb()}


def _through_ray(plan: Any, location: str, data: Any) -> dict[str, float]:
    """Memory of the largest decoding actor of a run on Ray; seconds to its first sample."""
    import psutil

    from marey.pipeline.runtime.engine import ray_session
    from marey.pipeline.stream.plan import Position
    from marey.pipeline.stream.resources import Budget
    from marey.pipeline.stream.samples import rows_of_shard, stream_ray

    with ray_session():
        begun = time.monotonic()
        dataset = stream_ray(plan, location, data, Position(), Budget(0.5, 2, 0.4), UNITS)
        samples = rows_of_shard(dataset.iterator(), 1)
        next(samples)
        first_s = time.monotonic() - begun
        total = 1 + sum(1 for _ in samples)
        assert total >= UNITS
        sizes = [
            child.memory_info().rss / 1e6
            for child in psutil.Process().children(recursive=True)
            if "UnitActor" in (title := " ".join(child.cmdline())) and "Supply" not in title
        ]
    return {"ray_first_s": first_s, "ray_actor_mb": max(sizes, default=0.0)}


class _Clock:
    """CPU seconds of this process between laps."""

    def __init__(self) -> None:
        self._at = time.process_time()

    def lap(self) -> float:
        """Seconds since the lap before."""
        before, self._at = self._at, time.process_time()
        return self._at - before


def _peak_mb() -> float:
    said = Path("/proc/self/status").read_text()  # `getrusage` begins with the parent's peak
    return int(said.partition("VmHWM:")[2].split()[0]) / 1e3


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
