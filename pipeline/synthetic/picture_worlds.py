"""Worlds of pictures: small corpora in which tasks on single pictures have one right answer.

`board`: four marks, each of a shape and a colour of its own, always in the same four places: a
disc, a plus, a ring and two bars. Where the board lies, how large it is, and how bright board and
background are, is the picture's own. So what is upright, which piece belongs where, and which
colour a shape has, all follow from what is seen.

`stripes`: bands of two colours by turns that go from side to side, so that a hidden part is what
the rest of its rows shows. In videos they scroll, up or down, each video at a pace of its own.

`textures`: two gratings, each of a direction and a period of its own, between the same two colours
in all pictures. Which picture a crop is of is told by the directions, and by no colour.

`wander`: a disc with a texture of its own that goes about before a textured ground, so that each
patch of a frame has one that shows the same in the next. A world of videos alone.

Pictures are written as

    folder/train/board0007.png    folder/test/textures2050.png
    folder/states.parquet         video_id, time_s (0), state: how far right the board lies, in
                                  widths of the picture; how bright the upper half of the stripes
                                  is, how steep the stronger grating is, of 0 to 1, or how far
                                  right the disc is

and `moving` gives the frames of a video of such a world.
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

SIDE = 32
"""Side of a still picture, in pixels."""
COLORS = np.array([[225, 60, 60], [60, 200, 80], [70, 100, 235], [220, 200, 50]], np.float32)
"""RGB of disc, plus, ring and bars, at full brightness."""
MARK = 0.155
"""Half the side of a mark, in sides of the board."""
PLACES = np.array([[0.27, 0.27], [0.73, 0.27], [0.27, 0.73], [0.73, 0.73]])
"""Middles of the marks, x and y, in sides of the board."""
PERIODS = (0.13, 0.24)
"""Least and greatest period of a grating, in widths of the picture."""
SECOND = 0.7
"""Amplitude of the second grating over that of the first."""
DISC = 0.17
"""Radius of what wanders, in widths of the picture."""
DARK, BRIGHT = np.array([45.0, 55.0, 120.0]), np.array([230.0, 200.0, 105.0])
"""RGB of a texture's darkest and brightest parts."""
BANDS = (6, 10)
"""Least and greatest number of bands in the height of a picture."""
SCROLL_PER_S = 0.25
"""Greatest pace of the bands, in heights of the picture."""
SWAYS_PER_S = np.array([0.3, 0.2])
"""How often the board of a video goes to and fro, across and along."""
_FINE = 4
"""Pixels are drawn so many times finer along each side, and averaged."""

Array = NDArray[np.floating]


def board(side: int, shift: tuple[float, float], scale: float) -> NDArray[np.float32]:
    """The marks alone, black around them: float32 [side, side, 3], RGB in [0, 255].

    shift: how far right and down the board lies; scale: its side; both in sides of the picture.
    """
    fine = side * _FINE
    line = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    x, y = ((line - 0.5 - offset) / scale + 0.5 for offset in shift)
    picture = np.zeros((fine, fine, 3), np.float32)
    for shape, (middle_x, middle_y), color in zip(_SHAPES, PLACES, COLORS, strict=True):
        inside = shape((x[None, :] - middle_x) / MARK, (y[:, None] - middle_y) / MARK)
        picture[inside] = color
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)


def _disc(x: Array, y: Array) -> NDArray[np.bool_]:
    return x**2 + y**2 < 1


def _plus(x: Array, y: Array) -> NDArray[np.bool_]:
    x, y = np.abs(x), np.abs(y)
    return (np.maximum(x, y) < 1) & (np.minimum(x, y) < 0.36)


def _ring(x: Array, y: Array) -> NDArray[np.bool_]:
    away = x**2 + y**2
    return (away < 1.1) & (away > 0.36)


def _bars(x: Array, y: Array) -> NDArray[np.bool_]:
    return (np.abs(x) < 1) & (np.abs(np.abs(y) - 0.65) < 0.35)


_SHAPES = (_disc, _plus, _ring, _bars)


@dataclass(frozen=True, slots=True)
class _Board:
    """How a picture or video shows the board."""

    scale: float
    gain: float
    ground: float
    shift: Array

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Board:
        scale = rng.uniform(0.8, 1.0)
        return cls(scale, rng.uniform(0.55, 1.0), rng.uniform(10, 60), rng.uniform(-0.1, 0.1, 2))

    def picture(self, side: int, time_s: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        shift = self.at(time_s)
        marks = board(side, (float(shift[0]), float(shift[1])), self.scale)
        return _noisy(self.ground + self.gain * marks, rng)

    def at(self, time_s: float) -> Array:
        return self.shift * np.cos(2 * np.pi * SWAYS_PER_S * time_s)

    def state(self, time_s: float) -> float:
        return float(self.at(time_s)[0])


@dataclass(frozen=True, slots=True)
class _Stripes:
    """Bands of one height, two colours by turns; of a video, scrolling."""

    height: float
    colors: Array
    first: float
    pace: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Stripes:
        colors = rng.uniform(15, 240, (2, 3))
        pace = rng.uniform(-SCROLL_PER_S, SCROLL_PER_S)
        return cls(1 / rng.uniform(*BANDS), colors, rng.uniform(0, 1), pace)

    def rows(self, side: int, time_s: float) -> Array:
        """RGB of every row, float64 [side, 3]."""
        line = (np.arange(side * _FINE) + 0.5) / (side * _FINE) + self.first + self.pace * time_s
        bands = np.floor(line / self.height).astype(int) % 2
        return self.colors[bands].reshape(side, _FINE, 3).mean(axis=1)

    def picture(self, side: int, time_s: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        return _noisy(np.repeat(self.rows(side, time_s)[:, None], side, axis=1), rng)

    def state(self, time_s: float) -> float:
        return float(self.rows(SIDE, time_s)[: SIDE // 2].mean()) / 255


@dataclass(frozen=True, slots=True)
class _Texture:
    """Two gratings; of a video, drifting across their stripes."""

    angles: Array
    periods: Array
    phases: Array
    drift: Array

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Texture:
        first = rng.uniform(-np.pi / 2, np.pi / 2)
        second = first + rng.choice([-1, 1]) * rng.uniform(np.pi / 5, np.pi / 2)
        return cls(
            np.array([first, second]), rng.uniform(*PERIODS, 2), rng.uniform(0, 2 * np.pi, 2),
            rng.uniform(-1.0, 1.0, 2),
        )  # fmt: skip

    def picture(self, side: int, time_s: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        line = (np.arange(side) + 0.5) / side
        value = np.zeros((side, side))
        for number, strength in enumerate((1.0, SECOND)):
            angle, period = self.angles[number], self.periods[number]
            across = (line[None, :] * np.cos(angle) + line[:, None] * np.sin(angle)) / period
            phase = self.phases[number] + 2 * np.pi * self.drift[number] * time_s
            value += strength * np.sin(2 * np.pi * across + phase)
        share = (0.5 + 0.65 * value / (1 + SECOND))[..., None].clip(0, 1)
        return _noisy(DARK + (BRIGHT - DARK) * share, rng)

    def state(self, time_s: float) -> float:
        return float(np.abs(np.sin(self.angles[0])))


@dataclass(frozen=True, slots=True)
class Wander:
    """A textured disc on its way, with a rate and a phase across and down."""

    ground: NDArray[np.float32]
    disc: NDArray[np.float32]
    rates: Array
    phases: Array

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Wander:
        """A disc and a ground at random."""
        ground, disc = (rng.uniform(20, 235, (k, k, 3)).astype(np.float32) for k in (10, 5))
        return cls(ground, disc, rng.uniform(0.1, 0.25, 2), rng.uniform(0, 2 * np.pi, 2))

    def at(self, time_s: float) -> Array:
        """Where the disc's middle is, x and y in widths of the picture."""
        return 0.5 + (0.5 - DISC) * np.sin(2 * np.pi * self.rates * time_s + self.phases)

    def picture(self, side: int, time_s: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """uint8 [side, side, 3]."""
        frame = cv2.resize(self.ground, (side, side), interpolation=cv2.INTER_CUBIC)
        x, y = self.at(time_s) * side
        wide = 2 * DISC * side
        line = np.arange(side, dtype=np.float32) + 0.5
        across, down = (
            axis.astype(np.float32)
            for axis in np.meshgrid((line - x) / wide + 0.5, (line - y) / wide + 0.5)
        )
        cells = len(self.disc)
        painted = cv2.remap(
            self.disc, across * cells - 0.5, down * cells - 0.5, cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        inside = (across - 0.5) ** 2 + (down - 0.5) ** 2 < 0.25
        return _noisy(np.where(inside[..., None], painted, frame), rng)

    def state(self, time_s: float) -> float:
        """How far right the disc is."""
        return float(self.at(time_s)[0])

    def box(self, side: int, time_s: float) -> Array:
        """x, y, width, height in pixels, float64 [4]."""
        x, y = self.at(time_s) - DISC
        return np.array([x, y, 2 * DISC, 2 * DISC]) * side


def _noisy(picture: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    return (picture + rng.normal(0, 2, picture.shape)).clip(0, 255).round().astype(np.uint8)


Shown = _Board | _Stripes | _Texture | Wander
PICTURE_WORLDS: dict[str, Callable[[np.random.Generator], Shown]] = {
    "board": _Board.draw,
    "stripes": _Stripes.draw,
    "textures": _Texture.draw,
    "wander": Wander.draw,
}
"""Name -> what a picture, or a video, shows."""


def moving(
    name: str, times_s: Array, side: int, rng: np.random.Generator
) -> tuple[Iterator[NDArray[np.uint8]], Array]:
    """A video of a world of pictures: its frames at these times, uint8 [side, side, 3] each, and
    the state at each, float64 [T]."""
    shown = PICTURE_WORLDS[name](rng)
    frames = (shown.picture(side, float(time_s), rng) for time_s in times_s)
    return frames, np.array([shown.state(float(time_s)) for time_s in times_s])


def write_sequence(folder: Path, shown: Wander, times_s: Array, side: int, seed: int) -> None:
    """A sequence of OTB's layout with the disc's true box in every frame, for `marey eval
    propagation`."""
    images = folder / "img"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number, time_s in enumerate(times_s, 1):
        frame = shown.picture(side, float(time_s), rng)
        cv2.imwrite(str(images / f"{number:04d}.jpg"), frame[..., ::-1])
        x, y, wide, high = shown.box(side, float(time_s))
        rows.append(f"{x + 1:.2f},{y + 1:.2f},{wide:.2f},{high:.2f}")
    (folder / "groundtruth_rect.txt").write_text("\n".join(rows) + "\n")


def scrambled_blocks(
    picture: NDArray[np.uint8], rng: np.random.Generator, block: int = 8
) -> NDArray[np.uint8]:
    """The picture's blocks in random places, each by a random quarter turn: uint8 [S, S, 3]."""
    side = len(picture) // block
    cut = picture.reshape(side, block, side, block, 3).swapaxes(1, 2).reshape(-1, block, block, 3)
    mixed = [np.rot90(cut[k], int(rng.integers(4))) for k in rng.permutation(len(cut))]
    laid = np.stack(mixed).reshape(side, side, block, block, 3).swapaxes(1, 2)
    return np.ascontiguousarray(laid.reshape(picture.shape))


def make_pictures(
    name: str,
    folder: Path,
    *,
    train: int = 2048,
    test: int = 768,
    scrambled: bool = False,
    seed: int = 0,
) -> None:
    """Write the pictures of a world, and the state of each, into a folder.

    train, test: pictures in either part. scrambled: the control, in which nothing is upright or in
    its place. Raises SettingError for a world that does not exist.
    """
    if name not in PICTURE_WORLDS:
        raise SettingError(
            f"there is no world of pictures {name!r}; known are {', '.join(PICTURE_WORLDS)}"
        )
    names: list[str] = []
    states: list[float] = []
    for number in range(train + test):
        part = folder / ("train" if number < train else "test")
        part.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, number])
        shown = PICTURE_WORLDS[name](rng)
        path = part / f"{name}{number:04d}.png"
        picture = shown.picture(SIDE, 0.0, rng)
        if scrambled:
            picture = scrambled_blocks(picture, rng)
        cv2.imwrite(str(path), picture[..., ::-1])
        names.append(path.name)
        states.append(shown.state(0.0))
    columns = {"video_id": names, "time_s": np.zeros(len(names)), "state": states}
    pq.write_table(pa.table(columns), folder / "states.parquet")
