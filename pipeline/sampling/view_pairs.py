"""Pairs of frames at one time from two cameras (TCN, multi-view; Sermanet et al., section 3.1)."""

from __future__ import annotations

import numpy as np

from marey.configs.sampling import ViewPairsSampling
from marey.pipeline.data.events import Event, Video
from marey.pipeline.sampling.base import (
    SampleRequest,
    no_room,
    register_sampler,
    target_arrays,
)
from marey.pipeline.sampling.frame_numbers import shots
from marey.pipeline.sampling.motion_profile import still
from marey.pipeline.sampling.stacks import stack_spaced, stack_step_s, stacked

MAX_CLOCK_GAP = 0.5
"""Synchronised views count as simultaneous within this share of a frame period."""


@register_sampler(ViewPairsSampling)
class ViewPairsSampler:
    """N distinct times of one event; at each, an anchor from one view, a positive from another.

    With more than two views the pair is any ordered pair of those that show the time, or always
    the first two (`first_view`). Times of one sample lie farther apart than a stack is long.
    Frames: first the N anchors in temporal order, then the positives in the same order; in place
    of each its stack, in order. Targets: `time_s` [F] (the event's clock: equal within a pair, of
    stacks at their last frames), `view` [F] with F = 2N `stack`.

    An event with one view gives nothing (`missing_view`), nor does one where fewer than N such
    times are seen by two views (`too_short`, `single_frame`) or none shows any motion
    (`no_motion`), but for a single pair.
    """

    def __init__(self, config: ViewPairsSampling) -> None:
        self.config = config
        self.num_frames = 2 * config.pairs * config.stack

    def count(self, event: Event) -> tuple[int, str]:
        """`per_event` samples, or why there are none."""
        fixed = self.config.anchors == "first_view"
        wanted = event.videos[:2] if fixed else event.videos
        live = [video for video in wanted if video.has_frames]
        if len(live) < 2:
            return 0, "missing_view"
        if sum(stack_spaced(video, self.config) for video in live) < 2:
            return 0, "frame_rate_too_low"
        times_s, covered = self._steps(event)
        needed = (self.config.pairs - 1) * self._gap(event, times_s) + 1
        if self.config.anchors == "any_view":
            enough = len(times_s) >= needed
        else:
            enough = len(self._view_pairs(covered, needed)) > 0
        if not enough:
            return 0, no_room(max(live, key=lambda video: video.frames))
        # two cameras show a still too, but no other time that differs
        if self.config.pairs > 1 and all(map(still, live)):
            return 0, "no_motion"
        return self.config.per_event, ""

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Draw a range, N of its times, and an ordered pair of views that show them."""
        times_s, covered = self._steps(event)
        gap = self._gap(event, times_s)
        return [self._draw(event, times_s, covered, gap, rng) for _ in range(self.config.per_event)]

    def _steps(self, event: Event) -> tuple[np.ndarray, np.ndarray]:
        """Times in the event's clock that at least two views show, float64 [T], and which views
        show them with their whole stacks, bool [V, T].

        Times lie at the middle of frames of the slowest view.
        """
        live = [video for video in event.videos if video.has_frames]
        slowest = min(live, key=lambda v: v.fps * v.clock_rate)
        start = min(video.event_time(0.0) for video in live)
        stop = max(video.event_time(video.frames / video.fps) for video in live)
        edges = slowest.shown_at(np.array([start, stop])) * slowest.fps
        numbers = np.arange(np.floor(edges[0]), np.ceil(edges[1])) + 0.5
        times_s = slowest.event_time(numbers / slowest.fps)
        margin = (0.5 - MAX_CLOCK_GAP) / slowest.fps
        covered = np.stack([self._covered(video, times_s, margin) for video in event.videos])
        seen = covered.sum(axis=0) >= 2
        return times_s[seen], covered[:, seen]

    def _covered(self, video: Video, times_s: np.ndarray, margin: float) -> np.ndarray:
        """bool [T]: the view shows the time, and the stack that ends there lies in one shot."""
        covered = np.zeros(len(times_s), dtype=bool)
        if not video.has_frames or not stack_spaced(video, self.config):
            return covered
        whole = [(0, video.frames)] if self.config.stack == 1 else shots(video)
        for first, stop in whole:
            low = video.event_time(first / video.fps)
            high = video.event_time(stop / video.fps)
            earliest = times_s - self._look_back_s(video)
            covered |= (earliest >= low + margin) & (times_s < high - margin)
        return covered

    def _look_back_s(self, video: Video) -> float:
        """From the first frame of the view's stacks to their last, in the event's clock."""
        return (self.config.stack - 1) * stack_step_s(video, self.config) / video.clock_rate

    def _gap(self, event: Event, times_s: np.ndarray) -> int:
        """Steps between two times of a sample: the fewest that are longer than any view's stack,
        and than the setting, by which methods tell which times repel each other."""
        if self.config.stack == 1 or len(times_s) < 2:
            return 1
        longest_s = max(self.config.look_back_s, *map(self._look_back_s, event.videos))
        return int(longest_s / np.diff(times_s).min() + 1e-6) + 1

    def _draw(
        self,
        event: Event,
        times_s: np.ndarray,
        covered: np.ndarray,
        gap: int,
        rng: np.random.Generator,
    ) -> SampleRequest:
        pairs = self.config.pairs
        needed = (pairs - 1) * gap + 1
        chosen_views = None
        if self.config.anchors != "any_view":
            possible = self._view_pairs(covered, needed)
            chosen_views = possible[rng.integers(len(possible))]
            both = covered[chosen_views].all(axis=0)
            times_s, covered = times_s[both], covered[:, both]
        first, span = self._window(times_s, needed, rng)
        # uniform over all choices that keep the gap
        places = np.sort(rng.choice(span - (pairs - 1) * (gap - 1), pairs, replace=False))
        places += first + np.arange(pairs) * (gap - 1)
        if chosen_views is None:
            order = rng.permuted(np.tile(np.arange(len(covered)), (pairs, 1)), axis=1)
            hidden = ~covered[order, places[:, None]]
            order = np.take_along_axis(order, np.argsort(hidden, axis=1, kind="stable"), axis=1)
        else:
            order = np.tile(chosen_views, (pairs, 1))
        ends = np.concatenate([order[:, 0], order[:, 1]])
        stack = self.config.stack
        views = ends.repeat(stack)
        clock = np.concatenate([times_s[places]] * 2)
        offsets = np.array([video.clock_offset_s for video in event.videos])
        rates = np.array([video.clock_rate for video in event.videos])
        steps_s = np.array([stack_step_s(video, self.config) for video in event.videos])
        own_times_s = stacked(rates[ends] * clock + offsets[ends], steps_s[ends], stack)
        return SampleRequest(views, own_times_s, target_arrays(event, views, own_times_s))

    def _view_pairs(self, covered: np.ndarray, needed: int) -> np.ndarray:
        """int64 [P, 2]: ordered pairs of different views that show `needed` times together."""
        together = covered.astype(np.int64) @ covered.T.astype(np.int64)
        np.fill_diagonal(together, 0)
        enough = together >= needed
        if self.config.anchors == "first_view":
            enough[1:] = enough[:, 2:] = False
        return np.argwhere(enough)

    def _window(
        self, times_s: np.ndarray, needed: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        """First step and number of steps of a range of `window_s`, more if that holds too few.

        Any step may begin a range that holds enough, also one with a gap in it (a cut, or a camera
        that misses a stretch), up to the first from which the range reaches the last step: later
        ones would be shorter, and the steps before them rarer than the last.
        """
        ends = np.searchsorted(times_s, times_s + self.config.window_s - 1e-6)
        starts = np.arange(np.searchsorted(ends, len(times_s)) + 1)
        sizes = ends[starts] - starts
        enough = starts[sizes >= needed]
        if not len(enough):
            return int(rng.integers(len(times_s) - needed + 1)), needed
        first = int(rng.choice(enough))
        return first, int(sizes[first])
