"""Which packets must be decoded, and in what order, for a set of requests? Pure planning.

All requests on one video are merged. Each run of packets between two keyframes is decoded at most
once, only up to the last frame that someone wants, and runs that nobody wants are skipped.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from marey.pipeline.video.reasons import BEFORE_START, PAST_END
from marey.pipeline.video.span import Span
from marey.pipeline.video.timeline import MAX_TOLERANCE_S, Timeline

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class FrameRequest:
    """Frames that one sample needs from one video.

    request_id: any hashable; comes back with the frames.
    times_s: float64 [T], seconds from the first frame shown, in any order, repeats allowed.
    crop: (x, y, width, height) as fractions of the displayed picture, taken before resizing; None
        is the whole picture.
    span: the part of the file that is the video: times count from its first frame, and no frame
        outside it is shown. None is the whole file.
    """

    request_id: Hashable
    times_s: np.ndarray
    crop: Box | None = None
    span: Span | None = None

    def file_times_s(self) -> np.ndarray:
        """`times_s` as times of the file: float64 [T].

        Those at the very end of a span are moved away from the frame that follows it.
        """
        times_s = np.atleast_1d(np.asarray(self.times_s, dtype=np.float64))
        if self.span is None:
            return times_s
        latest = max(self.span.start_s, self.span.end_s - 2 * MAX_TOLERANCE_S)
        return np.clip(times_s + self.span.start_s, self.span.start_s, latest)


@dataclass(frozen=True, slots=True)
class Run:
    """Packets [start, stop) in decode order; `start` is a keyframe unless the stream has none."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What to decode, and whom each frame is for.

    runs: in decode order.
    wanted: places in shown order, ascending, each once.
    places: for each request, int64 [T] places in shown order; None if the request has failed.
    failures: index of a failed request -> reason.
    """

    runs: list[Run]
    wanted: np.ndarray
    places: list[np.ndarray | None]
    failures: dict[int, str]


def make_plan(timeline: Timeline, requests: Sequence[FrameRequest]) -> Plan:
    """Merge all requests on one video into the shortest list of packet runs."""
    places: list[np.ndarray | None] = []
    failures: dict[int, str] = {}
    for index, request in enumerate(requests):
        found = _frames_of(request, timeline)
        if (found < 0).any():
            failures[index] = BEFORE_START if (found == -1).any() else PAST_END
            places.append(None)
        else:
            places.append(found)
    good = [found for found in places if found is not None]
    wanted = np.unique(np.concatenate(good)) if good else np.empty(0, dtype=np.int64)
    return Plan(plan_runs(timeline, wanted), wanted, places, failures)


def _frames_of(request: FrameRequest, timeline: Timeline) -> np.ndarray:
    """The places that a request wants: int64 [T]; -1 and -2 as `Timeline.frame_at` has them."""
    found = timeline.frame_at(request.file_times_s())
    if request.span is None:
        return found
    first, stop = timeline.places_within(request.span)
    times_s = np.atleast_1d(request.times_s)
    length_s = request.span.end_s - request.span.start_s
    inside = np.clip(found, first, stop - 1) if first < stop else np.full_like(found, -2)
    inside = np.where(found < 0, found, inside)
    inside = np.where(times_s >= length_s + timeline.tolerance_s, -2, inside)
    early = times_s < -timeline.tolerance_s
    return np.where(early | ~np.isfinite(times_s), -1, inside)


def plan_runs(timeline: Timeline, wanted: np.ndarray, keyframes_back: int = 0) -> list[Run]:
    """Runs of packets that hold everything the wanted frames refer to.

    wanted: int64, places in shown order.
    keyframes_back: start this many keyframes earlier than the stream says is needed; for streams
        whose keyframes do not restart the decoder by themselves.
    """
    if len(wanted) == 0:
        return []
    if timeline.by_order:
        return [Run(0, len(timeline.pts))]
    positions = np.sort(timeline.shown[wanted])
    ends = np.sort(timeline.last_packets(wanted))
    starts = group_starts(timeline, positions, keyframes_back)
    runs: list[Run] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        stop = end + 1
        while runs and start <= runs[-1].stop:
            last = runs.pop()
            start, stop = min(start, last.start), max(stop, last.stop)
        runs.append(Run(start, stop))
    return runs


def group_starts(timeline: Timeline, positions: np.ndarray, keyframes_back: int = 0) -> np.ndarray:
    """Where decoding must start for the frame of each packet: int64, the shape of `positions`.

    positions: int64, in decode order. keyframes_back: start so many keyframes earlier.
    """
    keys = np.flatnonzero(timeline.key)
    if len(keys) == 0:
        return np.zeros_like(positions)
    before = np.searchsorted(keys, positions, side="right") - 1
    # A picture that follows a keyframe in the file but is shown before it (open GOP) refers to
    # the group before: start one keyframe earlier.
    leading = (before >= 0) & (timeline.pts[positions] < timeline.pts[keys[np.maximum(before, 0)]])
    before = before - leading - keyframes_back
    return np.where(before >= 0, keys[np.maximum(before, 0)], 0)
