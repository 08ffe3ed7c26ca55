"""Whole jobs beside what users would write: samples per CPU second and wall second, from one run.

    python -m benchmarks.end_to_end --data FOLDER [--ray] [--repeats 3]     # half an hour
    python -m benchmarks.end_to_end --tiny                                  # for the tests

Jobs: `simclr` with one and with eight frames per video, `order` (shuffle and learn), `embed`
(ResNet-18 at 224 px, several frames per second), `mine` (marey alone). Their peers, in
`end_to_end_peers.py`, read each sample from its video with PyAV, torchcodec or decord in the
workers of a `DataLoader`.

Each job runs in processes of its own, all programs in turn within a repeat. Training runs are a
long and a short one: what the long one costs beyond the short one is the steady state, without
start-up. CPU seconds are those of all processes. The last column says how many cores would feed
one H200: what it would take (see `H200`) over the samples per CPU second, which here include the
training itself.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.end_to_end_peers import LIGHTLY, READERS
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.synthetic.arm_corpus import make_corpus

H200 = {"simclr": 2000.0, "simclr x8": 2000.0, "order": 1860.0, "embed": 20_000.0}
"""Samples per second that one H200 would take: SimCLR with a ResNet-50 at 224 px (2,000 to 8,000),
tuples like clips of VideoMAE-B, embedding with a ResNet-18 in bf16."""
LOOK_S = 0.25
"""How often the processes are looked at: what one does after the last look is not counted."""


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of work at the size at which it is measured."""

    name: str
    kind: str
    size: int
    batch: int
    per_video: int = 1
    backbone: str = "tiny"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took."""

    samples: int
    cpu_s: float
    wall_s: float
    wait: float
    """Share of the steps' time that was spent waiting for data."""
    peak_mib: float
    """Proportional set size of all processes together."""


def jobs(tiny: bool) -> list[Job]:
    """What is measured."""
    size, batch = (32, 4) if tiny else (96, 32)
    return [
        Job("simclr", "simclr", size, batch),
        Job("simclr x8", "simclr", size, batch, per_video=8),
        Job("order", "order", size, batch, per_video=8),
        Job("embed", "embed", 64 if tiny else 224, 16, backbone="tiny" if tiny else "resnet18"),
        Job("mine", "mine", 64, 1),
    ]


def command(job: Job, program: str, place: Place, steps: int, out: Path) -> list[str]:
    """The command line of a job: `marey`, `marey (Ray)`, or a reader's `DataLoader`."""
    python = [sys.executable, "-m"]
    if not program.startswith("marey"):
        peer = ["benchmarks.end_to_end_peers", job.kind, program, str(place.files)]
        sizes = {
            "steps": steps, "batch": job.batch, "size": job.size, "per_video": job.per_video,
            "workers": default_workers(), "rate": place.rate, "backbone": job.backbone,
        }  # fmt: skip
        return [*python, *peer, *(w for k, v in sizes.items() for w in (f"--{k}", str(v)))]
    cli = [*python, "marey.pipeline.cli"]
    engine = ["--engine", "ray" if "Ray" in program else "local"]
    if job.kind == "embed":
        return [
            *cli, "embed", place.encoder, "--data", str(place.index), "-o", str(out),
            "--fps", str(place.rate), *engine,
        ]  # fmt: skip
    if job.kind == "mine":
        return [*cli, "mine", str(place.index), "-o", str(out), *engine]
    method = {"simclr": "simclr", "order": "shuffle_and_learn"}[job.kind]
    return [
        *cli, "train", method, "--data", str(place.index), "-o", str(out), *engine,
        f"trainer.steps={steps}", f"trainer.batch_size={job.batch}",
        f"trainer.log_every={steps}", f"method.sampling.per_video={job.per_video}",
        f"encoder.image_size={job.size}", f"encoder.backbone={job.backbone}",
        f"data.decode_size={job.size}", "data.shuffle_buffer=64",
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where the data of the jobs lie."""

    index: Path
    files: Path
    encoder: str
    rate: float


def measure(job: Job, program: str, place: Place, steps: int, folder: Path) -> Cost:
    """Run it once. Raises RuntimeError with its last words where it fails."""
    out = folder / f"out{time.monotonic_ns()}"
    words = command(job, program, place, steps, out)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as wrong:
        process = subprocess.Popen(words, stdout=said, stderr=wrong, text=True)
        watch = Watch(process.pid)
        code = process.wait()
        wall_s = time.perf_counter() - started
        cpu_s, peak = watch.stop()
        said.seek(0)
        wrong.seek(0)
        if code not in (0, 3):  # 3: some videos were refused, and are listed
            raise RuntimeError(f"{' '.join(words)}: {wrong.read()[-2000:]}")
        if not program.startswith("marey"):
            told = json.loads(said.read().splitlines()[-1])
            return Cost(told["samples"], cpu_s, wall_s, told["wait"], peak)
    if job.kind == "embed":
        from marey.pipeline.embedding.folder_meta import read_meta
        from marey.pipeline.runtime.storage import Folder

        meta = read_meta(Folder(str(out)))
        assert meta is not None
        return Cost(int(meta["frames"]), cpu_s, wall_s, float("nan"), peak)
    if job.kind == "mine":
        seconds = sum(f["s"] for f in json.loads(place.files.read_text(encoding="utf-8")))
        return Cost(round(seconds), cpu_s, wall_s, float("nan"), peak)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    waits = [line["data_wait"] for line in map(json.loads, lines) if "data_wait" in line]
    return Cost(steps * job.batch, cpu_s, wall_s, waits[-1], peak)


class Watch:
    """Looks at a process and all that come of it, also those whose parent has ended."""

    def __init__(self, pid: int) -> None:
        self._own = psutil.Process()
        self._spent: dict[tuple[int, float], float] = {}
        self._before = {(p.pid, p.create_time()) for p in self._own.children() if p.pid != pid}
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        """(CPU seconds of all, peak memory in MiB)."""
        self._over.set()
        self._thread.join()
        return sum(self._spent.values()), self._peak / 2**20

    def _look_on(self) -> None:
        turn = 0
        while not self._over.wait(LOOK_S):
            held, turn = 0, turn + 1
            for process in self._own.children(recursive=True):
                try:
                    key = (process.pid, process.create_time())
                    if key in self._before:
                        continue
                    times = process.cpu_times()
                    self._spent[key] = times.user + times.system
                    if turn % 4 == 0:  # reading it costs the processes that are measured
                        held += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self._peak = max(self._peak, held)


def steady(long: Cost, short: Cost | None) -> Cost:
    """What the long run took beyond the short one."""
    if short is None:
        return long
    return Cost(
        long.samples - short.samples, long.cpu_s - short.cpu_s, long.wall_s - short.wall_s,
        long.wait, long.peak_mib,
    )  # fmt: skip


def prepare(
    folder: Path, data: str | None, rate: float, tiny: bool, peers: Sequence[str]
) -> tuple[Place, list[str]]:
    """Index, list of files and encoder of the jobs, and the peers that work here.

    Without data, a rendered corpus. Files that one of these peers cannot read are left out: a
    program of a few lines would end there.
    """
    if data is None:
        make_corpus(folder / "videos", events=2 if tiny else 8, views=1, seconds=4)
        data = str(folder / "videos")
    table = make_index([data])
    table = table.filter([s == "ok" and d >= 2.5 for s, d in zip(
        table["status"].to_pylist(), table["duration_s"].to_pylist(), strict=True)])  # fmt: skip
    paths = [uri.removeprefix("file://") for uri in table["uri"].to_pylist()]
    lengths = table["duration_s"].to_pylist()
    reads = {
        peer: [_reads(peer, path, s) for path, s in zip(paths, lengths, strict=True)]
        for peer in peers
    }
    working = [peer for peer in peers if any(reads[peer])]
    kept = [all(reads[peer][n] for peer in working) for n in range(len(paths))]
    for path, keep in zip(paths, kept, strict=True):
        if not keep:
            print(f"left out, since a peer cannot read it: {Path(path).name}")
    table = table.filter(kept)
    index = folder / "index.parquet"
    write_index(table, str(index))
    files = [
        {"path": uri.removeprefix("file://"), "s": seconds}
        for uri, seconds in zip(
            table["uri"].to_pylist(), table["duration_s"].to_pylist(), strict=True
        )
    ]
    (folder / "files.json").write_text(json.dumps(files), encoding="utf-8")
    encoder = folder / "encoder"
    job = jobs(tiny)[3]
    subprocess.run(
        [sys.executable, "-m", "marey.pipeline.cli", "train", "simclr", "--data", str(index),
         "-o", str(encoder), "--engine", "local", "trainer.steps=1", "trainer.batch_size=4",
         f"encoder.backbone={job.backbone}", f"encoder.image_size={job.size}"],
        check=False, capture_output=True,
    )  # fmt: skip
    return Place(index, folder / "files.json", str(encoder), rate), working


def _reads(peer: str, path: str, seconds: float) -> bool:
    """Whether a peer gives frames of all of a file; libraries raise what they like."""
    try:
        return all(READERS[peer](path, [seconds * part / 8])[0].size for part in range(1, 8))
    except Exception:
        return False


def main(words: list[str] | None = None) -> dict[str, dict[str, Cost]]:
    """Print one table; the medians by job and program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of videos; else a rendered corpus")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--ray", action="store_true", help="marey through Ray as well")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24, help="of a long run; a short one has 2")
    parser.add_argument("--rate", type=float, default=4.0, help="frames per second to embed")
    parser.add_argument("--jobs", nargs="+", help="only these")
    parser.add_argument("--programs", nargs="+", help="only these")
    options = parser.parse_args(words)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: Ray's processes outlive their parents
    long, repeats = (2, 1) if options.tiny else (options.steps, options.repeats)
    programs = options.programs or [
        "marey", *(["marey (Ray)"] if options.ray else []), *_installed()
    ]  # fmt: skip
    peers = [program for program in programs if program in READERS]
    print(f"{default_workers()} cores; lightly: {LIGHTLY}; samples of `mine` are video seconds")
    print(f"{'job':<11}{'program':<13}{'per CPU s':>10}{'per s':>9}{'wait':>7}{'MiB':>7}"
          f"{'ratio':>7}{'cores':>7}")  # fmt: skip
    found: dict[str, dict[str, Cost]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        where, working = prepare(folder, options.data, options.rate, options.tiny, peers)
        for peer in set(peers) - set(working):
            print(f"{peer} reads none of the files here, and is left out")
        programs = [program for program in programs if program not in peers or program in working]
        for job in jobs(options.tiny):
            if options.jobs and job.name not in options.jobs:
                continue
            own = [p for p in programs if job.kind != "mine" or p.startswith("marey")]
            costs: dict[str, list[Cost]] = {program: [] for program in own}
            for _ in range(repeats):
                for program in own:
                    # of the tiny run the figures do not matter
                    trained = job.kind in ("simclr", "order") and not options.tiny
                    short = measure(job, program, where, 2, folder) if trained else None
                    whole = measure(job, program, where, long, folder)
                    costs[program].append(steady(whole, short))
            found[job.name] = {program: _median(several) for program, several in costs.items()}
            _print(job, found[job.name])
    return found


def _installed() -> list[str]:
    from importlib.util import find_spec

    return [name for name in READERS if find_spec({"pyav": "av"}.get(name, name))]


def _median(costs: list[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.samples / cost.cpu_s)[len(costs) // 2]


def _print(job: Job, costs: dict[str, Cost]) -> None:
    """The lines of one job; `ratio` is to the best peer, per CPU second."""
    peers = [c.samples / c.cpu_s for name, c in costs.items() if not name.startswith("marey")]
    for program, cost in costs.items():
        rate = cost.samples / cost.cpu_s
        ratio = f"{rate / max(peers):>7.2f}" if peers else f"{'':>7}"
        cores = f"{H200[job.name] / rate:>7.0f}" if job.name in H200 else f"{'':>7}"
        print(f"{job.name:<11}{program:<13}{rate:>10.2f}{cost.samples / cost.wall_s:>9.2f}"
              f"{cost.wait:>7.2f}{cost.peak_mib:>7.0f}{ratio}{cores}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
