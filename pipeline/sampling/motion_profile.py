"""How much does each frame of a video move, and does anything? Read from the index's profile."""

from __future__ import annotations

import numpy as np

from marey.pipeline.data.events import Video


def still(video: Video) -> bool:
    """Whether motion was measured and there is none: all frames are the same picture."""
    motion = video.motion
    # mostly the first value tells, at a tenth of the price: a plan asks of every video
    return len(motion) > 0 and not motion[0] and not motion.any()


def frame_motion(video: Video) -> np.ndarray:
    """The motion profile at every frame, float64 [frames]; uniform where none was measured, which
    a plan counts (`Plan.unweighted`)."""
    if len(video.motion) == 0:
        return np.ones(video.frames)
    where = (np.arange(video.frames) + 0.5) / video.fps * video.motion_hz
    profile = np.asarray(video.motion, dtype=np.float64)
    return profile[np.clip(where.astype(int), 0, len(profile) - 1)]
