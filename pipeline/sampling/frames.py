"""Samples of one frame each, spread over the time of a video."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from marey.configs.sampling import FramesSampling
from marey.pipeline.data.events import Event
from marey.pipeline.sampling.base import SampleRequest, one_view, register_sampler, usable
from marey.pipeline.sampling.frame_numbers import frame_time


@register_sampler(FramesSampling)
class FramesSampler:
    """`per_video` single frames of every view, one from each of as many equal time bins.

    A video with fewer frames than that gives each of its frames once. Targets: `time_s` [1],
    `view` [1].
    """

    num_frames = 1

    def __init__(self, config: FramesSampling) -> None:
        self.config = config

    def count(self, event: Event) -> tuple[int, str]:
        """Frames drawn from the event in an epoch."""
        reason = usable(event)
        if reason:
            return 0, reason
        return sum(min(self.config.per_video, video.frames) for video in event.videos), ""

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """One frame drawn uniformly from each time bin of each view."""
        requests = []
        for view, video in enumerate(event.videos):
            bins = min(self.config.per_video, video.frames)
            edges = np.linspace(0, video.frames, bins + 1).round().astype(int)
            for low, high in pairwise(edges):
                times_s = np.atleast_1d(frame_time(video, rng.integers(low, high)))
                requests.append(one_view(event, view, times_s))
        return requests
