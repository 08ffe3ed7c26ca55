"""How fast and how right are the trackers, beside OpenCV's in the same run?

    python -m benchmarks.trackers make --videos FOLDER --out BENCHMARK [--num 300] [--seed 0]
    python -m benchmarks.trackers accuracy --tracking BENCHMARK/reported [--starts 12]
    python -m benchmarks.trackers speed [--boxes 1 10 100 1000] [--sides 40 64]

`make` renders a benchmark with truth from any folder of videos, one half to choose settings on, one
to report; `accuracy` runs on any folder in the layout of OTB, GOT-10k, LaSOT or VOT.

One thread each, so every figure is for one core; speed is in boxes x frames a second of processor
time (of this process), so that neighbours on a shared machine disturb less. OpenCV's KCF, CSRT,
MOSSE and MedianFlow need a contrib wheel; what is missing is listed and left out.
"""

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.mining import texture
from marey.configs.errors import DependencyError
from marey.pipeline.evaluate.bootstrap import video_interval
from marey.pipeline.evaluate.tracking import Score, evaluate_otb, table
from marey.pipeline.evaluate.tracking_truth import make_tracking_truth
from marey.trackers import Tracker, build
from marey.trackers.tracker import State

OURS = (
    "mosse",
    "kcf-grey",
    "dcf-hog",
    "kcf-hog",
    "kcf-hog-scale",
    "dsst-hog",
    "dcf-colour",
    "dcf-colour-scale",
    "staple",
    "strcf",
    "median-flow",
)
THEIRS = ("opencv-mosse", "opencv-kcf", "opencv-csrt", "opencv-medianflow", "opencv-mil")
SLOW = {"opencv-csrt": 10, "opencv-mil": 10, "strcf": 100}
"""Most boxes for trackers whose time grows with every box: more would only take longer."""


def main() -> None:
    """Prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--boxes", type=int, nargs="+", default=[1, 10, 100, 1000])
    speed.add_argument("--sides", type=int, nargs="+", default=[40, 64])
    speed.add_argument("--frames", type=int, default=16)
    make = commands.add_parser("make")
    make.add_argument("--videos", required=True, help="folder of videos, also within folders")
    make.add_argument("--without", default="", help="leave out paths that contain this")
    make.add_argument("--out", required=True)
    for name, value in (("num", 300), ("length", 60), ("seed", 0)):
        make.add_argument(f"--{name}", type=int, default=value)
    accuracy = commands.add_parser("accuracy")
    accuracy.add_argument("--tracking", required=True, help="folder of sequences")
    accuracy.add_argument("--rows", help="file for a JSON line per tracker and sequence")
    accuracy.add_argument("--starts", type=int, default=1, help="1: one-pass evaluation; 20: TRE")
    accuracy.add_argument("--first", type=int, help="only so many sequences, by name: a generated "
                          "benchmark's names take its attributes in turn")  # fmt: skip
    accuracy.add_argument("--against", default="opencv-csrt", help="print differences to it")
    for command in (speed, accuracy):
        command.add_argument("--trackers", nargs="+", default=[*OURS, *THEIRS])
        command.add_argument("--device", default="cpu", help="for correlation filters")
    options = parser.parse_args()
    one_thread()
    if options.what == "make":
        written = make_tracking_truth(
            options.videos, options.out, num=options.num, frames=options.length,
            seed=options.seed, without=options.without,
        )  # fmt: skip
        print(f"{written} sequences -> {options.out}")
    elif options.what == "speed":
        measure_speed(options)
    else:
        measure_accuracy(options)


def one_thread() -> None:
    """Torch and OpenCV on one thread each."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def built(names: list[str], device: str, **settings: bool) -> dict[str, Tracker]:
    """The trackers that this machine has; says which are missing."""
    found = {}
    for name in names:
        ours = device != "cpu" and name in OURS[:-1]
        extra: dict[str, Any] = {"device": device} if ours else {}
        try:
            found[name] = build(name, **settings, **extra)
        except DependencyError as error:
            print(f"missing: {name}: {error}")
    return found


def measure_speed(options: argparse.Namespace) -> None:
    """Boxes x frames a second for several numbers and sizes of boxes."""
    frames = scene(options.frames)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{frames.shape[2]}x{frames.shape[1]}, {len(frames)} frames, OpenCV {cv2.__version__}, "
          f"{cores} cores present, 1 used")  # fmt: skip
    trackers = built(options.trackers, options.device)
    for side in options.sides:
        print(f"\nboxes of {side}x{side} px: boxes x frames / s"
              f"{'':10}" + "".join(f"{n:>10}" for n in options.boxes) + "   alive")  # fmt: skip
        for name, tracker in trackers.items():
            tracker.track(frames[:3], boxes(2, side, frames))
            cells, alive = [], float("nan")
            for count in options.boxes:
                if count > SLOW.get(name, 1000):
                    cells.append(f"{'-':>10}")
                    continue
                given = boxes(count, side, frames)
                began = time.process_time()
                track = tracker.track(frames, given)
                seconds = time.process_time() - began
                moved = int((track.state[1:] == State.TRACKED).sum())
                cells.append(f"{moved / seconds:10.0f}")
                alive = float((track.state[-1] == State.TRACKED).mean())
            print(f"{name:40}" + "".join(cells) + f"{alive:8.2f}", flush=True)


def measure_accuracy(options: argparse.Namespace) -> None:
    """Success AUC with intervals, precision, robustness and speed, and AUC by attribute."""
    trackers = built(options.trackers, options.device, persistent=True)
    rows = evaluate_otb(options.tracking, trackers, starts=options.starts, first=options.first)
    print(table(rows))
    if options.against in trackers:
        print(differences(rows, options.against))
    if options.rows:
        lines = [json.dumps(asdict(row)) for row in rows if row.sequence != "mean"]
        Path(options.rows).write_text("\n".join(lines) + "\n")


def differences(rows: list[Score], against: str) -> str:
    """Success AUC and time of each tracker beside those of `against`, sequence by sequence."""
    single = [row for row in rows if row.sequence != "mean"]
    theirs = {row.sequence: row for row in single if row.tracker == against}
    lines = ["", f"{'less ' + against:<20}{'AUC':>8}{'95 % interval':>18}{'time':>9}"]
    for name in dict.fromkeys(row.tracker for row in single):
        own = [row for row in single if row.tracker == name]
        less = np.array([row.success_auc - theirs[row.sequence].success_auc for row in own])
        low, high = video_interval(less, np.arange(len(less)).astype(object))
        time_own, time_theirs = (
            sum(1.0 / row.boxes_per_s for row in group) for group in (own, theirs.values())
        )
        lines.append(
            f"{name:<20}{less.mean():>+8.3f}{f'{low:+.3f} {high:+.3f}':>18}"
            f"{time_own / time_theirs:>8.3f}x"
        )
    return "\n".join(lines)


def scene(num_frames: int, width: int = 640, height: int = 480) -> np.ndarray:
    """uint8 [T, H, W, 3]: a textured plane under a moving camera; every box can be followed."""
    rng = np.random.default_rng(0)
    plane = texture(rng, height + 3 * num_frames, width + 3 * num_frames, 2.5)
    return np.stack([plane[2 * t : 2 * t + height, t : t + width] for t in range(num_frames)])


def boxes(count: int, side: int, frames: np.ndarray) -> np.ndarray:
    """float32 [count, 4]: squares anywhere that stay inside while the camera moves."""
    rng = np.random.default_rng(1)
    height, width = frames.shape[1:3]
    drift = 2 * len(frames)
    x = rng.uniform(drift, width - side, count)
    y = rng.uniform(drift, height - side, count)
    return np.column_stack([x, y, np.full((count, 2), side)]).astype(np.float32)


if __name__ == "__main__":
    main()
