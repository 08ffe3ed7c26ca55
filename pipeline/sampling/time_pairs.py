"""Pairs of frames close in time within one view (TCN, single-view; Sermanet et al., 3.1)."""

from __future__ import annotations

import math
from math import lgamma

import numpy as np

from marey.configs.sampling import TimePairsSampling
from marey.pipeline.data.events import Event, Video
from marey.pipeline.sampling.base import (
    SampleRequest,
    count_views,
    no_room,
    one_view,
    register_sampler,
)
from marey.pipeline.sampling.frame_numbers import draw_near, frame_time, frames_within
from marey.pipeline.sampling.motion_profile import still
from marey.pipeline.sampling.stacks import stack_runs, stack_spaced, stack_step_s, stacked


@register_sampler(TimePairsSampling)
class TimePairsSampler:
    """N anchors and a positive for each, all from one range of one shot of one view.

    Anchors are distinct frames, the first and the last more than `negative_s` apart, so that every
    sample has negatives; the positive of anchor t is another frame t' with
    0 < |t - t'| <= `positive_s`. Frames: first the N anchors in temporal order, then their
    positives; in place of each its stack, in order. Targets: `time_s` [F], `view` [F] with
    F = 2N `stack`.
    """

    def __init__(self, config: TimePairsSampling) -> None:
        self.config = config
        self.num_frames = 2 * config.pairs * config.stack

    def _windows(self, video: Video) -> list[tuple[int, int]]:
        """Shots long enough for N anchors with negatives: [first, stop) of frames that have room
        for their stacks."""
        if not video.has_frames:
            return []
        needed = max(self.config.pairs, math.ceil(self.config.negative_s * video.fps) + 2)
        return stack_runs(video, self.config, needed)

    def _reach(self, video: Video) -> int:
        return frames_within(video, self.config.positive_s)

    def _lack(self, video: Video, windows: list[tuple[int, int]]) -> str:
        if not windows:
            return no_room(video)
        if self._reach(video) < 1 or not stack_spaced(video, self.config):
            return "frame_rate_too_low"
        return "no_motion" if still(video) else ""

    def count(self, event: Event) -> tuple[int, str]:
        """`per_video` samples for each view that has a long enough shot."""
        lacks = [self._lack(video, self._windows(video)) for video in event.videos]
        return count_views(event, self.config.per_video, lacks)

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw a shot by its length, a range in it, anchors without replacement, positives."""
        requests = []
        for view, video in enumerate(event.videos):
            windows = self._windows(video)
            if self._lack(video, windows):
                continue
            step_s = stack_step_s(video, self.config)
            for _ in range(self.config.per_video):
                numbers = self._draw(video, windows, rng)
                times_s = stacked(frame_time(video, numbers), step_s, self.config.stack)
                requests.append(one_view(event, view, times_s))
        return requests

    def _draw(
        self, video: Video, windows: list[tuple[int, int]], rng: np.random.Generator
    ) -> np.ndarray:
        """Frame numbers of the anchors and of their positives, int64 [2N]."""
        apart = frames_within(video, self.config.negative_s) + 1
        lengths = np.array([stop - first for first, stop in windows], dtype=np.float64)
        first, stop = windows[rng.choice(len(windows), p=lengths / lengths.sum())]
        wanted = max(self.config.pairs, apart + 1, int(self.config.window_s * video.fps))
        span = min(stop - first, wanted)
        first = int(rng.integers(first, stop - span + 1))
        anchors = np.sort(rng.choice(span, self.config.pairs, replace=False))
        if anchors[-1] - anchors[0] < apart:
            anchors = _far_apart(span, self.config.pairs, apart, rng)
        anchors += first
        near = draw_near(anchors, self._reach(video), first, first + span, rng)
        return np.concatenate([anchors, near])


def _far_apart(span: int, count: int, apart: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of `span` frames in order, int64 [count], uniformly drawn from all choices whose
    first and last lie `apart` or more from each other."""
    extents = np.arange(max(apart, count - 1), span)
    # for each extent the places of the first frame, times the choices of those in between
    chances = np.log(span - extents) + [lgamma(e) - lgamma(e - count + 2) for e in extents]
    chances = np.exp(chances - chances.max())
    extent = int(rng.choice(extents, p=chances / chances.sum()))
    between = np.sort(rng.choice(extent - 1, count - 2, replace=False)) + 1
    return np.concatenate([[0], between, [extent]]) + rng.integers(span - extent)
