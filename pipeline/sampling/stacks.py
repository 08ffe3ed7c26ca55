"""Which frames make a stack, and where in a video do whole stacks fit?"""

from __future__ import annotations

import numpy as np

from configs.sampling import StackSettings
from pipeline.index import Video
from pipeline.sampling.frame_numbers import shots, spaced


def stacked(times_s: np.ndarray, config: StackSettings) -> np.ndarray:
    """Every time, [N], with those that its stack looks back to, [N stack]; each stack in order."""
    back = np.arange(config.stack - 1, -1, -1) * config.stack_s
    return (times_s[:, None] - back).ravel()


def stack_reach(video: Video, config: StackSettings) -> int:
    """Frames before frame n that the stack ending at n needs."""
    return max(0, int(np.ceil(config.look_back_s * video.fps - 0.5 - 1e-6)))


def stack_runs(video: Video, config: StackSettings, least: int) -> list[tuple[int, int]]:
    """Runs [first, stop) of at least `least` frames of one shot whose stacks stay in it."""
    if not video.has_frames:
        return []
    reach = stack_reach(video, config)
    return [(a + reach, b) for a, b in shots(video) if b - a - reach >= least]


def stack_spaced(video: Video, config: StackSettings) -> bool:
    """Whether the frames of a stack differ."""
    return config.stack == 1 or spaced(video, config.stack_s)
