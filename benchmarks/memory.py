"""Does memory stay flat as the corpus grows? Peak resident memory on one and on ten corpora.

    python benchmarks/memory.py [--videos 40]

The larger corpus holds the videos of the smaller ten times (as links). Memory is the peak of the
sum over this process and all that it started (shared pages counted once, as proportional set size).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.synthetic.arm_corpus import make_corpus

TIMES = 10


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        made = make_corpus(home / "made", events=options.videos // 2, seconds=6)
        indexes = {}
        for copies in (1, TIMES):
            folder = home / f"corpus{copies}"
            for copy in range(copies):
                (folder / str(copy)).mkdir(parents=True)
                for video in made:
                    os.link(video, folder / str(copy) / f"{video.parent.name}_{video.name}")
            indexes[copies] = str(home / f"{copies}.parquet")
            write_index(make_index([str(folder)], workers=default_workers()), indexes[copies])
        print(f"{len(made)} videos and {TIMES} times as many; peak memory in MiB")
        print(f"{'command':<22}{'x1':>10}{f'x{TIMES}':>10}{'ratio':>8}")
        for name, words in _commands(home).items():
            peaks = [
                _peak([*words, "--data", indexes[c], "-o", str(home / f"{name}{c}")])
                for c in indexes
            ]
            print(f"{name:<22}{peaks[0]:>10.0f}{peaks[1]:>10.0f}{peaks[1] / peaks[0]:>8.2f}")


def _commands(home: Path) -> dict[str, list[str]]:
    train = ["train", "demo", "method.sampling={kind: time_pairs, pairs: 8}", "trainer.epochs=2",
             "trainer.steps=null", "trainer.probe_every=1000", "encoder.image_size=32"]  # fmt: skip
    return {
        "train-local": [*train, "--engine", "local"],
        "train-ray": train,
        "embed-ray": ["embed", str(home / "train-local1"), "--fps", "0"],
    }


def _peak(words: list[str]) -> float:
    """Run a marey command; the peak of its processes' proportional memory, MiB."""
    process = subprocess.Popen([sys.executable, "-m", "marey", *words], stderr=subprocess.PIPE)
    peak, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.5):
            peak = max(peak, _memory(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    _, error = process.communicate()
    over.set()
    thread.join()
    if process.returncode not in (0, 3):
        raise SystemExit(error.decode())
    return peak / 2**20


def _memory(pid: int) -> int:
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


if __name__ == "__main__":
    main()
