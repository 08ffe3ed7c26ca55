"""Pairs of frames at one time from two cameras (TCN, multi-view; Sermanet et al., section 3.1)."""

from __future__ import annotations

import numpy as np

from configs.sampling import ViewPairsSampling
from pipeline.index import Event
from pipeline.sampling.base import MAX_CLOCK_GAP, SampleRequest, target_arrays


class ViewPairsSampler:
    """N distinct times of one event; at each, an anchor from one view, a positive from another.

    Frames: first the N anchors in temporal order, then the positives in the same order. Targets:
    `time_s` [2N] (the event's clock: equal within a pair), `view` [2N]. An event whose common
    range holds fewer than N time steps gives all of them only if they are N; else `too_short`.
    """

    def __init__(self, config: ViewPairsSampling) -> None:
        self.config = config
        self.num_frames = 2 * config.pairs

    def _steps(self, event: Event) -> tuple[np.ndarray, np.ndarray]:
        """The views in use, and the times (event clock) at the middle of frames of the slowest
        view, within the range that all views cover."""
        views = np.array([n for n, v in enumerate(event.videos) if v.frames > 0 and v.fps > 0])
        if len(views) < 2:
            return views, np.empty(0)
        videos = [event.videos[n] for n in views]
        start = max(-v.clock_offset_s / v.clock_rate for v in videos)
        stop = min((v.frames / v.fps - v.clock_offset_s) / v.clock_rate for v in videos)
        slowest = min(videos, key=lambda v: v.fps * v.clock_rate)
        numbers = np.arange(slowest.frames) + 0.5
        times_s = (numbers / slowest.fps - slowest.clock_offset_s) / slowest.clock_rate
        margin = (0.5 - MAX_CLOCK_GAP) / slowest.fps
        return views, times_s[(times_s >= start + margin) & (times_s < stop - margin)]

    def count(self, event: Event) -> tuple[int, str]:
        """`per_event` samples, or why there are none."""
        if len(event.videos) < 2:
            return 0, "missing_view"
        views, times_s = self._steps(event)
        if len(views) < 2:
            return 0, "missing_view"
        if len(times_s) < self.config.pairs:
            return 0, "too_short"
        return self.config.per_event, ""

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw a range, N of its times without replacement, and an ordered pair of views."""
        views, steps = self._steps(event)
        return [self._draw(event, views, steps, rng) for _ in range(self.config.per_event)]

    def _draw(
        self, event: Event, views: np.ndarray, steps: np.ndarray, rng: np.random.Generator
    ) -> SampleRequest:
        pairs = self.config.pairs
        inside = max(pairs, int(np.searchsorted(steps, steps[0] + self.config.window_s)))
        span = min(len(steps), inside)
        first = int(rng.integers(0, len(steps) - span + 1))
        chosen = steps[np.sort(rng.choice(span, pairs, replace=False)) + first]
        if self.config.anchors == "one_view":
            order = np.tile(rng.permutation(len(views))[:2], (pairs, 1))
        else:
            order = rng.permuted(np.tile(np.arange(len(views)), (pairs, 1)), axis=1)[:, :2]
        which = views[np.concatenate([order[:, 0], order[:, 1]])]
        clock = np.concatenate([chosen, chosen])
        offsets = np.array([video.clock_offset_s for video in event.videos])
        rates = np.array([video.clock_rate for video in event.videos])
        times_s = rates[which] * clock + offsets[which]
        return SampleRequest(which, times_s, target_arrays(event, which, times_s))
