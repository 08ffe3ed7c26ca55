"""How is a thing cut out of a picture, posed and drawn? Shapes, warps and their exact outlines.

A thing has its own coordinates u, v in -1..1. Its shape is a soft-edged function of them, its
colours are a patch of a real picture. Drawing asks, for every pixel of the frame near it, which
(u, v) is seen there: rotation, size, deformation and a turn about the vertical axis are all maps of
that question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
SHAPES = ("box", "oval", "blob", "figure")
EDGE_PX = 1.5
"""Width of a shape's soft edge."""


class Posed(Protocol):
    """See `moving_things.Pose`."""

    @property
    def scale(self) -> float: ...
    @property
    def angle(self) -> float: ...
    @property
    def turn(self) -> float: ...
    @property
    def phase(self) -> float: ...
    @property
    def smear(self) -> tuple[float, float]: ...


@dataclass(frozen=True, slots=True)
class Thing:
    """side: width and height in pixels at scale 1. patch: float32 [h, w, 3], its colours. lobes:
    amplitude, number and phase of a blob's bulges. bend: strength of the deformation."""

    side: Array
    patch: NDArray[np.float32]
    shape: str
    power: float
    lobes: tuple[tuple[float, int, float], ...]
    bend: float


@dataclass(slots=True)
class Layer:
    """Where a thing was drawn: opacity [h, w] at `corner` of the frame, and what still shows."""

    corner: tuple[int, int]
    opacity: NDArray[np.float32]
    shows: NDArray[np.float32]

    def hide(self, other: Layer) -> None:
        """`other` was drawn over this one."""
        (x, y), (h, w) = self.corner, self.opacity.shape
        (u, v), (k, m) = other.corner, other.opacity.shape
        x0, y0, x1, y1 = max(x, u), max(y, v), min(x + w, u + m), min(y + h, v + k)
        if x0 < x1 and y0 < y1:
            over = other.opacity[y0 - v : y1 - v, x0 - u : x1 - u]
            self.shows[y0 - y : y1 - y, x0 - x : x1 - x] *= 1.0 - over

    def share(self) -> float:
        """Which share of the thing still shows, 0-1."""
        return float(self.shows.sum() / max(float(self.opacity.sum()), 1e-6))


def make_thing(
    picture: NDArray[np.uint8],
    side: Array,
    rng: np.random.Generator,
    *,
    shape: str = "",
    deforms: bool = False,
) -> Thing:
    """A thing of `side` (width, height) pixels with the colours of a textured part of `picture`.

    shape: one of `SHAPES`; "" draws one. The patch is the more textured of three random ones: some
    things have much contrast, some have little.
    """
    height, width = picture.shape[:2]
    zoom = rng.uniform(1.0, 1.8)  # of the picture's pixels per pixel of the thing
    w, h = np.minimum(np.maximum(np.round(side * zoom), 8), [width, height]).astype(int)
    patches = []
    for _ in range(3):
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        patches.append(picture[y : y + h, x : x + w])
    best = max(patches, key=lambda patch: float(patch.std(axis=(0, 1)).mean()))
    size = np.maximum(np.round(side), 4).astype(int)
    patch = cv2.resize(best, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
    lobes = tuple(
        (float(rng.uniform(0.0, 0.16)), k, float(rng.uniform(0, 2 * np.pi))) for k in (2, 3, 5)
    )
    if not shape:
        tall = side[1] > 1.5 * side[0]
        shape = "figure" if tall and rng.random() < 0.6 else str(rng.choice(SHAPES[:3]))
    return Thing(
        np.asarray(side, dtype=np.float64),
        patch.astype(np.float32),
        shape,
        float(rng.uniform(2.0, 4.0)),
        lobes,
        float(rng.uniform(0.12, 0.3)) if deforms else 0.0,
    )


def draw(frame: NDArray[np.float32], thing: Thing, place: Array, pose: Posed) -> Layer:
    """Draws the thing with its centre at `place` over `frame` (float32 [H, W, 3]), in place."""
    height, width = frame.shape[:2]
    reach = _reach(thing, pose) + abs(pose.smear[0]) / 2 + abs(pose.smear[1]) / 2
    low = np.maximum(np.floor(place - reach), 0).astype(int)
    high = np.minimum(np.ceil(place + reach) + 1, [width, height]).astype(int)
    corner = (int(low[0]), int(low[1]))
    if (high <= low).any():
        nothing = np.zeros((0, 0), np.float32)
        return Layer(corner, nothing, nothing)
    x = np.arange(low[0], high[0]) + 0.5 - place[0]
    y = np.arange(low[1], high[1]) + 0.5 - place[1]
    u, v = _own(x[None, :], y[:, None], thing, pose)
    opacity = _opacity(u, v, thing, pose)
    rows, columns = thing.patch.shape[:2]
    across = np.arcsin(np.clip(u, -1, 1)) * (2 / np.pi) + pose.turn if pose.turn else u
    colour = cv2.remap(
        thing.patch,
        ((across + 1) / 2 * columns - 0.5).astype(np.float32),
        ((v + 1) / 2 * rows - 0.5).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    length = float(np.hypot(*pose.smear))
    if length > 1.5:
        kernel = _line(pose.smear)
        blurred = cv2.filter2D(opacity, -1, kernel, borderType=cv2.BORDER_CONSTANT)
        colour = cv2.filter2D(colour * opacity[..., None], -1, kernel)
        colour /= np.maximum(blurred, 1e-3)[..., None]
        opacity = blurred
    piece = frame[low[1] : high[1], low[0] : high[0]]
    piece += opacity[..., None] * (colour - piece)
    shown = np.asarray(opacity, np.float32)
    return Layer(corner, shown, shown.copy())


def outline(thing: Thing, place: Array, pose: Posed) -> NDArray[np.float32]:
    """The box around the thing (where it is more than half opaque), xywh, to a tenth of a pixel."""
    reach = np.ceil(_reach(thing, pose)) + 1
    x = np.arange(-reach[0], reach[0] + 1)
    y = np.arange(-reach[1], reach[1] + 1)
    u, v = _own(x[None, :], y[:, None], thing, pose)
    opacity = _opacity(u, v, thing, pose)
    left, right = _edges(x, opacity.max(axis=0))
    top, bottom = _edges(y, opacity.max(axis=1))
    return np.array([place[0] + left, place[1] + top, right - left, bottom - top], dtype=np.float32)


def _edges(at: Array, opacity: Array) -> tuple[float, float]:
    """Where a profile rises above and falls below one half, between its samples."""
    over = np.flatnonzero(opacity > 0.5)
    first, last = int(over[0]), int(over[-1])

    def between(a: int, b: int) -> float:
        if not 0 <= a < len(at) or not 0 <= b < len(at):
            return float(at[min(max(b, 0), len(at) - 1)])
        share = (0.5 - opacity[a]) / max(float(opacity[b] - opacity[a]), 1e-6)
        return float(at[a] + share * (at[b] - at[a]))

    return between(first - 1, first), between(last + 1, last)


def _reach(thing: Thing, pose: Posed) -> Array:
    half = thing.side / 2 * pose.scale * (1.0 + thing.bend)
    c, s = abs(np.cos(pose.angle)), abs(np.sin(pose.angle))
    return np.array([c * half[0] + s * half[1], s * half[0] + c * half[1]]) + 2.0


def _own(x: Array, y: Array, thing: Thing, pose: Posed) -> tuple[Array, Array]:
    """The thing's own coordinates seen at offsets x, y (pixels) from its centre."""
    c, s = np.cos(pose.angle), np.sin(pose.angle)
    half = thing.side / 2 * pose.scale
    u, v = (c * x + s * y) / half[0], (-s * x + c * y) / half[1]
    if thing.bend:
        lean = thing.bend * np.sin(2.2 * v + pose.phase)
        u, v = u + lean, v + 0.6 * thing.bend * np.sin(2.6 * u + 1.3 * pose.phase)
    return u, v


def _opacity(u: Array, v: Array, thing: Thing, pose: Posed) -> NDArray[np.float32]:
    edge = float((thing.side / 2 * pose.scale).min()) / EDGE_PX
    if thing.shape == "figure":
        inside = _figure(u, v, np.sin(pose.phase))
    elif thing.shape == "box":
        inside = 1.0 - np.maximum(np.abs(u), np.abs(v))
    elif thing.shape == "oval":
        p = thing.power
        inside = 1.0 - (np.abs(u) ** p + np.abs(v) ** p) ** (1 / p)
    else:
        around = np.arctan2(v, u)
        most = 1.0 + sum(a for a, _, _ in thing.lobes)
        radius = (1.0 + sum(a * np.cos(k * around + shift) for a, k, shift in thing.lobes)) / most
        inside = radius - np.hypot(u, v)
    return np.clip(inside * edge + 0.5, 0.0, 1.0).astype(np.float32)


def _figure(u: Array, v: Array, stride: float) -> Array:
    """A standing figure: head, trunk and two legs that swing; how far inside, in units of 1."""
    head = 1.0 - np.hypot(u / 0.42, (v + 0.74) / 0.26)
    trunk = 1.0 - (np.abs(u / 0.62) ** 3 + np.abs((v + 0.12) / 0.42) ** 3) ** (1 / 3)
    parts = [head * 0.3, trunk * 0.5]
    for way in (-1.0, 1.0):
        down = np.clip((v - 0.1) / 0.9, 0.0, 1.0)
        middle = way * (0.2 + 0.5 * stride * down * 0.9)
        leg = np.minimum(1.0 - np.abs(u - middle) / 0.26, (1.0 - np.abs(v - 0.55) / 0.45) * 1.7)
        parts.append(leg * 0.26)
    return np.maximum.reduce(parts)


def _line(smear: tuple[float, float]) -> NDArray[np.float32]:
    """A blur kernel: the straight way of a point during the exposure."""
    length = float(np.hypot(*smear))
    half = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 4 * half + 1):
        x, y = half + share * smear[0], half + share * smear[1]
        kernel[round(y), round(x)] += 1.0
    return kernel / kernel.sum()
