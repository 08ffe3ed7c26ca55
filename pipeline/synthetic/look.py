"""How a generated event looks from one camera: table, backdrop, lamp, clutter, arm, lens.

The arm keeps its paint in all events, as one robot in one laboratory would. What stands around it
is drawn for each event (table, block, clutter, lamp) and for each camera (place, lens, backdrop,
white balance, noise), so that pixels alone say little about the state.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.pipeline.synthetic.render import (
    Array,
    Box,
    Camera,
    Canvas,
    Capsule,
    Light,
    Paint,
    ground_shadow,
    shadow_lookup,
)
from marey.pipeline.synthetic.scene import BLOCK_HALF, HAND, SHOULDER_HEIGHT, Event, State

_TABLE_RADIUS = 1.25
_DARK = np.array([0.045, 0.05, 0.06], np.float32)
_SHELL = np.array([0.78, 0.76, 0.72], np.float32)
_ACCENT = np.array([0.86, 0.22, 0.03], np.float32)


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: float) -> Array:
    hue, strength = rng.uniform(), rng.uniform(*saturation)
    return np.array(colorsys.hsv_to_rgb(hue, strength, value), np.float32) ** 2


def _plain(colour: Array) -> Paint:
    return lambda u, v: np.broadcast_to(colour, (len(u), 3))


def _banded(base: Array, band: Array, edges: tuple[float, ...]) -> Paint:
    """Rings of `band` between pairs of `edges` along a rod."""

    def paint(u: Array, v: Array) -> Array:
        inside = (np.searchsorted(np.array(edges), u) % 2 == 1)[:, None]
        return np.where(inside, band, base)

    return paint


def _pattern(kind: int, first: Array, second: Array) -> Paint:
    """A face of the block or of clutter: framed, checkered, striped or dotted."""

    def paint(u: Array, v: Array) -> Array:
        if kind == 0:
            other = np.maximum(np.abs(u), np.abs(v)) > 0.72
        elif kind == 1:
            other = (np.floor(u * 1.5 + 1.5) + np.floor(v * 1.5 + 1.5)) % 2 == 0
        elif kind == 2:
            other = np.sin(5.5 * (u + v)) > 0
        else:
            other = u * u + v * v < 0.36
        return np.where(other[:, None], second, first)

    return paint


def _table_colours(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Albedo of the table at ground points: planks, tiles, terrazzo or woven cloth."""
    kind = int(rng.integers(4))
    turn = rng.uniform(0, np.pi)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    base = _colour(rng, (0.12, 0.42), rng.uniform(0.55, 0.9))
    other = base * rng.uniform(0.55, 0.8)
    if kind == 0:
        plank = np.floor(v / 0.22)
        tint = np.sin(plank * 12.9898 + 3) * 0.5 + 0.5
        warp = u + 0.05 * np.sin(9 * v + 5 * tint) + 3 * tint
        fibre = 0.5 + 0.3 * np.sin(7 * warp + 40 * v) + 0.2 * np.sin(90 * v + 3 * warp)
        seam = np.abs(v / 0.22 - plank - 0.5) > 0.47
        share = np.where(seam, 1.3, 0.35 * tint + 0.5 * fibre)
    elif kind == 1:
        cell = np.maximum(np.abs(u / 0.3 % 1 - 0.5), np.abs(v / 0.3 % 1 - 0.5))
        checker = (np.floor(u / 0.3) + np.floor(v / 0.3)) % 2
        share = np.where(cell > 0.47, 1.4, 0.75 * checker)
    elif kind == 2:
        share = np.zeros_like(u)
        for centre in rng.uniform(-1.2, 1.2, (90, 2)):
            size = rng.uniform(0.015, 0.05)
            distance = np.hypot((u - centre[0]) * rng.uniform(0.7, 1.4), v - centre[1])
            share = np.where(distance < size, rng.uniform(0.5, 1.5), share)
    else:
        share = 0.5 + 0.5 * np.sin(55 * u) * np.sin(55 * v)
    return (base + share[..., None] * (other - base)).astype(np.float32)


def _backdrop(rng: np.random.Generator, side: int) -> Array:
    """A room out of focus behind the table, linear RGB [side, side, 3]."""
    value = rng.uniform(0.3, 0.75)
    top, bottom = _colour(rng, (0.05, 0.35), value), _colour(rng, (0.05, 0.35), value * 0.7)
    ramp = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    room = np.repeat(top + ramp * (bottom - top), side, axis=1).astype(np.float32)
    for _ in range(rng.integers(5, 10)):
        low = rng.uniform(-0.2, 1.0, 2) * side
        high = low + rng.uniform(0.08, 0.4, 2) * side
        colour = _colour(rng, (0.1, 0.55), rng.uniform(0.25, 0.95))
        corner, opposite = low.astype(int).tolist(), high.astype(int).tolist()
        cv2.rectangle(room, corner, opposite, colour.tolist(), -1)
    return np.asarray(cv2.GaussianBlur(room, (0, 0), side * rng.uniform(0.012, 0.035)), np.float32)


@dataclass(frozen=True, slots=True)
class Set:
    """What all cameras of one event share."""

    event: Event
    light: Light
    block: Paint
    pad: Array
    clutter: tuple[Capsule | Box, ...]
    table_seed: int

    @classmethod
    def draw(cls, event: Event, rng: np.random.Generator) -> Set:
        """Draw table, lamp, block and clutter for one event."""
        azimuth, height = rng.uniform(-np.pi, np.pi), rng.uniform(1.1, 2.2)
        direction = np.array([np.cos(azimuth), np.sin(azimuth), height])
        warmth = rng.uniform(0.85, 1.15)
        light = Light(
            (direction / np.linalg.norm(direction)).astype(np.float32),
            np.array([0.85 * warmth, 0.82, 0.8 / warmth], np.float32),
            np.array([0.3 / warmth, 0.32, 0.36 * warmth], np.float32),
        )
        first, second = _colour(rng, (0.7, 1.0), 0.95), _colour(rng, (0.0, 0.4), 0.95)
        clutter: list[Capsule | Box] = []
        for _ in range(rng.integers(2, 5)):
            angle = rng.uniform(1.3, 2 * np.pi - 1.3)
            place = rng.uniform(0.6, 1.05) * np.array([np.cos(angle), np.sin(angle)])
            size = rng.uniform(0.05, 0.12)
            paint = _pattern(
                int(rng.integers(4)),
                _colour(rng, (0.2, 0.9), rng.uniform(0.4, 0.95)),
                _colour(rng, (0.0, 0.6), rng.uniform(0.3, 0.95)),
            )
            foot = np.array([*place, size])
            if rng.uniform() < 0.5:
                half = np.array([size, size, size * rng.uniform(0.6, 1.0)])
                foot[2] = half[2]
                clutter.append(Box(foot, half, rng.uniform(0, np.pi), paint))
            else:
                rise = np.array([0, 0, rng.uniform(0, 0.25)])
                clutter.append(Capsule(foot, foot + rise, size, paint, 0.5))
        return cls(
            event=event,
            light=light,
            block=_pattern(int(rng.integers(4)), first, second),
            pad=_colour(rng, (0.3, 0.9), rng.uniform(0.3, 0.9)),
            clutter=tuple(clutter),
            table_seed=int(rng.integers(2**31)),
        )


class Shot:
    """One `camera` on one event: `frame(t)` gives the picture."""

    def __init__(self, stage: Set, view: int, size: int, rng: np.random.Generator) -> None:
        self._stage = stage
        self._rng = rng
        side = (-1) ** view * (0.62 + 0.5 * (view // 2))
        azimuth = side + rng.uniform(-0.1, 0.1)
        elevation = (0.42 if view % 2 == 0 else 0.66) + rng.uniform(-0.05, 0.05)
        distance = rng.uniform(2.3, 2.5)
        around = np.array(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            ]
        )
        target = np.array([0.22, 0.0, 0.33]) + rng.uniform(-0.03, 0.03, 3)
        self.camera = Camera(
            target + distance * around,
            target,
            np.deg2rad(rng.uniform(38.5, 41.5)),
            size,
            roll=rng.uniform(-0.03, 0.03),
        )
        self._gain = (rng.uniform(0.85, 1.15) * rng.uniform(0.9, 1.1, 3)).astype(np.float32)
        self._noise = rng.uniform(0.8, 2.2)
        self._still = self._draw_still()

    def _draw_still(self) -> Canvas:
        camera, stage = self.camera, self._stage
        rays = camera.rays
        with np.errstate(divide="ignore"):
            depth = np.where(rays[..., 2] < 0, -camera.position[2] / rays[..., 2], np.inf)
        depth = np.minimum(depth, 50).astype(np.float32)
        xy = camera.position[:2].astype(np.float32) + depth[..., None] * rays[..., :2]
        away = np.hypot(xy[..., 0], xy[..., 1])
        table = away < _TABLE_RADIUS
        albedo = _table_colours(np.random.default_rng(stage.table_seed), xy[..., 0], xy[..., 1])
        for spot, radius in ((stage.event.goal_xyz, 0.2), (np.zeros(3), 0.3)):
            reach = np.hypot(xy[..., 0] - spot[0], xy[..., 1] - spot[1])
            paint = stage.pad if radius < 0.25 else _DARK * 2
            ring = (reach < radius) & ~((reach > radius * 0.78) & (reach < radius * 0.88))
            albedo = np.where(ring[..., None], paint, albedo)
        rim = (away > _TABLE_RADIUS - 0.03)[..., None]
        albedo = np.where(rim, albedo * 0.5, albedo)
        up = np.zeros((camera.side**2, 3), np.float32)
        up[:, 2] = 1
        flat = stage.light.shade(up, rays.reshape(-1, 3), albedo.reshape(-1, 3), 0.05)
        lit = flat.reshape(rays.shape)
        backdrop = _backdrop(self._rng, camera.side)
        colour = np.where(table[..., None], lit, backdrop)
        still = Canvas(colour.astype(np.float32), np.where(table, depth, np.inf).astype(np.float32))
        self._columns, self._rows = shadow_lookup(np.where(table[..., None], xy, 99.0))
        base = Capsule(
            np.array([0, 0, 0.06]), np.array([0, 0, SHOULDER_HEIGHT - 0.14]), 0.15,
            _banded(_SHELL, _DARK, (0.12, 0.3, 0.9, 1.1)),
        )  # fmt: skip
        fixed = [*stage.clutter, base]
        still = still.dimmed(self._shadow(fixed, softness=3.0))
        for solid in fixed:
            still.draw(solid, camera, stage.light)
        self._ground = (still.depth == np.where(table, depth, -1)).astype(np.float32)
        return still

    def _shadow(self, solids: list[Capsule | Box], softness: float) -> Array:
        """The share of light that the ground misses at each subpixel, float32 [S, S]."""
        shadow = 0.62 * ground_shadow(solids, self._stage.light, softness)
        seen = cv2.remap(shadow, self._columns, self._rows, cv2.INTER_LINEAR)
        return np.asarray(seen, np.float32)

    def _moving(self, state: State) -> list[Capsule | Box]:
        shoulder = np.array([0, 0, SHOULDER_HEIGHT])
        wrist, elbow = state.wrist_xyz, state.elbow_xyz
        palm = wrist - [0, 0, HAND * 0.5]
        across = np.array([-np.sin(state.yaw), np.cos(state.yaw), 0.0])
        fingers: list[Capsule | Box] = []
        for sign in (-1, 1):
            top = palm + sign * state.grip * across
            fingers.append(Capsule(top, top - [0, 0, 0.13], 0.024, _plain(_DARK * 2.5)))
        grip = state.grip * across
        return [
            Capsule(shoulder, shoulder, 0.145, _plain(_ACCENT)),
            Capsule(shoulder, elbow, 0.088, _banded(_SHELL, _ACCENT, (0.42, 0.5, 0.56, 0.64))),
            Capsule(elbow, elbow, 0.108, _plain(_ACCENT)),
            Capsule(elbow, wrist, 0.068, _banded(_SHELL, _DARK, (0.3, 0.6))),
            Capsule(wrist, wrist, 0.078, _plain(_ACCENT)),
            Capsule(wrist, palm, 0.045, _plain(_SHELL)),
            Capsule(palm - grip, palm + grip, 0.03, _plain(_DARK * 2.5)),
            *fingers,
            Box(
                state.block_xyz,
                np.full(3, BLOCK_HALF),
                state.block_yaw,
                self._stage.block,
            ),
        ]

    def frame(self, time_s: float) -> NDArray[np.uint8]:
        """The picture at `time_s` seconds, uint8 [size, size, 3]."""
        solids = self._moving(self._stage.event.state(time_s))
        canvas = self._still.dimmed(self._shadow(solids, softness=2.2) * self._ground)
        for solid in solids:
            canvas.draw(solid, self.camera, self._stage.light)
        side = self.camera.side // 2
        grain = self._noise * self._rng.standard_normal((side, side, 3), np.float32)
        return canvas.developed(self._gain, grain)
