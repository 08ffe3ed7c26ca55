"""A few small frames of a video: to compare it with others, and to see whether it stands still.

Where the picture may stand still is taken from the motion profile of the index; only there frames
are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.reading import VideoReader, Wanted

MOMENTS = (0.15, 0.5, 0.85)
"""Shares of its length at which a video is looked at."""
SIDE = 64
"""Frames are compared at this many pixels square."""
SMALL = 16
"""And kept, grey, at this many."""
STILL_S = 1.0
"""A picture that stands still for less is no fault."""
STILL_SHARE = 0.02
"""Share of a video's usual motion below which it may stand still."""
STILL_BYTES = (40.0, 0.2)
"""Bytes a frame and bits a macroblock that no codec needs more of to repeat a picture: twice what
x264 and x265 spend (`profile.REPEATED`). What is below is looked at."""
SAME_MEAN, SAME_MOST = 0.5, 12.0
"""Mean and largest difference of two frames, of 255, of which one repeats the other."""
ANEW_MEAN = 3.0
"""Mean difference where a keyframe between them encodes the same picture anew."""
PROBES = 5
"""Frames that are compared in a run that may stand still."""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a video looks like.

    small: uint8 [3, 16, 16], grey, at `MOMENTS`; None where it could not be read.
    contrast: standard deviation of brightness within each of these frames. mean: their brightness.
    still: (start, stop) in seconds during which the picture stands still. error: why small is None.
    """

    small: np.ndarray | None = None
    contrast: tuple[float, ...] = ()
    mean: float = 0.0
    still: tuple[tuple[float, float], ...] = ()
    error: str = ""


def glimpse(video: Video) -> Glimpse:
    """Look at one video. What cannot be read is said, never raised."""
    frames, error = _frames(video, np.array(MOMENTS) * video.duration_s)
    if frames is None:
        return Glimpse(error=error)
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    small = np.stack(
        [cv2.resize(one, (SMALL, SMALL), interpolation=cv2.INTER_AREA) for one in grey]
    )
    contrast = tuple(float(frame.std(axis=(0, 1)).max()) for frame in frames)
    still = tuple(run for run in still_runs(video) if _stands_still(video, run))
    return Glimpse(small, contrast, float(grey.mean()), still)


def still_runs(video: Video) -> list[tuple[float, float]]:
    """Where the motion profile allows that the picture stands still: (start, stop) in seconds.

    Without a profile, the whole video.
    """
    if not len(video.motion) or video.motion_hz <= 0:
        return [(0.0, video.duration_s)] if video.duration_s >= STILL_S else []
    pixels = max(1, video.width * video.height)
    bytes_a_frame, bits_a_block = STILL_BYTES
    least = (bytes_a_frame * 8 + bits_a_block * pixels / 256) / pixels
    usual = float(np.percentile(video.motion, 75))
    low = video.motion <= max(least, STILL_SHARE * usual)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], low, [False]]).astype(np.int8)))
    runs = edges.reshape(-1, 2) / video.motion_hz
    return [
        (float(start), min(float(stop), video.duration_s))
        for start, stop in runs
        if min(stop, video.duration_s) - start >= STILL_S
    ]


def _stands_still(video: Video, run: tuple[float, float]) -> bool:
    """Whether frames spread over a run are one picture."""
    start, stop = run
    margin = min(0.25, (stop - start) / 8)
    times = np.linspace(start + margin, stop - margin, PROBES)
    frames, _ = _frames(video, times)
    if frames is None:
        return False
    apart = np.abs(np.diff(frames.astype(np.int16), axis=0))
    mean, most = apart.mean(axis=(1, 2, 3)), apart.max(axis=(1, 2, 3))
    repeated = (mean <= SAME_MEAN) & (most <= SAME_MOST)
    return bool(repeated.mean() >= 0.5 and mean.max() <= ANEW_MEAN)


def _frames(video: Video, times_s: np.ndarray) -> tuple[np.ndarray | None, str]:
    """uint8 [T, 64, 64, 3] at times of the video, or why not."""
    last = max(0.0, video.duration_s - 0.5 / video.fps)
    views = np.zeros(len(times_s), dtype=np.int64)
    wanted = Wanted(Event(video.event, (video,)), views, np.minimum(times_s, last))
    read = VideoReader().read([wanted], (SIDE, SIDE))
    lack = read.lacks[0]
    return (None, lack.error or lack.reason) if lack else (read.frames[0], "")
