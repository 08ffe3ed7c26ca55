"""Clips with a known answer for trackers: a real textured thing moves over a real video.

The pixels are real (a patch of one video is cut out in some shape and moves over another video);
the pose is drawn, so the box of every frame is known. What makes a clip hard is named as the OTB
and LaSOT benchmarks name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.pipeline.synthetic.thing import Layer, Thing, draw, make_thing, outline

ATTRIBUTES = {
    "SV": "scale variation",
    "IPR": "in-plane rotation",
    "OPR": "out-of-plane rotation",
    "POC": "partial occlusion",
    "FOC": "full occlusion",
    "DEF": "deformation",
    "FM": "fast motion",
    "MB": "motion blur",
    "IV": "illumination variation",
    "BC": "background clutter: copies of the thing, or a background like it",
    "OV": "out of view",
    "LR": "low resolution",
    "CM": "camera motion",
}
SIZE = (400, 300)
"""Width and height of the frames."""
MIN_CONTRAST = 20.0
"""Least median difference, in levels of 255, of a thing from what it covers, before the light."""
MIN_SIDE = 6.0
"""Least width and height of a thing in pixels, at its smallest."""

Array = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class MovingThing:
    """frames: uint8 [T, H, W, 3] RGB. boxes: float32 [T, 4] xywh, 0-based, of the whole thing also
    where something hides it; NaN while it is out of view. visible: float32 [T], the share of the
    thing that is seen. attributes: keys of `ATTRIBUTES`."""

    frames: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    visible: NDArray[np.float32]
    attributes: tuple[str, ...]


def draw_attributes(number: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Sequence `number`'s attributes: the first ones in turn, up to two more by chance."""
    names = list(ATTRIBUTES)
    first = names[number % len(names)]
    rest = [name for name in names if name not in (first, "LR")]
    more = rng.choice(rest, int(rng.integers(0, 3)), replace=False)
    return (first, *sorted(str(name) for name in more))


def render_moving_thing(
    attributes: Sequence[str],
    ground: NDArray[np.uint8],
    texture: NDArray[np.uint8],
    cover: NDArray[np.uint8],
    rng: np.random.Generator,
) -> MovingThing:
    """One clip.

    ground: uint8 [T, h, w, 3], consecutive frames that become the background. texture, cover: uint8
    [h, w, 3], pictures that the thing, and what hides it, are cut from.
    """
    motion = _draw_motion(set(attributes), len(ground), rng)
    thing = make_thing(texture, motion.side, rng, deforms="DEF" in attributes)
    thing = _seen(thing, ground, motion)
    hider = _hider(cover, motion, rng)
    light = _Light(len(ground), rng, strong="IV" in attributes)
    noise = rng.normal(0.0, rng.uniform(1.0, 4.0), (SIZE[1] + 64, SIZE[0] + 64, 3))
    noise = noise.astype(np.float32)
    frames = np.empty((len(ground), SIZE[1], SIZE[0], 3), np.uint8)
    boxes = np.empty((len(ground), 4), np.float32)
    visible = np.empty(len(ground), np.float32)
    for t, picture in enumerate(ground):
        frame = _background(picture, motion.camera[t])
        for twin in motion.twins:
            if twin.behind:
                draw(frame, thing, twin.place[t], motion.pose(t, twin))
        seen = draw(frame, thing, motion.place[t], motion.pose(t))
        for twin in motion.twins:
            if not twin.behind:
                seen.hide(draw(frame, thing, twin.place[t], motion.pose(t, twin)))
        if hider is not None:
            seen.hide(hider.draw(frame, motion, t))
        boxes[t] = outline(thing, motion.place[t], motion.pose(t))
        inside = _inside(boxes[t])
        visible[t] = seen.share() * inside
        if inside < 0.2:
            boxes[t] = np.nan
        frame = light(frame, t)
        if motion.defocus[t] > 0.3:
            frame = cv2.GaussianBlur(frame, (0, 0), float(motion.defocus[t]))
        x, y = rng.integers(0, 64, 2)
        frame += noise[y : y + SIZE[1], x : x + SIZE[0]]
        frames[t] = np.clip(frame, 0.0, 255.0)
    return MovingThing(frames, boxes, visible, tuple(attributes))


@dataclass(frozen=True, slots=True)
class Pose:
    """Size factor, angle in the image (radians), turn about the vertical axis (radians), phase of
    the deformation, and motion of the picture during the exposure (pixels)."""

    scale: float = 1.0
    angle: float = 0.0
    turn: float = 0.0
    phase: float = 0.0
    smear: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Twin:
    place: Array  # [T, 2]
    behind: bool
    phase: float


@dataclass(frozen=True, slots=True)
class _Motion:
    side: Array  # width and height of the thing at scale 1
    place: Array  # [T, 2], its centre
    camera: Array  # [T, 2], of the frame on the enlarged background
    scale: Array
    angle: Array
    turn: Array
    phase: Array
    smear: Array  # [T, 2]
    defocus: Array
    hidden: tuple[int, int, float]  # first frame, frames, share of the thing that is covered
    twins: tuple[_Twin, ...]

    def pose(self, t: int, twin: _Twin | None = None) -> Pose:
        phase = float(self.phase[t]) + (twin.phase if twin else 0.0)
        smear = float(self.smear[t, 0]), float(self.smear[t, 1])
        return Pose(float(self.scale[t]), float(self.angle[t]), float(self.turn[t]), phase, smear)


def _draw_motion(has: set[str], count: int, rng: np.random.Generator) -> _Motion:
    t = np.arange(count)
    extent = rng.uniform(15, 22) if "LR" in has else rng.uniform(30, 76)
    aspect = float(np.exp(np.clip(rng.normal(-0.15, 0.4), -0.9, 0.6)))  # standing things are tall
    side = extent * np.array([np.sqrt(aspect), 1 / np.sqrt(aspect)])
    swing = rng.uniform(0.4, 0.75) if "SV" in has else rng.uniform(0.0, 0.08)
    scale = np.exp(swing * _wave(t, rng))
    side = side * max(MIN_SIDE / float(side.min() * scale.min()), 1.0)
    if "IPR" in has:
        angle = rng.uniform(0.4, 1.6) * _wave(t, rng)
        if rng.random() < 0.4:
            angle = angle + rng.uniform(0.02, 0.06) * rng.choice([-1, 1]) * t
    else:
        angle = rng.uniform(0.0, 0.08) * _wave(t, rng)
    turn = rng.uniform(0.6, 1.6) * _wave(t, rng) if "OPR" in has else np.zeros(count)
    speed = extent * rng.uniform(0.01, 0.07)
    if "FM" in has:
        speed = extent * rng.uniform(0.2, 0.4)
    elif "MB" in has:
        speed = extent * rng.uniform(0.1, 0.2)
    half = side / 2 * float(scale.max()) * (1.2 if "IPR" in has else 1.0) + 3
    half = np.minimum(half, np.array(SIZE) / 2 - 4)
    frame = np.array(SIZE, dtype=np.float64)
    camera = _walk(count, rng.uniform(0.0, 1.2) * (rng.random() < 0.7), rng)
    camera += _walk(count, rng.uniform(1.5, 5.0), rng) if "CM" in has else 0.0
    jitter = np.zeros((count, 2))
    if "CM" in has and rng.random() < 0.5:
        jitter = rng.normal(0, rng.uniform(0.03, 0.09) * extent, (count, 2))
    place = rng.uniform(half, frame - half) + _walk(count, speed, rng)
    place = _bounce(place, half, frame - half)
    if "CM" in has:
        # the thing is filmed by a hand: it shakes with the picture
        place = np.clip(place - jitter, half, frame - half)
    if "OV" in has:
        place = _leave(place, side * float(scale.max()), t, rng)
    smear = np.zeros((count, 2))
    if "MB" in has:
        smear[1:] = np.diff(place, axis=0) * rng.uniform(0.5, 0.9)
    defocus = np.full(count, 0.55)
    if "MB" in has and rng.random() < 0.5:
        defocus = defocus + rng.uniform(0.8, 1.8) * np.maximum(_wave(t, rng), 0.0)
    begin = int(rng.integers(count // 5, max(count // 2, count // 5 + 1)))
    hidden = (begin, 0, 0.0)
    if "FOC" in has:
        hidden = (begin, int(rng.integers(8, 22)), 1.0)
    elif "POC" in has:
        hidden = (begin, int(rng.integers(12, 36)), float(rng.uniform(0.4, 0.65)))
    twins: list[_Twin] = []
    if "BC" in has:
        for _ in range(int(rng.integers(1, 4))):
            orbit = rng.uniform(1.0, 1.9) * (1 + 0.3 * _wave(t, rng))
            turn_by = rng.uniform(0, 2 * pi) + rng.uniform(-0.05, 0.05) * t
            offset = orbit[:, None] * np.stack([np.cos(turn_by), np.sin(turn_by)], 1)
            twin = place + offset * side
            twins.append(_Twin(twin, bool(rng.random() < 0.6), float(rng.uniform(0, 2 * pi))))
    phase = rng.uniform(0, 2 * pi) + rng.uniform(0.1, 0.35) * t
    return _Motion(side, place, camera + jitter, scale, angle, turn, phase, smear, defocus, hidden,
                   tuple(twins))  # fmt: skip


def _wave(t: Array | NDArray[np.int_], rng: np.random.Generator) -> Array:
    """-1..1, smooth, 0 at the start."""
    return np.asarray(np.sin(t * rng.uniform(0.03, 0.09)) * rng.choice([-1, 1]))


def _walk(count: int, speed: float, rng: np.random.Generator) -> Array:
    """[T, 2]: a smooth random walk of about `speed` pixels per frame, from 0."""
    step = cv2.GaussianBlur(rng.normal(0.0, 1.0, (count, 2)), (1, 31), 0, sigmaY=5.0)
    step = step / max(float(np.linalg.norm(step, axis=1).mean()), 1e-6) * speed
    return np.cumsum(step, axis=0) - step[0]


def _bounce(place: Array, low: Array, high: Array) -> Array:
    """Reflects a path at the borders."""
    span = np.maximum(high - low, 1.0)
    there = np.mod(place - low, 2.0 * span)
    return low + np.where(there > span, 2.0 * span - there, there)


def _leave(place: Array, side: Array, t: NDArray[np.int_], rng: np.random.Generator) -> Array:
    """The path with an excursion across the nearest border and back."""
    middle = rng.uniform(0.4, 0.65) * len(t)
    width = rng.uniform(5.0, 9.0)
    share = np.exp(-(((t - middle) / width) ** 4))[:, None]
    here = place[int(middle)]
    gaps = np.array([here[0], SIZE[0] - here[0], here[1], SIZE[1] - here[1]])
    way = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], dtype=np.float64)[int(gaps.argmin())]
    return place + share * way * (gaps.min() + rng.uniform(0.3, 0.8) * side.max())


def _seen(thing: Thing, ground: NDArray[np.uint8], motion: _Motion) -> Thing:
    """The thing, made lighter or darker as a whole where nobody could see it on its background.

    It is what it was where its contrast is at least `MIN_CONTRAST` in every tenth frame.
    """
    at = [t for t in range(0, len(ground), 10) if _in_frame(motion.place[t])]
    shift, way = 0.0, 0.0
    while shift <= 255.0:
        patch = np.clip(thing.patch + way * shift, 0.0, 255.0)
        made = replace(thing, patch=patch)
        found = [_contrast(made, ground[t], motion, t) for t in at]
        least, below = min(found, default=(MIN_CONTRAST, 0.0))
        if least >= MIN_CONTRAST:
            return made
        # away from the background, to where there is more room
        way = way or (1.0 if below < 128.0 else -1.0)
        shift += 8.0
    return replace(thing, patch=np.full_like(thing.patch, 255.0 if way > 0 else 0.0))


def _contrast(
    thing: Thing, picture: NDArray[np.uint8], motion: _Motion, t: int
) -> tuple[float, float]:
    """Median difference of the thing from what it covers, and the mean of that, in levels."""
    frame = _background(picture, motion.camera[t])
    bare = frame.copy()
    layer = draw(frame, thing, motion.place[t], motion.pose(t))
    (x, y), (h, w) = layer.corner, layer.opacity.shape
    covered = bare[y : y + h, x : x + w]
    inside = layer.opacity > 0.5
    if not inside.any():
        return 255.0, 0.0
    change = np.abs(frame[y : y + h, x : x + w] - covered).mean(axis=2)[inside]
    return float(np.median(change)), float(covered[inside].mean())


def _in_frame(place: Array) -> bool:
    return bool((place > 0).all() and (place < SIZE).all())


def _background(picture: NDArray[np.uint8], camera: Array) -> NDArray[np.float32]:
    """The frame that a camera at `camera` sees of a picture enlarged to leave room for it."""
    height, width = picture.shape[:2]
    factor = 1.25 * max(SIZE[0] / width, SIZE[1] / height)
    room = (np.array([width, height]) * factor - np.array(SIZE)) / 2
    corner = _bounce(room + camera, np.zeros(2), 2 * room)
    matrix = np.array([[1 / factor, 0, corner[0] / factor], [0, 1 / factor, corner[1] / factor]])
    # a picture much larger than the frame would alias
    smooth = cv2.blur(picture, (round(1 / factor),) * 2) if factor < 0.6 else picture
    view = cv2.warpAffine(
        smooth, matrix, SIZE, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return view.astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Hider:
    """Something that passes in front of the thing."""

    thing: Thing
    way: Array  # unit vector of its motion
    begin: int
    frames: int

    def draw(self, frame: NDArray[np.float32], motion: _Motion, t: int) -> Layer:
        share = (t - self.begin) / max(self.frames - 1, 1)
        # slow in the middle, so that the thing stays covered for most of the frames
        along = np.sign(share - 0.5) * abs(2 * share - 1) ** 2
        reach = (self.thing.side + motion.side * motion.scale[t]) / 2 * 1.2
        place = motion.place[t] + self.way * along * np.abs(self.way @ reach)
        return draw(frame, self.thing, place, Pose())


def _hider(cover: NDArray[np.uint8], motion: _Motion, rng: np.random.Generator) -> _Hider | None:
    begin, frames, share = motion.hidden
    if not share:
        return None
    side = motion.side * float(motion.scale[begin : begin + frames].max())
    side = side * (1.35 if share == 1.0 else np.array([share, 1.5]))
    angle = rng.choice([0.0, pi]) + rng.normal(0, 0.3)
    thing = make_thing(cover, side, rng, shape="box")
    return _Hider(thing, np.array([np.cos(angle), np.sin(angle)]), begin, frames)


class _Light:
    """Brightness, colour cast and a shadow's edge, changing with time."""

    def __init__(self, count: int, rng: np.random.Generator, *, strong: bool) -> None:
        t = np.arange(count)
        swing = rng.uniform(0.3, 0.6) if strong else rng.uniform(0.0, 0.08)
        gain = np.exp(swing * _wave(t, rng))
        cast = (0.15 if strong else 0.02) * np.stack([_wave(t, rng) for _ in range(3)], 1)
        self._gain = (gain[:, None] * np.exp(cast)).astype(np.float32)
        self._shadow = None
        if strong and rng.random() < 0.6:
            edge = rng.uniform(0.2, 0.8) * SIZE[0] + 0.4 * SIZE[0] * _wave(t, rng)
            self._shadow = edge, float(rng.uniform(0.35, 0.65))

    def __call__(self, frame: NDArray[np.float32], t: int) -> NDArray[np.float32]:
        frame = frame * self._gain[t]
        if self._shadow is not None:
            edge, depth = self._shadow
            ramp = np.clip((np.arange(SIZE[0]) - edge[t]) / 8.0, 0.0, 1.0)
            frame *= (1.0 - (1.0 - depth) * ramp).astype(np.float32)[None, :, None]
        return frame


def _inside(box: NDArray[np.float32]) -> float:
    """Share of the box inside the frame."""
    low, high = np.maximum(box[:2], 0), np.minimum(box[:2] + box[2:], SIZE)
    return float(np.maximum(high - low, 0).prod() / max(float(box[2] * box[3]), 1e-6))
