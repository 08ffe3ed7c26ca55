"""How many frames a second of CPU does each decoding library deliver? One run, one table.

    python benchmarks/decode.py                    # generated sources, half an hour or more
    python benchmarks/decode.py --quick            # two sources, two repeats
    python benchmarks/decode.py --data FOLDER      # sources made from the videos of a folder

Every library runs in a process of its own that stays alive; repeats go round the libraries in turn,
so that a change of the machine's speed meets all of them. Each has one thread and delivers uint8
RGB at 224 pixels short side. Names with `-merged` get all frames of all samples in one sorted call.
A library that is not installed is listed as missing.

What is delivered is looked at once: the column "wrong" counts frames that look more like another
frame of the video than like the one that was asked for.
"""

from __future__ import annotations

import argparse
import base64
import json
import platform
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from decode_peers import MERGING, READERS, THUMBNAIL, merged, thumbnails  # noqa: E402

SHORT_SIDE = 224
PEERS = tuple(READERS)
WORKLOADS = ("dense", "every16", "tuples", "random", "pairs")
SOURCES = {
    "h264-long": ("libx264", 250, "mp4", {"preset": "medium", "crf": "23"}),
    "h264-short": ("libx264", 12, "mp4", {"preset": "medium", "crf": "23"}),
    "h264-open": ("libx264", 60, "mp4", {"preset": "medium", "x264-params": "open-gop=1"}),
    "hevc": ("libx265", 60, "mp4", {"preset": "fast", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", 60, "webm", {"deadline": "realtime", "cpu-used": "7", "b": "1500k"}),
    "av1": ("libsvtav1", 128, "mkv", {"preset": "8", "crf": "35", "svtav1-params": "lp=1"}),
    "mpeg4": ("mpeg4", 12, "avi", {"b": "3000k"}),
}
"""Name -> encoder, longest distance of keyframes, container, encoder options."""


def draw_scene(index: int, width: int, height: int, textures: list[np.ndarray]) -> np.ndarray:
    """Frame of a made-up street: a panned textured background and textured things that move."""
    back = textures[0]
    dx, dy = int(40 + 30 * np.sin(index / 40)) + index // 2 % 64, int(20 + 15 * np.cos(index / 55))
    frame = back[dy : dy + height, dx : dx + width].copy()
    for k, texture in enumerate(textures[1:]):
        th, tw = texture.shape[:2]
        x = int((0.5 + 0.45 * np.sin(index / (23 + 7 * k) + k)) * (width - tw))
        y = int((0.5 + 0.40 * np.cos(index / (31 + 5 * k) + 2 * k)) * (height - th))
        frame[y : y + th, x : x + tw] = texture
    return frame


def make_textures(width: int, height: int) -> list[np.ndarray]:
    """Images with the spectrum of photographs (amplitude falling as one over frequency)."""
    rng = np.random.default_rng(7)

    def natural(h: int, w: int) -> np.ndarray:
        fy, fx = np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None, :]
        falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(h, w))
        planes = []
        for _ in range(3):
            noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(h, w))) * falloff).real
            planes.append(noise / noise.std())
        grey = planes[0][..., None] * 45
        return np.clip(120 + grey + 14 * np.stack(planes, -1), 0, 255).astype(np.uint8)

    sizes = [(height + 64, width + 192)] + [(height // 4, width // 6)] * 5
    return [natural(h, w) for h, w in sizes]


def make_sources(folder: Path, names: list[str], data: Path | None, frames: int) -> list[Path]:
    """Encode the sources that are not in `folder` yet: 768x576, or the size of the first video."""
    pictures: list[np.ndarray] = []
    paths = [folder / f"{name}.{SOURCES[name][2]}" for name in names]
    if all(path.exists() for path in paths):
        return paths
    if data is None:
        textures = make_textures(768, 576)
        pictures = [draw_scene(i, 768, 576, textures) for i in range(frames)]
    else:
        for path in sorted(p for p in data.iterdir() if p.is_file()):
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    size = (768, 576)
                    pictures.append(frame.reformat(*size, format="rgb24").to_ndarray())
                    if len(pictures) >= frames:
                        break
            if len(pictures) >= frames:
                break
    for name, path in zip(names, paths, strict=True):
        codec, gop, _, options = SOURCES[name]
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(25))
            height, width = pictures[0].shape[:2]
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.gop_size = gop
            stream.codec_context.options = options
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return paths


def make_workload(name: str, frames: int, seed: int) -> list[np.ndarray]:
    """Requests on one video as frame numbers, int64 [T] each."""
    rng = np.random.default_rng(seed)
    if name == "dense":
        return [np.arange(s, s + 32) for s in rng.integers(0, frames - 32, size=3)]
    if name == "every16":
        return [np.arange(0, frames, 16)]
    if name == "tuples":
        starts = rng.integers(0, frames - 60, size=10)
        return [s + np.sort(rng.choice(60, size=3, replace=False)) for s in starts]
    if name == "random":
        return [np.array([k]) for k in rng.integers(0, frames, size=12)]
    return [np.array([k]) for k in rng.choice(frames, size=8, replace=False)]  # pairs: both views


class Worker:
    """One library in a process of its own, asked over its standard input."""

    def __init__(self, python: str, peer: str) -> None:
        self.peer = peer
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("decode_peers.py")), peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.missing: str | None = self._answer().get("missing")

    def ask(self, paths: list[Path], requests: list[list[int]], *, look: bool = False) -> dict:
        """CPU seconds, frames delivered and decoded, and peak memory of one repeat."""
        message = {"paths": [str(p) for p in paths], "requests": requests, "look": look}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):
            line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "its process ended"}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # spdl's thread pool keeps its process alive
            self.process.kill()
            self.process.wait()


def measure(
    workers: list[Worker], paths: dict[str, Path], frames: int, repeats: int, workloads: list[str]
) -> list[dict]:
    """All repeats of all workloads on all sources; one row a (source, workload, library)."""
    rows = []
    for source, path in paths.items():
        truth = every_frame(path)
        for workload in workloads:
            answers: dict[str, list[dict]] = {worker.peer: [] for worker in workers}
            wrong: dict[str, int] = {}
            requests = [request.tolist() for request in make_workload(workload, frames, 0)]
            both = [path, path] if workload == "pairs" else [path]
            for repeat in range(repeats + 1):  # the first warms caches and is only looked at
                for worker in workers:
                    answer = worker.ask(both, requests, look=repeat == 0)
                    if repeat or "failed" in answer:
                        answers[worker.peer].append(answer)
                    elif worker.peer != "bare":
                        wrong[worker.peer] = count_wrong(answer, worker.peer, requests, truth)
            for peer, got in answers.items():
                row = {"source": source, "workload": workload, "peer": peer, **summary(got)}
                rows.append(row | ({"wrong": wrong[peer]} if peer in wrong else {}))
            print_rows(rows[-len(answers) :])
    return rows


def every_frame(path: Path) -> np.ndarray:
    """Thumbnails of all frames in shown order, by a plain full decode: uint8 [N, h, w, 3]."""
    with av.open(str(path)) as container:
        return thumbnails([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def count_wrong(answer: dict, peer: str, requests: list[list[int]], truth: np.ndarray) -> int:
    """How many of the frames given look more like another frame of the video; missing ones too."""
    asked = merged(requests) if peer in MERGING else [k for request in requests for k in request]
    raw = np.frombuffer(base64.b64decode(answer["thumbnails"]), np.uint8)
    given = raw.reshape(-1, *THUMBNAIL[::-1], 3)
    right = 0
    for number, picture in zip(asked, given, strict=False):
        error = np.abs(truth.astype(np.float32) - picture).mean(axis=(1, 2, 3))
        # frames of a still scene look alike, and colour differs a little between libraries
        right += bool(error[number] <= 1.25 * error.min() + 0.1)
    return len(asked) - right


def summary(answers: list[dict]) -> dict:
    """Medians over repeats of one library on one workload."""
    failed = next((a["failed"] for a in answers if "failed" in a), None)
    if failed:
        return {"failed": failed}
    return {
        "fps": median(a["frames"] / a["cpu_s"] for a in answers),
        "cpu_s": median(a["cpu_s"] for a in answers),
        "delivered": answers[0]["frames"],
        "decoded": answers[0]["decoded"],
        "peak_mib": median(a["peak_mib"] for a in answers),
    }


def print_rows(rows: list[dict]) -> None:
    """One workload as lines of the table, the bare decode as the unit."""
    bare = next((r["fps"] for r in rows if r["peer"] == "bare" and "fps" in r), None)
    for row in rows:
        head = f"{row['source']:<11} {row['workload']:<8} {row['peer']:<23}"
        if "failed" in row:
            print(f"{head} failed: {row['failed'][:80]}")
            continue
        decoded = f"{row['decoded'] / row['delivered']:6.2f}" if row["decoded"] else "     -"
        ratio = f"{row['fps'] / bare:6.2f}" if bare else "     -"
        wrong = f"{row['wrong']:5d}" if "wrong" in row else "    -"
        print(
            f"{head} {row['fps']:8.1f} {ratio} {decoded} {row['peak_mib']:8.0f} {wrong}", flush=True
        )


def print_verdict(rows: list[dict]) -> None:
    """marey against the bare decode and against the fastest other library, for each workload.

    A library that gave a wrong frame is left out of the comparison, and named.
    """
    print("\nsource      workload  marey/bare  /fastest, merged too    /fastest, sample by sample")
    for source in dict.fromkeys(r["source"] for r in rows):
        for workload in dict.fromkeys(r["workload"] for r in rows):
            all_of = [r for r in rows if r["source"] == source and r["workload"] == workload]
            here = {r["peer"]: r["fps"] for r in all_of if "fps" in r and not r.get("wrong")}
            wrong = [r["peer"] for r in all_of if r.get("wrong")]
            mine, bare = here.pop("marey", None), here.pop("bare", None)
            if not mine or not bare or not here:
                continue
            fastest = max(here, key=lambda peer: here[peer])
            alone = {peer: fps for peer, fps in here.items() if not peer.endswith("-merged")}
            usual = max(alone, key=lambda peer: alone[peer])
            print(
                f"{source:<11} {workload:<9} {mine / bare:9.2f}  "
                f"{mine / here[fastest]:6.2f} {fastest:<18} {mine / alone[usual]:6.2f} {usual:<18}"
                f"{'wrong: ' * bool(wrong)}{' '.join(wrong)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="make the sources from this folder's videos")
    parser.add_argument("--work", type=Path, help="keep the encoded sources in this folder")
    parser.add_argument("--frames", type=int, default=500, help="frames of a source")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the rows there")
    args = parser.parse_args()
    names = ["h264-long", "h264-short"] if args.quick else args.sources.split(",")
    repeats = 2 if args.quick else args.repeats
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = make_sources(folder, names, args.data, args.frames)
        workers = [Worker(sys.executable, peer) for peer in args.peers.split(",")]
        for worker in workers:
            if worker.missing:
                print(f"missing: {worker.peer} ({worker.missing})")
        present = [worker for worker in workers if not worker.missing]
        print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
        print("source      workload library                 frames/s  /bare dec/del peak MiB wrong")
        rows = measure(
            present,
            dict(zip(names, paths, strict=True)),
            args.frames,
            repeats,
            args.workloads.split(","),
        )
        for worker in present:
            worker.close()
    print_verdict(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
