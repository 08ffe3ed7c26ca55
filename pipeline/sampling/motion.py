"""How much does each frame of a video move? Read from the index's profile."""

from __future__ import annotations

import numpy as np

from pipeline.index import Video


def frame_motion(video: Video) -> np.ndarray:
    """The motion profile at every frame, float64 [frames]; uniform where none was measured."""
    if len(video.motion) == 0:
        return np.ones(video.frames)
    where = (np.arange(video.frames) + 0.5) / video.fps * video.motion_hz
    profile = np.asarray(video.motion, dtype=np.float64)
    return profile[np.clip(where.astype(int), 0, len(profile) - 1)]
