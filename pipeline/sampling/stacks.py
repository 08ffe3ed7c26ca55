"""Which frames make a stack, and where in a video do whole stacks fit?"""

from __future__ import annotations

import numpy as np

from marey.configs.sampling import StackSettings
from marey.pipeline.data.events import Video
from marey.pipeline.sampling.frame_numbers import shots, spaced, whole_step


def stacked(times_s: np.ndarray, steps_s: np.ndarray | float, stack: int) -> np.ndarray:
    """Every time with those that its stack looks back to: float64 [N stack], each stack in order.

    times_s: float64 [N], in the clock of the view that shows each. steps_s: between the frames of
    a stack (see `stack_step_s`), float64 [N], or one for all.
    """
    back = np.arange(stack - 1, -1, -1)
    return (times_s[:, None] - back * np.reshape(steps_s, (-1, 1))).ravel()


def stack_step_s(video: Video, config: StackSettings) -> float:
    """Seconds between the frames of a view's stacks: `stack_s` as a whole number of its frames, as
    for the clips that an embedding sees (`lookback.clip_times`)."""
    return whole_step(video, config.stack_s) / video.fps if video.has_frames else 0.0


def stack_reach(video: Video, config: StackSettings) -> int:
    """Frames before frame n that the stack ending at n needs."""
    return (config.stack - 1) * whole_step(video, config.stack_s) if config.stack > 1 else 0


def stack_runs(video: Video, config: StackSettings, least: int) -> list[tuple[int, int]]:
    """Runs [first, stop) of at least `least` frames of one shot whose stacks stay in it."""
    if not video.has_frames:
        return []
    reach = stack_reach(video, config)
    return [(a + reach, b) for a, b in shots(video) if b - a - reach >= least]


def stack_spaced(video: Video, config: StackSettings) -> bool:
    """Whether the frames of a stack differ."""
    return config.stack == 1 or spaced(video, config.stack_s)
