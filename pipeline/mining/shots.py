"""Where does a decoded clip cut to another shot? Hard cuts, so that no track crosses one."""

import cv2
import numpy as np

BLOCKS, BLOCK = (4, 4), (9, 16)
"""Rows and columns of blocks, and pixels of each, at which frames are compared."""
MIN_DIFFERENCE = 8.0
"""Mean difference of a block's values (0-255) from one frame to the next if it changed, and"""
MAX_CORRELATION = 0.5
"""correlation: a picture that moves on resembles itself more."""
MIN_CHANGED = 0.4
"""Share of the blocks that change at a cut (captions and borders stay)."""
RATIO, AROUND = 2.0, 6
"""A cut's difference is so many times the median of those so many frames before and after it."""


def hard_cuts(frames: np.ndarray) -> list[int]:
    """Numbers of the frames of uint8 [T, H, W, 3] that begin another shot than the frame before.

    A cut changes many blocks of the picture at once and stands out in time; fast steady motion does
    not stand out, and a large moving thing leaves blocks alone. A wrong cut costs a few tracks, a
    missed one makes a wrong track, so the thresholds lean to the former.
    """
    if len(frames) < 2:
        return []
    size = (BLOCKS[1] * BLOCK[1], BLOCKS[0] * BLOCK[0])
    # four rows of a small one's are enough, and rows are what is quickest to leave out
    every = max(1, frames.shape[1] // (4 * size[1]))
    rows = [np.ascontiguousarray(frame[every // 2 :: every]) for frame in frames]
    small = np.stack([cv2.resize(r, size, interpolation=cv2.INTER_AREA) for r in rows])
    values = small.astype(np.float32).reshape(len(frames), BLOCKS[0], BLOCK[0], BLOCKS[1], -1)
    values = values.swapaxes(2, 3).reshape(len(frames), BLOCKS[0] * BLOCKS[1], -1)
    difference = np.abs(np.diff(values, axis=0)).mean(axis=2)
    centred = values - values.mean(axis=2, keepdims=True)
    norm = np.linalg.norm(centred, axis=2)
    product = (centred[1:] * centred[:-1]).sum(axis=2)
    correlation = product / np.maximum(norm[1:] * norm[:-1], 1e-6)
    changed = (difference > MIN_DIFFERENCE) & (correlation < MAX_CORRELATION)
    whole = difference.mean(axis=1)
    cuts = []
    for n in np.flatnonzero(changed.mean(axis=1) >= MIN_CHANGED):
        near = np.concatenate([whole[max(0, n - AROUND) : n], whole[n + 1 : n + 1 + AROUND]])
        if not len(near) or whole[n] > RATIO * np.median(near):
            cuts.append(int(n) + 1)
    return cuts
