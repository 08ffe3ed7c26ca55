"""How is a benchmark with truth made for trackers? From any folder of videos, half for tuning.

Each sequence takes its background from one video and its moving thing from another
(`pipeline.synthetic.moving_things`). The two halves share neither seeds nor videos, so that what
was chosen on the tuning half is reported on pictures that no choice has seen.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError, UsageError
from marey.pipeline.mining.shots import hard_cuts
from marey.pipeline.runtime.progress import each
from marey.pipeline.runtime.storage import is_companion
from marey.pipeline.synthetic.moving_things import MovingThing, draw_attributes, render_moving_thing
from marey.pipeline.video import probe, read_range

HALVES = ("tuning", "reported")
READ_SIDE = 384
"""Short side at which videos are read."""


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """A video that backgrounds and things are taken from."""

    path: Path
    duration_s: float
    fps: float


def make_tracking_truth(
    videos: Path | str,
    out: Path | str,
    *,
    num: int = 300,
    frames: int = 60,
    seed: int = 0,
    without: str = "",
) -> int:
    """Writes `num` sequences of `frames` frames below `out`/tuning and `out`/reported.

    Each is an OTB folder (`img/0001.jpg` ..., `groundtruth_rect.txt` with boxes x, y, w, h counted
    from 1, `NaN` where the thing is out of view) with `attributes.txt` and `visible.txt` (the share
    of the thing that is seen, a line per frame). The same videos and seed give the same sequences;
    those that exist are kept, so that an interrupted call goes on. without: leave out videos whose
    path below the folder contains this. Returns how many were written.
    Raises UsageError for values out of range, InputError where there are fewer than four videos.
    """
    if num < 2 or frames < 10:
        raise UsageError(f"num={num} and frames={frames} given; at least 2 and 10")
    halves = split_videos(find_videos(Path(videos), without))
    root = Path(out)
    written = 0
    for n in each(range(num), "render", "sequences"):
        half = HALVES[n % 2]
        rng = np.random.default_rng([seed, n])
        attributes = draw_attributes(n // 2, rng)
        folder = root / half / f"{n:04d}_{'-'.join(attributes)}"
        if (folder / "groundtruth_rect.txt").exists():
            continue
        write_sequence(folder, _sequence(halves[n % 2], attributes, frames, rng))
        written += 1
    note = {"seed": seed, "num": num, "frames": frames}
    note |= {half: [v.path.name for v in own] for half, own in zip(HALVES, halves, strict=True)}
    (root / "benchmark.json").write_text(json.dumps(note, indent=1) + "\n")
    return written


def find_videos(folder: Path, without: str = "") -> list[SourceVideo]:
    """Readable videos of at least a second and 96 pixels below `folder`, sorted by path."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not is_companion(p.name)):
        if without and without in str(path.relative_to(folder)):
            continue
        info = probe(str(path), motion="none")
        if info.status == "ok" and info.duration_s >= 1.0 and min(info.width, info.height) >= 96:
            found.append(SourceVideo(path, info.duration_s, info.fps))
    if len(found) < 4:
        raise InputError(
            f"{folder}: {len(found)} readable videos of a second or more; a benchmark with two "
            "halves that share no video needs at least 4"
        )
    return found


def split_videos(videos: list[SourceVideo]) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """Two halves by a hash of the names: the same whatever the order."""
    order = sorted(videos, key=lambda v: hashlib.sha256(v.path.name.encode()).hexdigest())
    return order[::2], order[1::2]


def write_sequence(folder: Path, made: MovingThing) -> None:
    """Writes one sequence; the boxes come last, so that a folder with boxes is whole."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(made.frames):
        name = str(folder / "img" / f"{t + 1:04d}.jpg")
        cv2.imwrite(name, frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    np.savetxt(folder / "visible.txt", made.visible, fmt="%.3f")
    (folder / "attributes.txt").write_text(",".join(made.attributes) + "\n")
    boxes = made.boxes + np.array([1, 1, 0, 0], np.float32)
    np.savetxt(folder / "groundtruth_rect.txt", boxes, fmt="%.2f", delimiter=",")


def _sequence(
    videos: list[SourceVideo],
    attributes: tuple[str, ...],
    count: int,
    rng: np.random.Generator,
) -> MovingThing:
    first, second, third = rng.choice(len(videos), 3, replace=len(videos) < 3)
    if "BC" in attributes and rng.random() < 0.5:
        second = first  # a thing that looks like what is behind it
    ground = _ground(videos[int(first)], count, rng)
    texture = _picture(videos[int(second)], rng)
    cover = _picture(videos[int(third)], rng)
    return render_moving_thing(attributes, ground, texture, cover, rng)


def _ground(video: SourceVideo, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`count` consecutive frames without a cut; a short shot is run back and forth."""
    best = np.zeros((0, 0, 0, 3), np.uint8)
    for _ in range(4):
        length = (count + 1) / max(video.fps, 1.0)
        start = float(rng.uniform(0, max(video.duration_s - length, 0.0)))
        frames, _, _ = read_range(str(video.path), start, start + length, READ_SIDE)
        edges = [0, *hard_cuts(frames), len(frames)]
        longest = int(np.argmax(np.diff(edges)))
        shot = frames[edges[longest] : edges[longest + 1]][:count]
        if len(shot) > len(best):
            best = shot
        if len(best) >= min(count, len(frames)):
            break
    while len(best) < count:
        best = np.concatenate([best, best[-2::-1]]) if len(best) > 1 else best.repeat(count, 0)
    return best[:count]


def _picture(video: SourceVideo, rng: np.random.Generator) -> NDArray[np.uint8]:
    start = float(rng.uniform(0, max(video.duration_s - 0.5, 0.0)))
    frames, _, _ = read_range(str(video.path), start, start + 0.2, READ_SIDE)
    return frames[0]
