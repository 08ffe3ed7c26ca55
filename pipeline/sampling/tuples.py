"""Ordered and misordered three-frame tuples (Shuffle and Learn; Misra et al. 2016, section 3)."""

from __future__ import annotations

import numpy as np

from marey.configs.sampling import TuplesSampling
from marey.pipeline.data.events import Event, Video
from marey.pipeline.sampling.base import (
    SampleRequest,
    count_views,
    no_room,
    one_view,
    register_sampler,
)
from marey.pipeline.sampling.frame_numbers import frame_time, shots
from marey.pipeline.sampling.motion_profile import frame_motion, still

MIN_GAP_S = 0.2
"""In a short shot span and gap shrink together, the gap to no less than this."""


@register_sampler(TuplesSampling)
class TuplesSampler:
    """Tuples (b, c, d) in order, or (b, a, d) and (b, e, d) with a before b or e after d.

    Only the middle frame tells them apart: b and d have one law whatever the label. Windows of
    high motion are drawn more often. Every tuple is reversed with probability 1/2, which keeps
    its label. With `inner` c follows as a fourth frame (of a tuple in order once more its middle,
    which is decoded once). Targets: `label` [] (1: in order), `time_s` [F], `view` [F], F 3 or 4.
    """

    def __init__(self, config: TuplesSampling) -> None:
        self.config = config
        self.num_frames = 4 if config.inner else 3

    def _fit(self, video: Video, length: int) -> tuple[int, int] | None:
        """(span, gap) in frames that fit a shot of that length, or None."""
        span = self.config.max_span_s * video.fps
        gap = self.config.min_gap_s * video.fps
        shrink = min(1.0, (length - 1) / (span + gap))
        if shrink < 1 and gap * shrink < MIN_GAP_S * video.fps:
            return None
        # never a nearer negative than the setting says, whatever the frame rate
        gap_frames = max(1, int(np.ceil(gap * shrink - 1e-6)))
        span_frames = min(int(span * shrink + 1e-6), length - 1 - gap_frames)
        # c needs room strictly between b and d even in the shortest tuple
        return (span_frames, gap_frames) if span_frames >= 4 else None

    def _windows(self, video: Video) -> list[tuple[int, int, int, int, float]]:
        """Windows to draw from: [first, stop), span, gap, weight (summed motion)."""
        windows = []
        if not video.has_frames:
            return windows
        motion = frame_motion(video) if self.config.motion_weighted else np.ones(video.frames)
        total = np.concatenate([[0.0], np.cumsum(motion)])
        for first, stop in shots(video):
            fit = self._fit(video, stop - first)
            if fit is None:
                continue
            length = min(stop - first, fit[0] + 2 * fit[1] + 1)
            hop = max(1, length // 4)
            # the last window ends with the shot
            for start in sorted({*range(first, stop - length, hop), stop - length}):
                weight = float(total[start + length] - total[start])
                windows.append((start, start + length, *fit, weight))
        return windows

    def count(self, event: Event) -> tuple[int, str]:
        """`per_video` tuples for every view that is long enough and moves."""
        lacks = [_lack(video, self._windows(video)) for video in event.videos]
        return count_views(event, self.config.per_video, lacks)

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw windows by motion, tuples by the paper's inequalities, labels by their share."""
        requests = []
        for view, video in enumerate(event.videos):
            windows = self._windows(video)
            if _lack(video, windows):
                continue
            weights = np.array([weight for *_, weight in windows])
            for _ in range(self.config.per_video):
                first, stop, span, gap, _w = windows[
                    rng.choice(len(windows), p=weights / weights.sum())
                ]
                positive = rng.random() >= self.config.negative_share
                numbers, inner = _draw(first, stop, span, gap, positive, rng)
                if rng.random() < 0.5:
                    numbers = numbers[::-1]
                if self.config.inner:
                    numbers = np.append(numbers, inner)
                label = np.array(positive, dtype=np.int64)
                requests.append(one_view(event, view, frame_time(video, numbers), label=label))
        return requests


def _lack(video: Video, windows: list[tuple[int, int, int, int, float]]) -> str:
    if not windows:
        return no_room(video)
    moving = not still(video) and any(weight > 0 for *_, weight in windows)
    return "" if moving else "no_motion"


def _draw(
    first: int, stop: int, span: int, gap: int, positive: bool, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Frame numbers [3] of a tuple, and that of its c, of five frames a < b < c < d < e.

    All lie inside [first, stop). d - b is uniform in [span/2, span]; c keeps a quarter of it from
    either end; a lies `gap` to `span` frames before b, e as far behind d (rounding may leave `gap`
    alone, where the two are nearly equal). Of a and e at least one has room. b and d are drawn in
    the same way whatever the middle will be, so that they alone tell nothing.
    """
    longest = min(span, stop - first - 1 - gap)
    distance = int(rng.integers(max(4, min(span // 2, longest)), max(longest, 4) + 1))
    starts = np.arange(first, stop - distance)
    roomy = (starts >= first + gap) | (starts + distance + gap < stop)
    b = int(rng.choice(starts[roomy]))
    d = b + distance
    quarter = max(1, distance // 4)
    c = int(rng.integers(b + quarter, d - quarter + 1))
    outside, reach = [], max(gap, span)
    if b - gap >= first:
        outside.append(int(rng.integers(max(first, b - reach), b - gap + 1)))
    if d + gap < stop:
        outside.append(int(rng.integers(d + gap, min(stop - 1, d + reach) + 1)))
    middle = c if positive else outside[int(rng.integers(len(outside)))]
    return np.array([b, middle, d]), c
