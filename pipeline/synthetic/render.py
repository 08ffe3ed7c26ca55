"""How a generated scene becomes pictures: rays against capsules and boxes, twice oversampled.

A `Camera` holds one ray for every subpixel. Still parts (table, backdrop, clutter) are drawn once
into a `Canvas`; for every frame a copy of it receives the moving parts inside the rectangle that
each can touch. Light is added in linear RGB and encoded with a square root at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Paint = Callable[[Array, Array], Array]
"""Surface coordinates (u, v), float [n] each -> albedo in linear RGB, float [n, 3]."""

OVERSAMPLING = 2
_SHADOW_CELLS = 160
_SHADOW_REACH = 1.6
"""The shadow map: cells a side, and the half-width in metres of the ground that it covers."""


class Camera:
    """A pinhole camera that looks at a point, with square pixels.

    `rays`: float32 [S, S, 3], unit directions with S = size * OVERSAMPLING.
    """

    def __init__(
        self,
        position: NDArray[np.float64],
        target: NDArray[np.float64],
        field_of_view: float,
        size: int,
        roll: float = 0.0,
    ) -> None:
        forward = (target - position) / np.linalg.norm(target - position)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        right, down = turn @ np.stack([right, down])
        self.side = size * OVERSAMPLING
        self.focal = 0.5 * self.side / np.tan(field_of_view / 2)
        self.position = position
        self.axes = np.stack([right, down, forward])
        offset = (np.arange(self.side) + 0.5 - self.side / 2) / self.focal
        x, y = np.meshgrid(offset, offset)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ self.axes
        self.rays = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)

    def window(self, points: NDArray[np.float64], radius: float) -> tuple[slice, slice] | None:
        """Rows and columns that spheres of `radius` around `points` [n, 3] can touch."""
        local = (points - self.position) @ self.axes.T
        depth = local[:, 2]
        if np.any(depth < 0.1):
            raise ValueError("an object reaches behind the camera")
        centre = self.focal * local[:, :2] / depth[:, None] + self.side / 2
        reach = 1.15 * self.focal * radius / depth[:, None] + 2
        low = np.floor((centre - reach).min(axis=0)).astype(int).clip(0, self.side)
        high = np.ceil((centre + reach).max(axis=0)).astype(int).clip(0, self.side)
        if np.any(high <= low):
            return None
        return slice(low[1], high[1]), slice(low[0], high[0])


@dataclass(frozen=True, slots=True)
class Light:
    """A far lamp and the sky: unit `direction` towards the lamp, colours in linear RGB [3]."""

    direction: Array
    lamp: Array
    sky: Array

    def shade(self, normal: Array, ray: Array, albedo: Array, gloss: float) -> Array:
        """Colour leaving the surface towards the camera, float [n, 3]."""
        diffuse = np.maximum(normal @ self.direction, 0)[:, None]
        ambient = (0.62 + 0.38 * normal[:, 2])[:, None]
        half = self.direction - ray
        cosine = np.einsum("ij,ij->i", normal, half) / np.sqrt(np.einsum("ij,ij->i", half, half))
        shine = np.maximum(cosine, 0)
        for _ in range(5):  # to the power 32
            shine *= shine
        shine *= gloss
        return albedo * (self.lamp * diffuse + self.sky * ambient) + self.lamp * shine[:, None]


@dataclass(frozen=True, slots=True)
class Capsule:
    """A round-ended rod from `a` to `b` (a ball where they coincide)."""

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    radius: float
    paint: Paint
    gloss: float = 0.35

    def hit(self, camera: Camera) -> _Hit | None:
        """The first meeting of each ray with the surface."""
        window = camera.window(np.stack([self.a, self.b]), self.radius)
        if window is None:
            return None
        rays = camera.rays[window].reshape(-1, 3)
        axis = (self.b - self.a).astype(np.float32)
        start = (camera.position - self.a).astype(np.float32)
        length2 = float(axis @ axis)
        along, toward, base = rays @ axis, rays @ start, float(start @ axis)
        near_end = np.zeros(len(rays), bool)
        depth = np.full(len(rays), np.inf, np.float32)
        height = np.zeros(len(rays), np.float32)
        if length2 > 1e-8:
            quad = length2 - along * along
            half = length2 * toward - base * along
            rest = length2 * (float(start @ start) - self.radius**2) - base * base
            root = half * half - quad * rest
            side = root > 0
            t = (-half[side] - np.sqrt(root[side])) / np.maximum(quad[side], 1e-9)
            y = base + t * along[side]
            inside = (y > 0) & (y < length2)
            chosen = np.flatnonzero(side)[inside]
            depth[chosen], height[chosen] = t[inside], y[inside] / length2
            near_end = ~np.isfinite(depth)
        else:
            near_end[:] = True
        for end, share in ((self.a, 0.0), (self.b, 1.0)):
            offset = (camera.position - end).astype(np.float32)
            reach = rays[near_end] @ offset
            root = reach * reach - (float(offset @ offset) - self.radius**2)
            t = np.where(root > 0, -reach - np.sqrt(np.maximum(root, 0)), np.inf)
            index = np.flatnonzero(near_end)
            closer = t < depth[index]
            depth[index[closer]], height[index[closer]] = t[closer], share
        found = np.flatnonzero(np.isfinite(depth))
        if not len(found):
            return None
        ray, depth, height = rays[found], depth[found], height[found]
        point = camera.position.astype(np.float32) + depth[:, None] * ray
        normal = (point - self.a.astype(np.float32) - height[:, None] * axis) / self.radius
        return _Hit(window, found, depth, normal, ray, self.paint(height, normal[:, 0]))


@dataclass(frozen=True, slots=True)
class Box:
    """An upright cuboid: `centre`, half sizes `half` [3], turned by `yaw` about the vertical."""

    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    yaw: float
    paint: Paint
    gloss: float = 0.12

    def hit(self, camera: Camera) -> _Hit | None:
        """The first meeting of each ray with the surface."""
        window = camera.window(self.centre[None], float(np.linalg.norm(self.half)))
        if window is None:
            return None
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]], np.float32)
        world = camera.rays[window].reshape(-1, 3)
        rays = world @ turn.T
        start = (turn @ (camera.position - self.centre)).astype(np.float32)
        half = self.half.astype(np.float32)
        inverse = 1 / np.where(np.abs(rays) < 1e-6, 1e-6, rays)
        near = -inverse * start - np.abs(inverse) * half
        far = -inverse * start + np.abs(inverse) * half
        depth = near.max(axis=1)
        found = np.flatnonzero((depth < far.min(axis=1)) & (depth > 0))
        if not len(found):
            return None
        side = near[found].argmax(axis=1)
        local = (start + depth[found, None] * rays[found]) / half
        rows = np.arange(len(found))
        normal = np.zeros_like(local)
        normal[rows, side] = -np.sign(rays[found, side])
        u, v = local[rows, (side + 1) % 3], local[rows, (side + 2) % 3]
        return _Hit(window, found, depth[found], normal @ turn, world[found], self.paint(u, v))


@dataclass(frozen=True, slots=True)
class _Hit:
    """Where rays of a window meet one surface: `index` [n] into the flattened window."""

    window: tuple[slice, slice]
    index: NDArray[np.int64]
    depth: Array
    normal: Array
    ray: Array
    albedo: Array


@dataclass
class Canvas:
    """A picture being drawn: linear `colour` [S, S, 3] and `depth` [S, S] along each ray."""

    colour: Array
    depth: Array

    def draw(self, solid: Capsule | Box, camera: Camera, light: Light) -> None:
        """Draw a solid where it is nearer than what is there."""
        hit = solid.hit(camera)
        if hit is None:
            return
        rows, columns = hit.window
        row, column = np.divmod(hit.index, columns.stop - columns.start)
        row, column = row + rows.start, column + columns.start
        seen = hit.depth < self.depth[row, column]
        row, column = row[seen], column[seen]
        self.depth[row, column] = hit.depth[seen]
        self.colour[row, column] = light.shade(
            hit.normal[seen], hit.ray[seen], hit.albedo[seen], solid.gloss
        )

    def dimmed(self, shadow: Array) -> Canvas:
        """A copy that misses the share `shadow` [S, S] of its light."""
        left = 1 - shadow
        colour = cv2.multiply(self.colour, cv2.merge([left, left, left]))
        return Canvas(np.asarray(colour, np.float32), self.depth.copy())

    def developed(self, gain: Array, grain: Array) -> NDArray[np.uint8]:
        """The finished frame, uint8 [S/2, S/2, 3]: averaged, white-balanced, with sensor noise."""
        side = self.colour.shape[0] // OVERSAMPLING
        small = cv2.resize(self.colour, (side, side), interpolation=cv2.INTER_AREA)
        encoded = np.sqrt(np.clip(small * gain, 0, 1)) * 255 + grain
        return np.clip(encoded + 0.5, 0, 255).astype(np.uint8)


def ground_shadow(
    solids: list[Capsule | Box], light: Light, softness: float
) -> NDArray[np.float32]:
    """How much of the lamp each cell of the ground misses, float32 [cells, cells] in [0, 1]."""
    cells = np.zeros((_SHADOW_CELLS, _SHADOW_CELLS), np.uint8)
    scale = _SHADOW_CELLS / (2 * _SHADOW_REACH)
    fall = -light.direction[:2] / light.direction[2]
    for solid in solids:
        if isinstance(solid, Capsule):
            ends = np.stack([solid.a, solid.b])
            flat = (ends[:, :2] + ends[:, 2:] * fall + _SHADOW_REACH) * scale * 16
            first, second = flat.round().astype(int).tolist()
            width = max(1, round(2 * solid.radius * scale))
            cv2.line(cells, first, second, 255, width, cv2.LINE_AA, shift=4)
        else:
            signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
            corner = signs * solid.half
            cosine, sine = np.cos(solid.yaw), np.sin(solid.yaw)
            spun = corner[:, :2] @ np.array([[cosine, sine], [-sine, cosine]])
            height = corner[:, 2:] + solid.centre[2]
            flat = (spun + solid.centre[:2] + height * fall + _SHADOW_REACH) * scale * 16
            hull = cv2.convexHull(flat.round().astype(np.int32)[:, None])
            cv2.fillConvexPoly(cells, hull, 255, cv2.LINE_AA, shift=4)
    return (cv2.GaussianBlur(cells, (0, 0), softness) / 255).astype(np.float32)


def shadow_lookup(xy: Array) -> tuple[Array, Array]:
    """Columns and rows of the shadow map under ground points `xy` [..., 2], for `cv2.remap`."""
    cell = (xy + _SHADOW_REACH) * (_SHADOW_CELLS / (2 * _SHADOW_REACH)) - 0.5
    return np.ascontiguousarray(cell[..., 0]), np.ascontiguousarray(cell[..., 1])
