"""Pairs of frames close in time within one view (TCN, single-view; Sermanet et al., 3.1)."""

from __future__ import annotations

import numpy as np

from configs.sampling import TimePairsSampling
from pipeline.index import Event, Video
from pipeline.sampling.base import SampleRequest, count_views, one_view
from pipeline.sampling.frame_numbers import draw_near, frame_time, frames_within
from pipeline.sampling.stacks import stack_runs, stack_spaced, stack_step_s, stacked


class TimePairsSampler:
    """N anchors and a positive for each, all from one range of one shot of one view.

    Anchors are distinct frames; the positive of anchor t is another frame t' with
    0 < |t - t'| <= `positive_s`. Every sample's range reaches over more than `negative_s`, so
    that negatives exist. Frames: first the N anchors in temporal order, then their positives; in
    place of each its stack, in order. Targets: `time_s` [F], `view` [F] with F = 2N `stack`.
    """

    def __init__(self, config: TimePairsSampling) -> None:
        self.config = config
        self.num_frames = 2 * config.pairs * config.stack

    def _windows(self, video: Video) -> list[tuple[int, int]]:
        """Shots long enough for N anchors with negatives: [first, stop) of frames that have room
        for their stacks."""
        if not video.has_frames:
            return []
        needed = max(self.config.pairs, int(np.ceil(self.config.negative_s * video.fps)) + 2)
        return stack_runs(video, self.config, needed)

    def _reach(self, video: Video) -> int:
        return frames_within(video, self.config.positive_s)

    def _lack(self, video: Video, windows: list[tuple[int, int]]) -> str:
        if not windows:
            return "too_short"
        fast = self._reach(video) >= 1 and stack_spaced(video, self.config)
        return "" if fast else "frame_rate_too_low"

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
                numbers = self._draw(windows, self._reach(video), video.fps, rng)
                times_s = stacked(frame_time(video, numbers), step_s, self.config.stack)
                requests.append(one_view(event, view, times_s))
        return requests

    def _draw(
        self, windows: list[tuple[int, int]], reach: int, fps: float, rng: np.random.Generator
    ) -> np.ndarray:
        lengths = np.array([stop - first for first, stop in windows], dtype=np.float64)
        first, stop = windows[rng.choice(len(windows), p=lengths / lengths.sum())]
        span = min(stop - first, max(self.config.pairs, int(self.config.window_s * fps)))
        first = int(rng.integers(first, stop - span + 1))
        anchors = np.sort(rng.choice(span, self.config.pairs, replace=False)) + first
        return np.concatenate([anchors, draw_near(anchors, reach, first, first + span, rng)])
