"""A robot's data set with faults planted in it, and the list of them.

Two cameras that stand still see one thing move; every episode moves it otherwise. The set is laid
out as LeRobot 2.1, so that a table says how many frames there should be.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from tests.lerobot_sets import CAMERAS, write_v2
from tests.videos import encode_video

FPS = 12
SIZE = (96, 72)
Draw = Callable[[int], np.ndarray]
Truth = set[tuple[str, str]]
"""(kind of fault, video_id)."""


def _ground(camera: int) -> np.ndarray:
    """What a camera sees when nothing moves: float32 [H, W, 3]."""
    random = np.random.default_rng(900 + camera)
    coarse = random.uniform(40, 200, (5, 6, 3)).astype(np.float32)
    return cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)


def episode(number: int, camera: int, late_s: float = 0.0) -> Draw:
    """What a camera sees of an episode; `late_s` shifts its time."""
    random = np.random.default_rng(number)
    knots = random.uniform(0.15, 0.85, (40, 2))
    pause = random.uniform(0.3, 1.0, 40)
    ground, colour = _ground(camera), random.uniform(0, 255, 3)
    grain = np.random.default_rng(7).normal(0, 2.0, (*SIZE[::-1], 1))

    def draw(frame: int) -> np.ndarray:
        time_s = max(0.0, frame / FPS - late_s) / 0.6
        n = min(int(time_s), 38)
        share = np.clip((time_s - n) / pause[n], 0, 1)
        x, y = knots[n] * (1 - share) + knots[n + 1] * share
        if camera:
            x, y = 1 - y, x
        picture = ground + np.roll(grain, 17 * frame, axis=1)
        centre = (int(x * SIZE[0]), int(y * SIZE[1]))
        cv2.circle(picture, centre, 11, colour.tolist(), -1)
        cv2.circle(picture, centre, 4, (255.0, 255.0, 255.0), -1)
        return np.clip(picture, 0, 255).astype(np.uint8)

    return draw


def _encode(path: Path, draw: Draw, frames: int, crf: int = 20, **settings) -> None:
    encode_video(
        path, frames, size=settings.pop("size", SIZE), fps=FPS, gop=24, draw=draw,
        options={"crf": str(crf)}, **settings,
    )  # fmt: skip


def plant(root: Path, each: int, sound: int = 12, seed: int = 0) -> tuple[Truth, Truth]:
    """Write a set with `each` faults of every kind and `sound` episodes without; returns the faults
    that must be found, and those that may be as well because they follow from one planted."""
    random = np.random.default_rng(seed)
    kinds = ["sound"] * sound + [kind for kind in PLANTS for _ in range(each)]
    lengths = [int(n) for n in random.integers(54, 80, len(kinds))]
    tables = list(lengths)
    for n, kind in enumerate(kinds):
        if kind == "frame_count":
            tables[n] += int(random.integers(1, 9))
        if kind == "too_short":
            lengths[n] = tables[n] = int(random.integers(3, 9))
    order = random.permutation(len(kinds))
    kinds = [kinds[n] for n in order]
    lengths, tables = [lengths[n] for n in order], [tables[n] for n in order]
    half = len(kinds) // 2
    splits = {"train": f"0:{half}", "test": f"{half}:{len(kinds)}"}
    places = write_v2(root, tables, fps=FPS, splits=splits)
    must: Truth = set()
    may: Truth = set()
    whole = [n for n, kind in enumerate(kinds) if kind == "sound"]
    for n, kind in enumerate(kinds):
        for c, camera in enumerate(CAMERAS):
            if kind in ("sound", "frame_count", "too_short") or c != _victim(n):
                _encode(places[n, camera], episode(n, c), lengths[n])
    for n, kind in enumerate(kinds):
        ids = [f"episode_{n:06d}/{camera}" for camera in CAMERAS]
        if kind in ("frame_count", "too_short"):
            must |= {(kind, one) for one in ids}
        elif kind != "sound":
            c = _victim(n)
            path, other = places[n, CAMERAS[c]], places[n, CAMERAS[1 - c]]
            origin = whole.pop() if kind in COPIES else n
            source = places[origin, CAMERAS[c]], origin, c
            PLANTS[kind](path, other, n, c, lengths[n], source)
            follows = FOLLOWS.get(kind, ())
            if kind in COPIES:
                # of two copies the one that is trained on is at fault, else the later one
                apart = (n < half) != (origin < half)
                copy = min(n, origin) if apart else max(n, origin)
                name = f"episode_{copy:06d}/{CAMERAS[c]}"
                must |= {(kind, name)} | ({("split_leak", name)} if apart else set())
            elif kind == "view_offset":  # the first view sets the clock, whichever is at fault
                must.add((kind, ids[1]))
            else:
                must.add((kind, ids[c]))
            if kind == "swapped_cameras":
                must.add((kind, ids[1 - c]))
            may |= {(also, one) for also in follows for one in ids}
    return must, may


def _victim(number: int) -> int:
    """The camera at which an episode's fault is planted."""
    return number % 2


def _unreadable(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    path.write_bytes(b"this was never a video" * 40)


def _damaged(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    _encode(path, episode(n, c), frames, container_options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: int(0.6 * len(content))])


def _frozen(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    draw, at = episode(n, c), frames // 3
    _encode(path, lambda k: draw(min(k, at) if k < at + 30 else k), frames)


def _even(level: float) -> Callable:
    def write(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
        _encode(path, lambda k: np.full((*SIZE[::-1], 3), level, np.uint8), frames)

    return write


def _uneven(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    steps = np.random.default_rng(n).choice([1, 2, 4], frames)
    ticks = np.concatenate([[0], np.cumsum(steps)[:-1]]).tolist()
    _encode(path, episode(n, c), frames, ticks=ticks, b_frames=0)


def _copy(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    shutil.copyfile(source[0], path)


def _near(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    from marey.pipeline.video import probe

    count = probe(str(source[0])).frames
    draw = episode(source[1], source[2])
    _encode(
        path, lambda k: cv2.resize(draw(k), (64, 48), interpolation=cv2.INTER_AREA), count, 30,
        size=(64, 48),
    )  # fmt: skip


def _shorter(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    _encode(path, episode(n, c), frames - 20)


def _late(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    _encode(path, episode(n, c, 0.75), frames)


def _swapped(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    _encode(path, episode(n, 1 - c), frames)
    _encode(other, episode(n, c), frames)


def _table_only(path: Path, other: Path, n: int, c: int, frames: int, source: tuple) -> None:
    raise ValueError("written with the table")


PLANTS: dict[str, Callable[..., None]] = {
    "unreadable": _unreadable, "damaged": _damaged, "frozen": _frozen, "black": _even(2.0),
    "constant": _even(120.0), "variable_rate": _uneven, "duplicate": _copy,
    "near_duplicate": _near, "view_lengths": _shorter, "view_offset": _late,
    "swapped_cameras": _swapped, "frame_count": _table_only, "too_short": _table_only,
}  # fmt: skip
COPIES = ("duplicate", "near_duplicate")
FOLLOWS = {
    "damaged": ("frame_count", "view_lengths", "too_short"),
    "variable_rate": ("view_lengths", "view_offset"),
    "duplicate": ("frame_count", "view_lengths", "view_offset"),
    "near_duplicate": ("frame_count", "view_lengths", "view_offset"),
    "view_lengths": ("frame_count",),
    "frozen": ("view_offset",),
    "black": ("swapped_cameras",),
    "constant": ("swapped_cameras",),
}
"""What else a planted fault makes true of its event."""
