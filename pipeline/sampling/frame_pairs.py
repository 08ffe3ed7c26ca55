"""Two frames of one shot at a random distance in time (SiamMAE, arXiv 2305.14344)."""

from __future__ import annotations

import numpy as np

from marey.configs.sampling import FramePairsSampling
from marey.pipeline.data.events import Event, Video
from marey.pipeline.sampling.base import (
    SampleRequest,
    count_views,
    no_room,
    one_view,
    register_sampler,
)
from marey.pipeline.sampling.frame_numbers import frame_time, shots, whole_step
from marey.pipeline.sampling.motion_profile import still


@register_sampler(FramePairsSampling)
class FramePairsSampler:
    """A frame and a later one of the same shot of one view.

    Their distance is a whole number of frames, uniform over those within the bounds that some shot
    has room for; the first frame is uniform over those that leave room for it. Targets: `time_s`
    [2], `view` [2].
    """

    num_frames = 2

    def __init__(self, config: FramePairsSampling) -> None:
        self.config = config

    def _gaps(self, video: Video) -> np.ndarray:
        """Distances in frames that fit into some shot, int64 [K]."""
        longest = max((b - a - 1 for a, b in shots(video)), default=0) if video.has_frames else 0
        low = whole_step(video, self.config.min_gap_s) if video.has_frames else 1
        high = int(self.config.max_gap_s * video.fps + 0.5) if video.has_frames else 0
        return np.arange(low, min(max(low, high), longest) + 1)

    def _lack(self, video: Video, gaps: np.ndarray) -> str:
        if not len(gaps):
            return no_room(video)
        if self.config.max_gap_s * video.fps < 0.5:
            return "frame_rate_too_low"
        return "no_motion" if still(video) else ""

    def count(self, event: Event) -> tuple[int, str]:
        """`per_video` samples for every view that has room for two such frames."""
        lacks = [self._lack(video, self._gaps(video)) for video in event.videos]
        return count_views(event, self.config.per_video, lacks)

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw a distance, and then where the pair begins."""
        requests = []
        for view, video in enumerate(event.videos):
            gaps = self._gaps(video)
            if self._lack(video, gaps):
                continue
            for _ in range(self.config.per_video):
                gap = int(rng.choice(gaps))
                starts = np.concatenate([np.arange(a, max(a, b - gap)) for a, b in shots(video)])
                first = int(rng.choice(starts))
                times_s = frame_time(video, np.array([first, first + gap]))
                requests.append(one_view(event, view, times_s))
        return requests
