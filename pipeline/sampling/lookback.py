"""Which frames does the embedding of a time see? Those of the clip that ends there."""

from __future__ import annotations

import numpy as np

from marey.pipeline.data.events import Video
from marey.pipeline.sampling.frame_numbers import shots, spaced, whole_step


def clip_times(
    video: Video, times_s: np.ndarray, frames: int, step_s: float
) -> tuple[np.ndarray, list[str]]:
    """The presentation times of the clip of `frames` frames `step_s` apart that ends at each time.

    times_s: float64 [n], in the video's own clock. Returns float64 [n, frames], ascending, and for
    each time why it has no clip: empty, `too_short` (its shot is shorter than a clip) or
    `frame_rate_too_low` (a clip would repeat frames). A clip that would begin before its shot is
    moved to the shot's beginning; no frame is ever repeated. The spacing is the nearest whole
    number of frames, as in training. One frame is the time itself.
    """
    times_s = np.asarray(times_s, dtype=np.float64)
    if frames == 1:
        return times_s[:, None], [""] * len(times_s)
    step = whole_step(video, step_s) / video.fps
    span = (frames - 1) * step
    edges = np.array(shots(video), dtype=np.float64) / video.fps
    # a time before the start or after the end stays wrong, for the reader to refuse
    shot = np.clip(np.searchsorted(edges[:, 0], times_s, side="right") - 1, 0, None)
    half = 0.5 / video.fps
    first, last = edges[shot, 0] + half, edges[shot, 1] - half
    ends = np.maximum(times_s, first + span)
    # the slack forgives the rounding of spans that fit exactly
    short = first + span > last + 1e-6
    reason = "too_short"
    if not spaced(video, step_s):
        short, reason = np.ones(len(times_s), bool), "frame_rate_too_low"
    back = np.arange(frames - 1, -1, -1) * step
    return ends[:, None] - back[None, :], [reason if bad else "" for bad in short]
