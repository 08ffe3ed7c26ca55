"""All phases of a movement on one plate, as Marey's chronophotographs show them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_FAINT, _CLEAR = 16.0, 44.0
"""Difference from the background (of 255) from which a pixel shows, and shows fully."""
_MOST = 0.25
"""Share of moving pixels in one frame above which the camera is taken to move."""
_LEAST = 0.005
"""Share of moving pixels below which nothing happens that a plate could show."""
_ALIKE = 0.75
"""Least correlation of a frame's edges with the background's, where the camera stands still."""


def plate(frames: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """What moves in each of the frames, on their common background.

    frames: uint8 [T, H, W, 3], T >= 4, evenly spread over the movement. The background is the
    median over time. Returns uint8 [H, W, 3]; None where the camera moves or nothing does.
    """
    if len(frames) < 4:
        return None
    values = frames.astype(np.float32)
    ground = np.median(values, axis=0).astype(np.float32)
    # an exposure that adapts shifts whole frames, which is no movement
    values -= np.median(values - ground, axis=(1, 2), keepdims=True)
    apart = np.abs(values - ground).max(axis=-1)
    apart = np.stack([cv2.GaussianBlur(picture, (0, 0), 0.8) for picture in apart])
    moving = (apart > _CLEAR).mean(axis=(1, 2))
    still = _same_place(values, ground, apart > _FAINT)
    if moving.max() > _MOST or moving.mean() < _LEAST or not still:
        return None
    opacity = np.clip((apart - _FAINT) / (_CLEAR - _FAINT), 0, 1)[..., None]
    result = ground
    # earlier phases lie under later ones and are a little fainter
    for frame, cover, strength in zip(
        values, opacity, np.linspace(0.75, 1, len(frames)), strict=True
    ):
        result = result + strength * cover * (frame - result)
    return np.clip(result + 0.5, 0, 255).astype(np.uint8)


def _same_place(
    frames: NDArray[np.float32], ground: NDArray[np.float32], moving: NDArray[np.bool_]
) -> bool:
    """Whether every frame has the background's edges where nothing moves (bool [T, H, W])."""

    def edges(image: NDArray[np.float32]) -> NDArray[np.float32]:
        grey = cv2.GaussianBlur(image.mean(axis=-1), (0, 0), 1.0)
        return np.stack([cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)])

    reference = edges(ground)
    for frame, covered in zip(frames, moving, strict=True):
        # a filter reaches some pixels beyond what moves
        still = cv2.dilate(covered.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0
        own, known = edges(frame)[:, still], reference[:, still]
        scale = float(np.linalg.norm(own) * np.linalg.norm(known))
        if float((own * known).sum()) < _ALIKE * scale:
            return False
    return True
