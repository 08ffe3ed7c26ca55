"""Frames as an MP4 file (H.264) that players and browsers show."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np

_TICK = Fraction(1, 90_000)
"""Unit of time of the video that is written, in seconds."""


def encode_mp4(frames: np.ndarray, times_s: np.ndarray) -> bytes:
    """A video in which each frame is shown as long as `times_s` say.

    frames: uint8 [T, H, W, 3] RGB, T at least 2; an odd last row or column is left out. times_s:
    float64 [T], ascending, seconds.
    """
    buffer = io.BytesIO()
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    with av.open(buffer, "w", format="mp4") as container:
        fps = (len(times_s) - 1) / (times_s[-1] - times_s[0])
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.codec_context.time_base = _TICK
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame, time_s in zip(frames, times_s - times_s[0], strict=True):
            image = np.ascontiguousarray(frame[:height, :width])
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = round(float(time_s) / _TICK), _TICK
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()
