"""Worlds: small corpora in which pretext tasks have one right answer, for evidence that they learn.

Most show a white hand on a pivot in front of a dim backdrop of the video's own. What the hand does
is the world. Its angle survives every crop, and in `process` mirrors too, since only the angle from
the upright counts there; what walks may be mirrored whole. The others are the worlds of pictures
(`picture_worlds.py`), moving. Videos are really encoded, in

    folder/train/process03_view0.mp4    folder/test/process24_view1.mp4
    folder/states.parquet               video_id, time_s, state: the height of the hand's tip over
                                        the pivot, in lengths of the hand, or, of what walks, how
                                        far right it is, in widths of the picture

`scrambled` is the control of them all: the same pictures, the frames of each video in an order of
their own, so that no method of time can learn anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from marey.configs.errors import SettingError
from marey.pipeline.synthetic.encode import encode_frames
from marey.pipeline.synthetic.picture_worlds import PICTURE_WORLDS, moving

FPS = 15
SIZE = 96
SECONDS = 8
TURNS_PER_S = 0.2
"""Pace of the clock's hand."""
WALK_PER_S, WALK = 0.2, 0.4
"""Pace and length of a walk in one direction, in widths of the picture."""
VIEWS = r"(?P<event>[a-z]+\d+)_view(?P<view>\d)"
"""What `marey index --views` takes for a world."""
HAND = 0.29
"""Mean length of a hand, in widths of the picture."""
_SUBPIXEL = 4
"""Bits of fraction in the coordinates that OpenCV draws at."""

Array = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Course:
    """What the hand does: float64 [T] each."""

    angle: Array
    """Radians from the upright, clockwise."""
    across: Array
    """How far right of its place the pivot is, in widths of the picture."""
    state: Array
    """The number that the table of states holds."""


def _turning(angle: Array) -> Course:
    return Course(angle, np.zeros_like(angle), np.cos(angle))


def _clock(times_s: Array, rng: np.random.Generator) -> Course:
    """A hand that turns clockwise at one pace in all videos."""
    return _turning(2 * np.pi * (rng.uniform() + TURNS_PER_S * times_s))


def _walking(times_s: Array, rng: np.random.Generator) -> Course:
    """A hand that lies and walks to and fro, always to where it points."""
    way = (times_s * WALK_PER_S / WALK + rng.uniform(0, 2)) % 2
    forth = way < 1
    facing = np.where(forth, 1.0, -1.0)
    across = WALK * (np.where(forth, way, 2 - way) - 0.5)
    # it turns about its middle, not about its pivot
    return Course(facing * np.pi / 2, across - facing * HAND / 2, across)


def _process(times_s: Array, rng: np.random.Generator) -> Course:
    """A hand that sinks once in the video, at a pace of its own that changes."""
    pace = np.exp(rng.uniform(-1.0, 1.0, 6))
    knots = np.concatenate([[0.0], np.cumsum(pace) / pace.sum()])
    share = times_s / times_s[-1]
    sunk = np.interp(share, np.linspace(0, 1, len(knots)), knots)
    return _turning(np.pi * sunk * rng.choice([-1.0, 1.0]))


WORLDS: dict[str, Callable[[Array, np.random.Generator], Course]] = {
    "clock": _clock,
    "process": _process,
    "walking": _walking,
}
"""Name -> what happens, from times in seconds, float64 [T], and the video's generator."""


@dataclass(frozen=True, slots=True)
class _Look:
    """How one camera shows the hand; lengths are shares of the picture's side."""

    backdrop: NDArray[np.float32]
    pivot: Array
    length: float
    thickness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Look:
        coarse = rng.uniform(15, 130, (6, 6, 3)).astype(np.float32)
        backdrop = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        return cls(
            backdrop.clip(0, 140), rng.uniform(0.45, 0.55, 2),
            rng.uniform(HAND - 0.03, HAND + 0.03), rng.uniform(0.045, 0.06),
        )  # fmt: skip

    def picture(self, angle: float, across: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """uint8 [SIZE, SIZE, 3]: a shaft with a disc at its tip."""
        frame = self.backdrop.copy()
        unit = SIZE * 2**_SUBPIXEL
        pivot = self.pivot + np.array([across, 0.0])
        tip = pivot + self.length * np.array([np.sin(angle), -np.cos(angle)])
        ends = [tuple(int(v) for v in (point * unit).round()) for point in (pivot, tip)]
        white = (245.0, 245.0, 245.0)
        width = max(1, round(self.thickness * SIZE))
        cv2.line(frame, ends[0], ends[1], white, width, cv2.LINE_AA, _SUBPIXEL)
        radius = round(1.9 * self.thickness * unit)
        cv2.circle(frame, ends[1], radius, white, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL)
        frame += rng.normal(0, 2, frame.shape).astype(np.float32)
        return frame.clip(0, 255).astype(np.uint8)


def make_world(
    name: str,
    folder: Path,
    *,
    train: int = 24,
    test: int = 10,
    views: int = 1,
    scrambled: bool = False,
    seed: int = 0,
) -> None:
    """Write the world's videos, and the state in each of their frames, into a folder.

    train, test: events in either part, each seen by `views` cameras.
    Raises SettingError for a world that does not exist.
    """
    if name not in (*WORLDS, *PICTURE_WORLDS):
        known = ", ".join([*WORLDS, *PICTURE_WORLDS])
        raise SettingError(f"there is no world {name!r}; known are {known}")
    names: list[str] = []
    states: list[Array] = []
    times_s = np.arange(SECONDS * FPS) / FPS
    for event in range(train + test):
        part = folder / ("train" if event < train else "test")
        part.mkdir(parents=True, exist_ok=True)
        for view in range(views):
            rng = np.random.default_rng([seed, event, view])
            order = np.arange(len(times_s))
            if scrambled:
                order = rng.permutation(order)
            path = part / f"{name}{event:02d}_view{view}.mp4"
            if name in PICTURE_WORLDS:
                pictures, state = moving(name, times_s[order], SIZE, rng)
            else:
                course = WORLDS[name](times_s, np.random.default_rng([seed, event]))
                pictures, state = _pictures(course, order, rng), course.state[order]
            encode_frames(path, pictures, fps=FPS, size=SIZE)
            names.append(path.name)
            states.append(state)
    columns = {
        "video_id": np.repeat(names, len(times_s)),
        "time_s": np.tile(times_s, len(names)),
        "state": np.concatenate(states),
    }
    pq.write_table(pa.table(columns), folder / "states.parquet")


def _pictures(
    course: Course, order: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    look = _Look.draw(rng)
    for number in order:
        yield look.picture(float(course.angle[number]), float(course.across[number]), rng)
