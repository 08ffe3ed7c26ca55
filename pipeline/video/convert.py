"""How does a decoded picture become a small RGB one?"""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.video.geometry import Geometry


class Converter:
    """Turns decoded pictures into uint8 RGB of a planned geometry."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def into(self, frame: VideoFrame, geometry: Geometry, out: np.ndarray) -> None:
        """Write `frame` into `out`, uint8 [out_height, out_width, 3] RGB, displayed upright."""
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        part = rgb[
            geometry.top : geometry.top + geometry.height,
            geometry.left : geometry.left + geometry.width,
        ]
        height, width = geometry.coded_out
        if part.shape[:2] != (height, width):
            small = VideoFrame.from_ndarray(np.ascontiguousarray(part), format="rgb24")
            part = self._reformatter.reformat(
                small, width, height, interpolation=Interpolation.AREA, threads=1
            ).to_ndarray()
        out[...] = geometry.orientation.apply(part)
