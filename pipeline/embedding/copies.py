"""What a fixed, strong change makes of a frame: the queries of copy retrieval.

It is no training augmentation of marey's: turned, cropped, mirrored, recoloured, blurred and
compressed at once, a pure function of the frame's key, so that every encoder meets the same copies.
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

TURN_DEG = (10.0, 30.0)
"""Angle of the rotation, either way."""
CROP = (0.35, 0.7)
"""Area of the crop as share of the frame."""
QUALITY = (10, 40)
"""JPEG quality."""


def strong_copy(frame: NDArray[np.uint8], key: str) -> NDArray[np.uint8]:
    """A changed copy of a frame, uint8 [H, W, 3] both; `key` decides what is drawn."""
    seed = hashlib.blake2b(key.encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(seed, "big"))
    height, width = frame.shape[:2]
    turn = rng.uniform(*TURN_DEG) * rng.choice([-1, 1])
    side = np.sqrt(rng.uniform(*CROP))
    centre = (np.array([width, height]) - 1) / 2
    offset = rng.uniform(-1, 1, 2) * (1 - side) / 2 * [width, height]
    # the map from the copy's pixels to the frame's: scaled, turned, moved
    matrix = cv2.getRotationMatrix2D((0, 0), turn, side)
    if rng.random() < 0.5:
        matrix[:, 0] *= -1
    matrix[:, 2] = centre + offset - matrix[:, :2] @ centre
    image = cv2.warpAffine(
        frame, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    ).astype(np.float32)  # fmt: skip
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    image = grey[..., None] + rng.uniform(0, 1.6) * (image - grey[..., None])
    image = (image - grey.mean()) * rng.uniform(0.5, 1.5) + grey.mean() * rng.uniform(0.6, 1.4)
    image = image * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    sigma = rng.uniform(0.2, 0.02 * min(height, width) + 0.2)
    image = cv2.GaussianBlur(image, (0, 0), sigma).clip(0, 255).astype(np.uint8)
    quality = int(rng.integers(*QUALITY))
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    return np.asarray(decoded, dtype=np.uint8)
