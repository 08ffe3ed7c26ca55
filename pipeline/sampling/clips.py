"""Runs of frames at a fixed spacing, one or several of one video in a sample."""

from __future__ import annotations

import numpy as np

from configs.sampling import ClipsSampling
from pipeline.index import Event, Video
from pipeline.sampling.base import SampleRequest, shots, target_arrays, usable


class ClipsSampler:
    """`clips` runs of `num_frames` frames `spacing_s` apart, each within one shot of one view.

    Starts are drawn uniformly over all places that fit, independently, so that clips of one
    sample may overlap. Frames: clip after clip. Targets: `time_s` [F], `view` [F].
    """

    def __init__(self, config: ClipsSampling) -> None:
        self.config = config
        self.num_frames = config.clips * config.num_frames

    def _starts(self, video: Video) -> list[tuple[float, float]]:
        """Ranges of start times, in seconds, from which a clip fits into a shot."""
        if video.frames <= 0 or video.fps <= 0:
            return []
        length = (self.config.num_frames - 1) * self.config.spacing_s
        half = 0.5 / video.fps
        ranges = [(a / video.fps + half, b / video.fps - half - length) for a, b in shots(video)]
        return [(low, high) for low, high in ranges if high >= low]

    def _spaced(self, video: Video) -> bool:
        # closer than a frame apart would repeat frames, which no clip may
        return self.config.num_frames == 1 or self.config.spacing_s * video.fps >= 0.999

    def count(self, event: Event) -> tuple[int, str]:
        """`per_video` samples for every view in which a clip fits."""
        reason = usable(event)
        if reason:
            return 0, reason
        fit = [v for v in event.videos if self._starts(v)]
        if not fit:
            return 0, "too_short"
        spaced = [v for v in fit if self._spaced(v)]
        return (len(spaced) * self.config.per_video, "" if spaced else "frame_rate_too_low")

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw the clips of every sample of every view."""
        offsets = np.arange(self.config.num_frames) * self.config.spacing_s
        requests = []
        for view, video in enumerate(event.videos):
            ranges = self._starts(video)
            if not ranges or not self._spaced(video):
                continue
            lengths = np.array([high - low for low, high in ranges]) + 1 / video.fps
            for _ in range(self.config.per_video):
                chosen = rng.choice(len(ranges), self.config.clips, p=lengths / lengths.sum())
                starts = [rng.uniform(*ranges[n]) for n in chosen]
                times_s = np.concatenate([start + offsets for start in starts])
                views = np.full(self.num_frames, view)
                requests.append(SampleRequest(views, times_s, target_arrays(event, views, times_s)))
        return requests
