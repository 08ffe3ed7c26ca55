"""Frames spread over the whole of a video or shot (TCC; Dwibedi et al. 2019, section 4)."""

from __future__ import annotations

import numpy as np

from configs.sampling import SpreadSampling
from pipeline.index import Event, Video
from pipeline.sampling.base import (
    SampleRequest,
    frame_time,
    shots,
    stack_reach,
    stack_spaced,
    stacked,
    target_arrays,
    usable,
)


class SpreadSampler:
    """N frames of one view in temporal order, one drawn uniformly from each of N equal parts.

    Frames: the N, then with `positive_s` another one near each of them; in place of each its
    stack. Targets: `time_s` [F], `view` [F], and `progress` float32 [N], the place of each of
    the N in its video or shot, in (0, 1).
    """

    def __init__(self, config: SpreadSampling) -> None:
        self.config = config
        self.num_frames = config.num_frames * config.stack * (1 if config.positive_s is None else 2)

    def _runs(self, video: Video) -> list[tuple[int, int]]:
        """Runs [first, stop) of frames of one shot whose stacks stay in it."""
        if video.frames <= 0 or video.fps <= 0:
            return []
        reach = stack_reach(video, self.config)
        # with positives a frame needs another one beside it
        least = 1 if self.config.positive_s is None else 2
        return [(a + reach, b) for a, b in shots(video) if b - a - reach >= least]

    def _ranges(self, video: Video) -> list[tuple[int, int, np.ndarray]]:
        """What a sample may span: [first, stop) of the video or shot, and its eligible frames."""
        runs = self._runs(video)
        if self.config.within == "shot":
            reach = stack_reach(video, self.config)
            ranges = [(a - reach, b, np.arange(a, b)) for a, b in runs]
        else:
            frames = [np.arange(a, b) for a, b in runs]
            ranges = [(0, video.frames, np.concatenate(frames))] if frames else []
        return [r for r in ranges if len(r[2]) >= self.config.num_frames]

    def _fast_enough(self, video: Video) -> bool:
        near = self.config.positive_s
        return stack_spaced(video, self.config) and (near is None or _reach(video, near) >= 1)

    def count(self, event: Event) -> tuple[int, str]:
        """`per_video` samples for every view that has enough frames."""
        reason = usable(event)
        if reason:
            return 0, reason
        fit = [video for video in event.videos if self._ranges(video)]
        if not fit:
            return 0, "too_short"
        fast = sum(self._fast_enough(video) for video in fit)
        return fast * self.config.per_video, "" if fast else "frame_rate_too_low"

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw a range by its length, one frame of each of its parts, and positives."""
        requests = []
        for view, video in enumerate(event.videos):
            ranges = self._ranges(video)
            if not ranges or not self._fast_enough(video):
                continue
            sizes = np.array([len(frames) for _, _, frames in ranges], dtype=np.float64)
            for _ in range(self.config.per_video):
                first, stop, frames = ranges[rng.choice(len(ranges), p=sizes / sizes.sum())]
                edges = np.linspace(0, len(frames), self.config.num_frames + 1).round().astype(int)
                numbers = frames[rng.integers(edges[:-1], edges[1:])]
                progress = (numbers + 0.5 - first) / (stop - first)
                if self.config.positive_s is not None:
                    near = self._near(video, numbers, _reach(video, self.config.positive_s), rng)
                    numbers = np.concatenate([numbers, near])
                times_s = stacked(frame_time(video, numbers), self.config)
                views = np.full(len(times_s), view)
                targets = target_arrays(event, views, times_s)
                targets["progress"] = progress.astype(np.float32)
                requests.append(SampleRequest(views, times_s, targets))
        return requests

    def _near(
        self, video: Video, numbers: np.ndarray, reach: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Another eligible frame of the same shot within `reach` of each, uniformly drawn."""
        runs = np.array(self._runs(video))
        run = runs[np.searchsorted(runs[:, 0], numbers, side="right") - 1]
        near = rng.integers(
            np.maximum(numbers - reach, run[:, 0]), np.minimum(numbers + reach, run[:, 1] - 1)
        )
        return near + (near >= numbers)


def _reach(video: Video, within_s: float) -> int:
    return int(within_s * video.fps + 1e-6)
