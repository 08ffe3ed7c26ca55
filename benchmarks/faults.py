"""Does a job that a fault meets give what an undisturbed one gives, and what time does it lose?

    python -m benchmarks.faults [--jobs mine embed] [--faults SIGTERM ...] [--moments 2]

Each job is a command on a local Ray instance, over a small generated corpus. A fault comes when a
part of the job that a seed draws is done; where it ends the command, the same command is run again.
*same*: the files of the result have the names and bytes of the undisturbed run's, so that nothing
half-written is left. *lost*: wall seconds beyond the undisturbed run's, start of Ray included.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from marey.pipeline.synthetic.arm_corpus import make_corpus

EVENTS = 24
LOOK_S = 0.05
"""How often it is looked whether the moment has come."""
JOBS = {
    "mine": ("mine", "index.parquet"),
    "embed": ("embed", "pixels", "--data", "index.parquet", "--fps", "0", "--copies", "16"),
}
"""The words of each command; `-o` follows."""
OF_SECONDS = 900.0
"""No command of these takes so long: one that does is reported as hanging."""


def begin(job: str, home: Path, out: Path) -> subprocess.Popen:
    """Start a job that writes to `out`."""
    log = (home / "log.txt").open("ab")
    words = [sys.executable, "-m", "marey", *JOBS[job], "-o", out.name]
    return subprocess.Popen(words, cwd=home, stdout=log, stderr=log, start_new_session=True)


def parts(out: Path) -> list[Path]:
    """The parts that are finished."""
    return sorted((out / "parts").glob("part-*.parquet"))


def digests(out: Path) -> dict[str, str]:
    """Name -> digest of every file of a result."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        path.relative_to(out).as_posix(): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in files
    }


def below(process: subprocess.Popen, name: str = "") -> list[psutil.Process]:
    """Processes of the job's own Ray instance whose command line holds `name`."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill(processes: Sequence[psutil.Process | subprocess.Popen]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process.send_signal(signal.SIGKILL)


def one_below(name: str) -> Callable[[subprocess.Popen, Path], None]:
    """Kill one process of that name."""

    def fault(process: subprocess.Popen, out: Path) -> None:
        found = below(process, name)
        if not found:
            raise LookupError(f"no process {name!r}")
        kill(found[:1])

    return fault


def driver(process: subprocess.Popen, out: Path) -> None:
    """The command, and with it all of its Ray instance."""
    kill([process, *below(process)])
    process.wait()


def terminated(process: subprocess.Popen, out: Path) -> None:
    process.send_signal(signal.SIGTERM)


def stopped(process: subprocess.Popen, out: Path) -> None:
    """One reader stands still for ten seconds."""
    found = below(process, "UnitActor")
    if not found:
        raise LookupError("no process 'UnitActor'")
    found[0].suspend()
    time.sleep(10)
    found[0].resume()


def cut(process: subprocess.Popen, out: Path) -> None:
    """The driver is killed, and half of a part that it has finished is lost."""
    driver(process, out)
    last = parts(out)[-1]
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])


def flipped(process: subprocess.Popen, out: Path) -> None:
    """The driver is killed, and a byte of a part that it has finished changes."""
    driver(process, out)
    last = parts(out)[-1]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF
    last.write_bytes(content)


FAULTS: dict[str, Callable[[subprocess.Popen, Path], None]] = {
    "reader killed": one_below("UnitActor"),
    "encoder killed": one_below("RowActor"),
    "supply killed": one_below("SupplyActor"),
    "raylet killed": one_below("raylet/raylet"),
    "driver killed": driver,
    "SIGTERM": terminated,
    "reader stands still": stopped,
    "part cut": cut,
    "byte flipped": flipped,
}

ABSENT = {("mine", "encoder killed"), ("mine", "supply killed")}
"""A job has no such process."""


def ended(process: subprocess.Popen) -> int | None:
    """The exit code; None for a command that hangs, which is killed."""
    try:
        return process.wait(OF_SECONDS)
    except subprocess.TimeoutExpired:
        driver(process, Path())
        return None


def disturbed(job: str, fault: str, at: int, home: Path) -> tuple[Path, list[int | None], float]:
    """A run with a fault once `at` parts are done: its result, exit codes, wall seconds."""
    out = home / "disturbed"
    shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    process = begin(job, home, out)
    while len(parts(out)) < at and process.poll() is None:
        time.sleep(LOOK_S)
    if process.poll() is not None:
        raise LookupError("the job ended before the fault")
    try:
        FAULTS[fault](process, out)
    except LookupError:
        driver(process, out)
        raise
    codes = [ended(process)]
    if codes[0] != 0:
        codes.append(ended(begin(job, home, out)))
    return out, codes, time.monotonic() - start


def row(job: str, fault: str, moments: Sequence[int], home: Path, plain_s: float) -> str:
    """One line of the table."""
    whole = digests(home / job)
    same, lost, codes = 0, [], set()
    for at in moments:
        try:
            out, code, seconds = disturbed(job, fault, at, home)
        except LookupError as error:
            return f"| {fault} | {job} | not run: {error} | | | |"
        same += digests(out) == whole
        lost.append(round(seconds - plain_s))
        codes.add(", ".join("hangs" if c is None else str(c) for c in code))
    when = ", ".join(f"{at}/{len(parts(home / job))}" for at in moments)
    times = ", ".join(map(str, lost))
    exits = "; ".join(sorted(codes))
    return f"| {fault} | {job} | {when} | {same} of {len(moments)} | {times} | {exits} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--moments", type=int, default=2, help="moments of each fault in each job")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_corpus(home / "videos", events=EVENTS, views=1)
        index = [sys.executable, "-m", "marey", "index", "videos", "-o", "index.parquet"]
        subprocess.run(index, cwd=home, check=True, capture_output=True)
        print("| fault | job | after parts | same | lost, s | exit codes |")
        print("|---|---|---|---|---|---|", flush=True)
        for job in chosen.jobs:
            start = time.monotonic()
            if ended(begin(job, home, home / job)):
                sys.exit((home / "log.txt").read_text())
            plain_s = time.monotonic() - start
            draw = random.Random(chosen.seed)
            most = len(parts(home / job)) - 2
            for fault in chosen.faults:
                if (job, fault) not in ABSENT:
                    moments = sorted(draw.randint(1, most) for _ in range(chosen.moments))
                    print(row(job, fault, moments, home, plain_s), flush=True)


if __name__ == "__main__":
    main()
