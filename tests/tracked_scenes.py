"""Tiny rendered clips whose boxes are known: for the tests of trackers and mining."""

from dataclasses import dataclass

import cv2
import numpy as np


def texture(height: int, width: int, seed: int, smooth: int = 2) -> np.ndarray:
    """uint8 [H, W, 3]: smooth random colours, full contrast."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), smooth)
    low, high = blurred.min(), blurred.max()
    return ((blurred - low) / (high - low) * 255).astype(np.uint8)


def moving_square(num_frames=16, step=(3, 1), side=40, start=(60, 60), size=(200, 280), seed=1):
    """A textured square over a textured background: frames and its true boxes [T, 4]."""
    background, square = texture(*size, seed=seed), texture(side, side, seed=seed + 1)
    frames = np.repeat(background[None], num_frames, axis=0)
    truth = np.zeros((num_frames, 4), np.float32)
    for t in range(num_frames):
        x, y = start[0] + step[0] * t, start[1] + step[1] * t
        frames[t, y : y + side, x : x + side] = square
        truth[t] = x, y, side, side
    return frames, truth


@dataclass(frozen=True)
class Shot:
    """Some frames of one scene of a `film`: a still background, and one thing before it or none.

    truth: the thing's boxes, float32 [stop - start, 4]; None where nothing moves. continued: the
    thing was in the shot before and goes on from its place there.
    """

    start: int
    stop: int
    truth: np.ndarray | None
    continued: bool


def film(num_shots: int, seed: int, size=(200, 280)) -> tuple[np.ndarray, list[Shot]]:
    """Shots of drawn scenes, one after the other: frames uint8 [T, H, W, 3], and what they show.

    At a third of the cuts the same thing goes on in front of another scene: a tracker would follow
    it. Every fifth shot is still. All else is drawn: the length of a shot (20 to 32 frames), the
    side, path and speed of its thing (2 to 4 pixels per frame), the grain of both textures. Frames
    differ in noise, as a sensor's do.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    frames, shots, start = [], [], 0
    thing, place = None, np.zeros(2)
    for number in range(num_shots):
        length = int(rng.integers(20, 33))
        background = texture(height, width, int(rng.integers(2**31)), rng.uniform(2, 5))
        still, continued = number % 5 == 4, number % 2 == 1 and thing is not None
        if still:
            thing = None
        elif not continued:
            side = int(rng.integers(48, 72))
            # cut from a larger one: at its own size each would have full contrast
            thing = texture(100, 100, int(rng.integers(2**31)), rng.uniform(2, 5))[:side, :side]
            place = rng.uniform(0, np.array([width, height]) - side)
        shown = np.repeat(background[None].astype(np.int16), length, axis=0)
        truth = None
        if thing is not None:
            side = len(thing)
            path = _straight_path(rng, place, length, np.array([width, height]) - side)
            truth = np.column_stack([path, np.full((length, 2), side)]).astype(np.float32)
            for t, (x, y) in enumerate(path):
                shown[t, y : y + side, x : x + side] = thing
            place = path[-1].astype(float)
        noise = rng.integers(-3, 4, (height + 16, width + 16, 3), dtype=np.int16)
        for t, (x, y) in enumerate(rng.integers(0, 17, (length, 2))):
            shown[t] += noise[y : y + height, x : x + width]
        frames.append(shown.clip(0, 255).astype(np.uint8))
        shots.append(Shot(start, start + length, truth, continued and not still))
        start += length
    return np.concatenate(frames), shots


def _straight_path(rng, place: np.ndarray, length: int, room: np.ndarray) -> np.ndarray:
    """int [length, 2]: from `place` in a direction in which the way stays within [0, room]."""
    while True:
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(2, 4)
        step = speed * np.array([np.cos(angle), np.sin(angle)])
        path = (place + step * np.arange(length)[:, None]).round().astype(int)
        if (path >= 0).all() and (path <= room).all():
            return path
