"""Runs of frames at a fixed spacing, one or several of one video in a sample."""

from __future__ import annotations

import numpy as np

from marey.configs.sampling import ClipsSampling
from marey.pipeline.data.events import Event, Video
from marey.pipeline.sampling.base import (
    SampleRequest,
    count_views,
    no_room,
    one_view,
    register_sampler,
)
from marey.pipeline.sampling.frame_numbers import frame_time, shots, spaced, whole_step
from marey.pipeline.sampling.motion_profile import frame_motion, still


@register_sampler(ClipsSampling)
class ClipsSampler:
    """`clips` runs of `num_frames` frames `spacing_s` apart, each within one shot of one view.

    Spacing and gap are the nearest whole numbers of frames, so that motion is even. `anywhere`
    draws every clip for itself, so that they may overlap or lie in different shots; `in_order`
    puts them one after another in one shot. Frames: clip after clip. Targets: `time_s` [F],
    `view` [F].
    """

    def __init__(self, config: ClipsSampling) -> None:
        self.config = config
        self.num_frames = config.clips * config.num_frames

    def _offsets(self, video: Video) -> np.ndarray:
        """Frame numbers of what is drawn as one, from its first frame: a clip, or all in order."""
        config = self.config
        clip = np.arange(config.num_frames) * whole_step(video, config.spacing_s)
        if config.placement == "anywhere":
            return clip
        hop = clip[-1] + whole_step(video, config.gap_s)
        return (np.arange(config.clips)[:, None] * hop + clip).ravel()

    def _starts(self, video: Video) -> tuple[np.ndarray, np.ndarray]:
        """First frames that leave room within a shot, int64 [K], and how often each is drawn."""
        if not video.has_frames:
            return np.empty(0, np.int64), np.empty(0)
        extent = int(self._offsets(video)[-1])
        starts = np.concatenate([np.arange(a, max(a, b - extent)) for a, b in shots(video)])
        if not self.config.motion_weighted:
            return starts, np.ones(len(starts))
        total = np.concatenate([[0.0], np.cumsum(frame_motion(video))])
        return starts, total[starts + extent + 1] - total[starts]

    def _lack(self, video: Video, weights: np.ndarray) -> str:
        if not len(weights) or (video.frames == 1 and self.num_frames > 1):
            return no_room(video)
        if self.config.num_frames > 1 and not spaced(video, self.config.spacing_s):
            return "frame_rate_too_low"
        # a still has single frames, but no two that differ
        unmoving = still(video) and self.num_frames > 1
        return "no_motion" if unmoving or not weights.any() else ""

    def count(self, event: Event) -> tuple[int, str]:
        """`per_video` samples for every view in which the clips fit (and something moves)."""
        lacks = [self._lack(video, self._starts(video)[1]) for video in event.videos]
        return count_views(event, self.config.per_video, lacks)

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw the clips of every sample of every view."""
        requests = []
        for view, video in enumerate(event.videos):
            starts, weights = self._starts(video)
            if self._lack(video, weights):
                continue
            chances = weights / weights.sum()
            for _ in range(self.config.per_video):
                first = starts[self._draw(chances, rng)]
                times_s = frame_time(video, (first[:, None] + self._offsets(video)).ravel())
                requests.append(one_view(event, view, times_s))
        return requests

    def _draw(self, chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Which starts: int64 [clips], or [1] for clips in order. chances: float64 [K]."""
        config, places = self.config, len(chances)
        if config.placement == "in_order":
            return rng.choice(places, 1, p=chances)
        if config.interval_power == 1:
            return rng.choice(places, config.clips, p=chances)
        law = (1 - np.arange(places) / places) ** config.interval_power
        apart = rng.choice(places, p=law / law.sum())
        first = rng.integers(places - apart)
        return rng.permutation([first, first + apart])
