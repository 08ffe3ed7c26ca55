"""Which frames do times, spacings and cuts come to, at a video's nominal frame rate?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from marey.pipeline.data.events import Video

LEAST_STEP = 0.999
"""Least spacing in frame periods at which frames differ: one, but for the rounding of rates."""


def frame_time(video: Video, number: np.ndarray | int) -> np.ndarray:
    """Seconds at the middle of frame `number`'s showing, at the nominal frame rate.

    The middle, so that rounding never moves a request to the frame before.
    """
    return (np.asarray(number, dtype=np.float64) + 0.5) / video.fps


def shots(video: Video) -> list[tuple[int, int]]:
    """Runs of frames without a cut: [first, stop) frame numbers, in order, none empty."""
    fps, frames = video.fps, video.frames
    cuts = sorted({edge for cut in video.cuts if 0 < (edge := round(cut * fps)) < frames})
    return [(a, b) for a, b in pairwise([0, *cuts, frames]) if b > a]


def spaced(video: Video, step_s: float) -> bool:
    """Whether frames `step_s` apart differ: nearer than a frame period they would repeat."""
    return step_s * video.fps >= LEAST_STEP


def whole_step(video: Video, step_s: float) -> int:
    """The spacing as the nearest whole number of frames, so that motion is even; at least one."""
    return max(1, int(step_s * video.fps + 0.5))


def frames_within(video: Video, time_s: float) -> int:
    """How many frames away a frame may be and still lie within a time of another."""
    return int(time_s * video.fps + 1e-6)


def draw_near(
    numbers: np.ndarray,
    reach: int,
    first: np.ndarray | int,
    stop: np.ndarray | int,
    rng: np.random.Generator,
) -> np.ndarray:
    """For each frame another one at most `reach` away, uniformly drawn from [first, stop).

    numbers: int64 [N], each within its range, which has two frames or more. Returns int64 [N].
    """
    near = rng.integers(np.maximum(numbers - reach, first), np.minimum(numbers + reach, stop - 1))
    # the frame itself is left out
    return near + (near >= numbers)
