"""How many frames per second of CPU come out of a LeRobot 3 data set? One run, one table.

    python benchmarks/lerobot_loading.py --peers PYTHON [--set FOLDER] [--repeats 3]

PYTHON has `lerobot` or `lerobot-dataset` and torchcodec installed; it writes the set (three
cameras, 640x480, AV1, a keyframe every two frames) and runs their loaders. `bare` is the limit:
libav's decoder alone on exactly the packets that a unit's samples need, once each, nothing
converted. A workload is an epoch of random single frames, or of windows of 16, of all three
cameras, and asks for a share of the set's frames. A unit of work is as large as training's.

Each has one thread; repeats go round the libraries in turn. Their loader delivers float32 of the
coded size, torchcodec and marey uint8 of 298x224. "wrong" counts frames that look more like another
frame of the episode than like the one that was asked for.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import av
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from decode_peers import THUMBNAIL  # noqa: E402
from lerobot_peers import CAMERAS, Sample, places, thumbnail  # noqa: E402

from marey.pipeline.stream.plan import UNIT_FRAMES  # noqa: E402

WORKLOADS = {
    "frames, all": (1, 1.0),
    "frames, 10 %": (1, 0.1),
    "frames, 1 %": (1, 0.01),
    "windows of 16, all": (16, 1.0),
    "windows of 16, 10 %": (16, 0.1),
}
"""Name -> frames of a sample, share of the set's frames."""


class Worker:
    """One library in a process of its own, asked over its standard input."""

    def __init__(self, python: str, peer: str, root: Path) -> None:
        self.peer = peer
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("lerobot_peers.py")), peer, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        self.missing: str | None = self._answer().get("missing")

    def ask(self, samples: list[Sample], units: list[int], *, look: bool) -> dict:
        """CPU seconds and files opened; to `look`, the frames as thumbnails."""
        assert self.process.stdin is not None
        self.process.stdin.write(
            json.dumps({"samples": samples, "units": units, "look": look}) + "\n"
        )
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return {"missing": "its process ended"}

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def draw(
    lengths: list[int], frames: int, share: float, rng: np.random.Generator
) -> tuple[list[Sample], list[int]]:
    """An epoch's samples in random order, those of a unit together, and how many each unit has."""
    samples: list[Sample] = []
    units, held = [], 0
    unit: list[Sample] = []
    for episode in rng.permutation(len(lengths)).tolist():
        length = lengths[episode]
        if unit and held + len(CAMERAS) * length > UNIT_FRAMES:
            samples, units, unit, held = samples + unit, [*units, len(unit)], [], 0
        held += len(CAMERAS) * length
        count = max(1, round(share * length / frames))
        starts = rng.choice(length - frames + 1, size=count, replace=False)
        unit += [(episode, start, frames) for start in starts.tolist()]
    samples, units = samples + unit, [*units, len(unit)]
    edges = np.cumsum([0, *units])
    mixed = [edges[n] + rng.permutation(size) for n, size in enumerate(units)]
    return [samples[place] for place in np.concatenate(mixed).tolist()], units


def count_wrong(
    answer: dict, samples: list[Sample], truth: dict[tuple[int, str], np.ndarray]
) -> int:
    """How many of the frames given look more like another of their episode; missing ones too."""
    asked = [
        (episode, camera, first + k)
        for episode, first, length in samples
        for camera in CAMERAS
        for k in range(length)
    ]
    raw = np.frombuffer(base64.b64decode(answer["thumbnails"]), np.uint8)
    right = 0
    for (episode, camera, number), small in zip(
        asked, raw.reshape(-1, *THUMBNAIL[::-1], 3), strict=False
    ):
        error = np.abs(truth[episode, camera] - small.astype(np.float32)).mean(axis=(1, 2, 3))
        right += bool(error[number] <= 1.25 * error.min() + 0.1)
    return len(asked) - right


def every_frame(root: Path, lengths: list[int]) -> dict[tuple[int, str], np.ndarray]:
    """Thumbnails of all frames by a plain decode: (episode, camera) -> float32 [N, h, w, 3]."""
    where, decoded = places(str(root)), {}
    for path, _ in where.values():
        if path not in decoded:
            with av.open(path) as container:
                decoded[path] = [
                    thumbnail(frame.to_ndarray(format="rgb24"))
                    for frame in container.decode(video=0)
                ]
    return {
        key: np.stack(decoded[path][first : first + lengths[key[0]]]).astype(np.float32)
        for key, (path, first) in where.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--peers", default=sys.executable, help="the Python that has their packages"
    )
    parser.add_argument("--set", type=Path, help="a set that lerobot_peers.py wrote")
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--length", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.set or Path(folder) / "set"
        if not root.exists():
            script = str(Path(__file__).with_name("lerobot_peers.py"))
            size = [str(args.episodes), str(args.length)]
            environment = os.environ | {"HF_HUB_OFFLINE": "1"}
            command = [args.peers, script, "write", str(root), *size]
            subprocess.run(command, check=True, env=environment)
        info = json.loads((root / "meta" / "info.json").read_text())
        lengths = [info["total_frames"] // info["total_episodes"]] * info["total_episodes"]
        pythons = {
            "lerobot": args.peers,
            "torchcodec": args.peers,
            "bare": sys.executable,
            "marey": sys.executable,
        }
        workers = [Worker(python, peer, root) for peer, python in pythons.items()]
        for worker in workers:
            if worker.missing:
                print(f"{worker.peer}: missing ({worker.missing})")
        workers = [worker for worker in workers if not worker.missing]
        truth = every_frame(root, lengths)
        print("| workload | library | frames/s of CPU | of lerobot's | opens per sample | wrong |")
        print("|---|---|---|---|---|---|")
        for name in args.workloads:
            table(name, workers, lengths, truth, args.repeats)
        for worker in workers:
            worker.close()


def table(
    name: str,
    workers: list[Worker],
    lengths: list[int],
    truth: dict[tuple[int, str], np.ndarray],
    repeats: int,
) -> None:
    """Measure one workload and print its rows."""
    samples, units = draw(lengths, *WORKLOADS[name], np.random.default_rng(0))
    seconds: dict[str, list[float]] = {worker.peer: [] for worker in workers}
    opens, wrong = {}, {}
    for repeat in range(repeats + 1):  # the first warms caches and is only looked at
        for worker in workers:
            answer = worker.ask(samples, units, look=repeat == 0)
            if repeat:
                seconds[worker.peer].append(answer["cpu_s"])
            elif "thumbnails" in answer:
                wrong[worker.peer] = count_wrong(answer, samples, truth)
            opens[worker.peer] = answer["opens"] / len(samples)
    frames = len(samples) * samples[0][2] * len(CAMERAS)
    rates = {peer: frames / median(measured) for peer, measured in seconds.items()}
    for peer, rate in rates.items():
        ratio = f"{rate / rates['lerobot']:.2f}" if "lerobot" in rates else ""
        opening = f"{opens[peer]:.3f}" if opens[peer] else ""
        print(f"| {name} | {peer} | {rate:.0f} | {ratio} | {opening} | {wrong.get(peer, '')} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
