"""Which frames make a sample: pure plans over index rows, one file a family."""

from marey.pipeline.sampling.base import (
    Sampler,
    SampleRequest,
    build_sampler,
    event_rng,
    register_sampler,
)
from marey.pipeline.sampling.clips import ClipsSampler
from marey.pipeline.sampling.frame_pairs import FramePairsSampler
from marey.pipeline.sampling.frames import FramesSampler
from marey.pipeline.sampling.spread import SpreadSampler
from marey.pipeline.sampling.time_pairs import TimePairsSampler
from marey.pipeline.sampling.tuples import TuplesSampler
from marey.pipeline.sampling.view_pairs import ViewPairsSampler

__all__ = [
    "ClipsSampler",
    "FramePairsSampler",
    "FramesSampler",
    "SampleRequest",
    "Sampler",
    "SpreadSampler",
    "TimePairsSampler",
    "TuplesSampler",
    "ViewPairsSampler",
    "build_sampler",
    "event_rng",
    "register_sampler",
]
