"""Which numbers turn a stream's YUV into RGB? Matrix, range, and what they default to."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame

_KR_KB = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.470BG, the same as BT.601
    6: (0.299, 0.114),  # SMPTE 170M, BT.601
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
    10: (0.2627, 0.0593),  # BT.2020, constant luminance, taken as non-constant
}
"""Weights of red and blue in luma, by the number that ISO 23091-2 gives the matrix."""

UNSPECIFIED = 2
FULL_RANGE = 2
LIMITED_RANGE = 1


def is_full_range(frame: VideoFrame) -> bool:
    """Whether luma runs from 0 to 255 rather than 16 to 235 (at 8 bits)."""
    return frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")


def has_matrix(frame: VideoFrame) -> bool:
    """Whether `rgb_matrix` covers the frame; others (RGB, XYZ, palettes) need libswscale.

    It refuses most other matrices (YCgCo, ICtCp, those derived from primaries).
    """
    known = frame.colorspace in _KR_KB or frame.colorspace in (UNSPECIFIED, 3)
    return known and frame.format.name.startswith(("yuv", "nv", "p0", "gray"))


def rgb_matrix(colorspace: int, full_range: bool) -> np.ndarray:
    """Affine map from 8-bit (Y, U, V) to 8-bit (R, G, B): float32 [3, 4].

    A stream that names no matrix is taken as BT.601 whatever its size, as libswscale, and with it
    every reader built on it, does.
    """
    kr, kb = _KR_KB.get(colorspace, _KR_KB[5])
    kg = 1 - kr - kb
    luma, chroma, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    linear = np.array(
        [
            [luma, 0, 2 * (1 - kr) * chroma],
            [luma, -2 * (1 - kb) * kb / kg * chroma, -2 * (1 - kr) * kr / kg * chroma],
            [luma, 2 * (1 - kb) * chroma, 0],
        ]
    )
    offset = -linear @ np.array([black, 128.0, 128.0])
    return np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)
