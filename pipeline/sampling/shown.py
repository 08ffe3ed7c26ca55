"""Did a sample get the frames that it was planned with, and do they show anything? Where frames are
not evenly spaced it may not: plans go by a video's mean frame rate."""

from __future__ import annotations

import cv2
import numpy as np

from marey.pipeline.sampling.frame_numbers import LEAST_STEP

REPEATED_FRAME = "repeated_frame"
"""Two times of a sample, planned as different frames, are shown by one."""
UNEVEN_SPACING = "uneven_spacing"
"""The frames of a clip are not as far apart as they should be."""
BLANK = "blank"
"""A frame shows nothing."""
TICK_S = 0.001
"""Coarsest clock of common containers (Matroska, FLV), to which frames' beginnings are rounded."""
MAX_SPACING_ERROR = 0.2
"""Share of its spacing by which frames of a clip may be nearer or farther (beside half a frame)."""


def unlike_plan(
    times_s: np.ndarray,
    shown_s: np.ndarray,
    fps: float,
    clip_frames: int = 1,
    *,
    varies: bool = False,
) -> str:
    """Why the frames that one view gave to a sample are not what the plan meant, or empty.

    times_s: float64 [F], what was asked for; shown_s: float64 [F], when the frames that were shown
    then began; fps: the video's mean rate, by which times were planned; clip_frames: how many
    frames in a row are to be evenly spaced, 1 for none; varies: whether the rate is known to vary,
    so that frames do not begin at multiples of its period. Returns `REPEATED_FRAME`,
    `UNEVEN_SPACING` or an empty string.
    """
    period = 1 / fps
    order = np.argsort(times_s)
    times, shown = times_s[order], shown_s[order]
    # runs of times that one frame shows
    starts = np.flatnonzero(np.append(True, np.diff(shown) > 0))
    latest = np.append(starts[1:], len(times)) - 1
    planned_apart = times[latest] - times[starts] > LEAST_STEP * period
    # where one frame ends and the next begins, rounding decides which is shown
    between = np.abs(times[latest] - np.round(times[latest] * fps) * period) < TICK_S
    if (planned_apart & (varies | ~between)).any():
        return REPEATED_FRAME
    wanted, found = (np.diff(t.reshape(-1, clip_frames)) for t in (times_s, shown_s))
    slack = MAX_SPACING_ERROR * wanted + 0.5 * period
    return UNEVEN_SPACING if (np.abs(found - wanted) > slack).any() else ""


def without_contrast(frames: np.ndarray, least: float) -> str:
    """`BLANK` if the brightness of one of the frames, uint8 [F, H, W, 3], has a standard deviation
    below `least`, of 255; else an empty string."""
    for frame in frames if least else ():
        _, deviation = cv2.meanStdDev(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        if deviation[0, 0] < least:
            return BLANK
    return ""
