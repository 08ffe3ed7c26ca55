"""From compressed video to the frames shown at given times.

`probe` describes a file without decoding it. `read`, `read_plan`, `read_range` and `frames`
decode. Nothing here imports torch or ray.
"""

from marey.pipeline.video.packet_plan import FrameRequest
from marey.pipeline.video.probe import VideoInfo, probe
from marey.pipeline.video.reader import (
    Clip,
    PlanRun,
    RangeFrames,
    frames,
    read,
    read_plan,
    read_range,
)
from marey.pipeline.video.span import Span

__all__ = [
    "Clip",
    "FrameRequest",
    "PlanRun",
    "RangeFrames",
    "Span",
    "VideoInfo",
    "frames",
    "probe",
    "read",
    "read_plan",
    "read_range",
]
