"""How much changes in the picture from moment to moment? For telling when two cameras saw one
thing, cameras that stand still."""

from __future__ import annotations

import cv2
import numpy as np

from marey.configs.errors import InputError
from marey.pipeline.video.reader import frames
from marey.pipeline.video.span import Span

SIDE = 64
"""Short side at which frames are compared, in pixels."""


def motion_energy(
    uri: str, rate_hz: float = 25.0, stream: int = 0, span: Span | None = None
) -> np.ndarray:
    """Change of the picture a second, float32 [n], value k at k / `rate_hz` from the first frame.

    The mean difference of luminance between neighbouring frames, over the time between them, read
    off at even times. Decodes the whole file, or a span of it, in constant memory.
    Raises InputError when the file cannot be read or shows fewer than three frames.
    """
    times, changes = [], []
    before: tuple[np.ndarray, float] | None = None
    for pictures, shown_s in frames(uri, size=SIDE, stream=stream, span=span):
        for picture, time_s in zip(pictures, shown_s.tolist(), strict=True):
            grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.int16)
            if before is not None and time_s > before[1]:
                change = float(np.abs(grey - before[0]).mean())
                times.append((time_s + before[1]) / 2)
                changes.append(change / (time_s - before[1]))
            before = grey, time_s
    if len(times) < 2:
        raise InputError(f"{uri}: shows too few frames to tell its motion")
    even = np.arange(int(times[-1] * rate_hz) + 1) / rate_hz
    return np.interp(even, times, changes).astype(np.float32)
