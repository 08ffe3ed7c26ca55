"""Made-up rooms whose depth is known: a ray caster for boxes in a box, with a moving camera.

The camera looks along z, x points right and y down; the room is an axis-aligned box seen from
inside, on whose floor boxes stand. Everything is textured by waves in space, so that a texture
stays where it is on its surface when the camera moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.videos import encode_video

FIELD_OF_VIEW_DEG = 70.0
BASELINE_M = 0.25
VIEWS = r"(?P<event>scene\d+)_(?P<view>left|right)"
FLOOR_M = 1.2
"""The floor lies this far below the camera."""
_WAVES = 8
_OVERSAMPLING = 2

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scene:
    """Object 0 is the room, the others stand in it."""

    low: Array
    """[N, 3], corner of each box, metres."""
    high: Array
    """[N, 3]"""
    color: Array
    """[N, 3] in [0, 1]"""
    waves: Array
    """[N, K, 3], waves a metre along each axis."""
    phase: Array
    """[N, K]"""
    tint: Array
    """[N, K, 3], amplitude of each wave in each colour."""
    path: Array
    """[3], how far the camera goes over a clip, metres."""


def make_scene(seed: int, *, boxes: int = 6) -> Scene:
    """A random room, and which way the camera goes in it."""
    rng = np.random.default_rng(seed)
    half, far = rng.uniform(3.5, 6.0), rng.uniform(9.0, 14.0)
    low = [np.array([-half, -2.5, -3.0])]
    high = [np.array([half, FLOOR_M, far])]
    for place in rng.permutation(boxes):
        size = rng.uniform([0.7, 0.6, 0.5], [1.8, 2.2, 1.5])
        # one in each stretch of depth, so that near and far are both there
        z = 3.2 + (far - 4.5) * (place + rng.uniform(0, 1)) / boxes
        reach = min(half - 1.0, 0.6 * z + 0.5)
        x = rng.uniform(-reach, reach)
        low.append(np.array([x - size[0] / 2, FLOOR_M - size[1], z]))
        high.append(np.array([x + size[0] / 2, FLOOR_M, z + size[2]]))
    count = boxes + 1
    direction = rng.normal(size=(count, _WAVES, 3))
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    frequency = np.exp(rng.uniform(np.log(0.4), np.log(3.5), (count, _WAVES, 1)))
    sideways = rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.2)
    return Scene(
        low=np.array(low),
        high=np.array(high),
        color=rng.uniform(0.25, 0.75, (count, 3)),
        waves=direction * frequency,
        phase=rng.uniform(0, 2 * np.pi, (count, _WAVES)),
        tint=rng.uniform(0.05, 0.12, (count, _WAVES, 1)) + rng.normal(0, 0.02, (count, _WAVES, 3)),
        path=np.array([sideways, rng.uniform(-0.15, 0.15), rng.uniform(-0.3, 1.2)]),
    )


def render(
    scene: Scene, eye: Array, size: int, *, yaw: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What a camera at `eye`, turned right by `yaw` radians, sees.

    Returns a picture, uint8 [size, size, 3], and the depth (distance along the viewing direction,
    metres) at every pixel's centre, float32 [size, size].
    """
    rgb = _shade(scene, eye, yaw, size * _OVERSAMPLING)[0]
    rgb = rgb.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING, 3).mean(axis=(1, 3))
    return (rgb * 255).round().astype(np.uint8), _shade(scene, eye, yaw, size)[1]


def _shade(scene: Scene, eye: Array, yaw: float, size: int) -> tuple[Array, NDArray[np.float32]]:
    focal = 0.5 / np.tan(np.radians(FIELD_OF_VIEW_DEG) / 2)
    place = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(place / focal, place / focal)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    rays = rays @ turn.T
    depth, thing, axis = _hit(scene, eye, rays)
    point = eye + depth[:, None] * rays
    # waves finer than the pixels that show them would alias
    pixel = depth / (focal * size)
    frequency = np.linalg.norm(scene.waves, axis=2)[thing]
    strength = np.exp(-((2 * pixel[:, None] * frequency) ** 2))
    angle = 2 * np.pi * np.einsum("pkc,pc->pk", scene.waves[thing], point) + scene.phase[thing]
    texture = np.einsum("pk,pkc->pc", strength * np.sin(angle), scene.tint[thing])
    light = np.array([0.85, 1.1, 1.0])[axis]
    rgb = np.clip((scene.color[thing] + texture) * light[:, None], 0, 1)
    return rgb.reshape(size, size, 3), depth.reshape(size, size).astype(np.float32)


def _hit(scene: Scene, eye: Array, rays: Array) -> tuple[Array, NDArray[np.int64], NDArray]:
    """Depth, object and axis of the face that each ray meets first. Slab method."""
    with np.errstate(divide="ignore"):
        inverse = 1 / rays
    first = (scene.low[:, None] - eye) * inverse
    second = (scene.high[:, None] - eye) * inverse
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    near, out = enter.max(axis=2), leave.min(axis=2)
    meets = (near < out) & (near > 1e-6)
    distance = np.where(meets, near, np.inf)
    distance[0] = out[0]  # the room is seen from inside
    thing = distance.argmin(axis=0)
    pixel = np.arange(len(rays))
    axis = np.where(thing == 0, leave[0].argmin(axis=1), enter[thing, pixel].argmax(axis=1))
    return distance[thing, pixel], thing, axis


def eye_at(scene: Scene, share: float, *, right: bool = False) -> Array:
    """Where the (left or right) camera is after this share of its way."""
    return scene.path * (share - 0.5) + np.array([BASELINE_M if right else 0.0, 0.0, 0.0])


def stereo_batch(seeds: range, size: int) -> tuple[Tensor, NDArray[np.float32]]:
    """Pairs, uint8 [N, 2, size, size, 3], and the left depths, [N, size, size]."""
    pairs, depths = [], []
    for seed in seeds:
        scene = make_scene(seed)
        left, depth = render(scene, eye_at(scene, 0.5), size)
        right, _ = render(scene, eye_at(scene, 0.5, right=True), size)
        pairs.append(np.stack([left, right]))
        depths.append(depth)
    return torch.from_numpy(np.stack(pairs)), np.stack(depths)


def clip_batch(seeds: range, size: int, *, step: float = 0.1) -> tuple[Tensor, NDArray[np.float32]]:
    """Three frames each, uint8 [N, 3, size, size, 3], and the middle depths, [N, size, size]."""
    clips, depths = [], []
    for seed in seeds:
        scene = make_scene(seed)
        seen = [render(scene, eye_at(scene, 0.5 + k * step), size) for k in (-1, 0, 1)]
        clips.append(np.stack([rgb for rgb, _ in seen]))
        depths.append(seen[1][1])
    return torch.from_numpy(np.stack(clips)), np.stack(depths)


def encode_scenes(folder: Path, seeds: range, *, size: int, num_frames: int, fps: int) -> None:
    """Each scene as two synchronised videos, `scene0007_left.mp4` and `scene0007_right.mp4`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        scene = make_scene(seed)
        for right in (False, True):
            draw = _drawer(scene, num_frames, size, right)
            name = f"scene{seed:04d}_{'right' if right else 'left'}.mp4"
            encode_video(
                folder / name,
                num_frames,
                size=(size, size),
                fps=fps,
                options={"crf": "14"},
                draw=draw,
            )


def _drawer(scene: Scene, count: int, size: int, right: bool) -> Callable[[int], np.ndarray]:
    return lambda n: render(scene, eye_at(scene, (n + 0.5) / count, right=right), size)[0]
