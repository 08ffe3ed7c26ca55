"""Frames spread over the whole of a video or shot (TCC; Dwibedi et al. 2019, section 4)."""

from __future__ import annotations

import numpy as np

from marey.configs.sampling import SpreadSampling
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
from marey.pipeline.sampling.stacks import (
    stack_reach,
    stack_runs,
    stack_spaced,
    stack_step_s,
    stacked,
)


@register_sampler(SpreadSampling)
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
        # with positives a frame needs another one beside it
        return stack_runs(video, self.config, 1 if self.config.positive_s is None else 2)

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

    def _lack(self, video: Video, ranges: list[tuple[int, int, np.ndarray]]) -> str:
        if not ranges:
            return no_room(video)
        near_s = self.config.positive_s
        alone = near_s is not None and frames_within(video, near_s) < 1
        if alone or not stack_spaced(video, self.config):
            return "frame_rate_too_low"
        return "no_motion" if still(video) else ""

    def count(self, event: Event) -> tuple[int, str]:
        """`per_video` samples for every view that has enough frames."""
        lacks = [self._lack(video, self._ranges(video)) for video in event.videos]
        return count_views(event, self.config.per_video, lacks)

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw a range by its length, one frame of each of its parts, and positives."""
        requests = []
        for view, video in enumerate(event.videos):
            ranges = self._ranges(video)
            if self._lack(video, ranges):
                continue
            step_s = stack_step_s(video, self.config)
            sizes = np.array([len(frames) for _, _, frames in ranges], dtype=np.float64)
            for _ in range(self.config.per_video):
                first, stop, frames = ranges[rng.choice(len(ranges), p=sizes / sizes.sum())]
                edges = np.linspace(0, len(frames), self.config.num_frames + 1).round().astype(int)
                numbers = frames[rng.integers(edges[:-1], edges[1:])]
                progress = (numbers + 0.5 - first) / (stop - first)
                if self.config.positive_s is not None:
                    reach = frames_within(video, self.config.positive_s)
                    numbers = np.concatenate([numbers, self._near(video, numbers, reach, rng)])
                times_s = stacked(frame_time(video, numbers), step_s, self.config.stack)
                progress = progress.astype(np.float32)
                requests.append(one_view(event, view, times_s, progress=progress))
        return requests

    def _near(
        self, video: Video, numbers: np.ndarray, reach: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Another eligible frame of the same shot within `reach` of each, uniformly drawn."""
        runs = np.array(self._runs(video))
        run = runs[np.searchsorted(runs[:, 0], numbers, side="right") - 1]
        return draw_near(numbers, reach, run[:, 0], run[:, 1], rng)
