"""How generated frames become a video: the same frames give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def encode_frames(path: Path, frames: Iterable[NDArray[np.uint8]], *, fps: int, size: int) -> None:
    """Write an H.264 video with B-frames; `path` appears once it is whole.

    frames: each uint8 [size, size, 3] RGB; size: an even number of pixels.
    """
    unfinished = path.with_suffix(".part")
    with av.open(unfinished, "w", format="mp4") as container:
        # one thread, no macroblock tree: with either, the bytes may differ from run to run
        options = {"preset": "fast", "crf": "20", "bf": "2", "g": str(2 * fps)}
        options["x264-params"] = "mbtree=0"
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    unfinished.replace(path)
