"""Tiny rendered clips whose boxes are known: for the tests of trackers and mining."""

import cv2
import numpy as np


def texture(height: int, width: int, seed: int, smooth: int = 2) -> np.ndarray:
    """uint8 [H, W, 3]: smooth random colours, full contrast."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), smooth)
    low, high = blurred.min(), blurred.max()
    return ((blurred - low) / (high - low) * 255).astype(np.uint8)


def moving_square(num_frames=16, step=(3, 1), side=40, start=(60, 60), size=(200, 280)):
    """A textured square over a textured background: frames and its true boxes [T, 4]."""
    background, square = texture(*size, seed=1), texture(side, side, seed=2)
    frames = np.repeat(background[None], num_frames, axis=0)
    truth = np.zeros((num_frames, 4), np.float32)
    for t in range(num_frames):
        x, y = start[0] + step[0] * t, start[1] + step[1] * t
        frames[t, y : y + side, x : x + side] = square
        truth[t] = x, y, side, side
    return frames, truth
