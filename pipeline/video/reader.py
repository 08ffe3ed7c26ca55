"""The frames shown at given times: one request, all requests on a video, a range, a fixed rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from marey.configs.errors import InputError, SettingError
from marey.pipeline.video.backends import VideoDecoder, open_decoder
from marey.pipeline.video.container import deadline_after
from marey.pipeline.video.fit import Fit, Size, check_box, check_size
from marey.pipeline.video.packet_plan import Box, FrameRequest, Plan, make_plan
from marey.pipeline.video.reasons import DAMAGED, DECODE_GAP, TIMEOUT, VideoError, reason_of
from marey.pipeline.video.span import Span
from marey.pipeline.video.stats import DecodeStats
from marey.pipeline.video.timeline import Timeline
from marey.pipeline.video.windows import NEAR_S


class Clip(NamedTuple):
    """What one request receives.

    frames: uint8 [T, H, W, 3] RGB, upright, in the order of the request's times.
    shown_s: float64 [T], when each frame starts to be shown, as the request's times count.
    """

    request_id: Hashable
    frames: np.ndarray
    shown_s: np.ndarray


class RangeFrames(NamedTuple):
    """The frames of a range.

    frames: uint8 [T, H, W, 3] RGB, upright. shown_s: float64 [T], when each starts to be shown.
    lost: the same time of each frame of the range that could not be had -> why.
    """

    frames: np.ndarray
    shown_s: np.ndarray
    lost: dict[float, str]


class PlanRun(Iterator[Clip]):
    """All requests on one video, delivered as each is complete. See `read_plan`.

    stats: counts so far; final when the iteration has ended.
    failures: request_id -> reason, for the requests that get no frames.
    error: why the whole file failed, if it did.
    """

    def __init__(
        self,
        uri: str,
        requests: Sequence[FrameRequest],
        size: Size,
        *,
        backend: str,
        stream: int,
        fit: Fit,
        threads: int,
        time_limit_s: float | None,
        sound: bool,
    ) -> None:
        self.stats = DecodeStats()
        self.failures: dict[Hashable, str] = {}
        self.error: str | None = None
        self._uri = uri
        self._requests = list(requests)
        self._size = size
        self._fit: Fit = fit
        self._deadline = deadline_after(time_limit_s)
        self._open = (backend, stream, threads)
        self._sound = sound
        self._clips: Generator[Clip] = self._run()

    def __iter__(self) -> PlanRun:
        return self

    def __next__(self) -> Clip:
        return next(self._clips)

    def close(self) -> None:
        """Stop early and release the file; requests not delivered yet are not reported."""
        self._clips.close()

    def _run(self) -> Generator[Clip]:
        announced = [request.file_times_s() for request in self._requests]
        times_s = np.concatenate(announced) if announced else np.empty(0)
        partial = yield from self._pass(self._requests, times_s)
        if partial and self.failures:
            # Around what is missing the file is not what its header promised: look at all of it.
            left = [r for r in self._requests if r.request_id in self.failures]
            self.failures = {}
            yield from self._pass(left, None)

    def _pass(
        self, requests: list[FrameRequest], times_s: np.ndarray | None
    ) -> Generator[Clip, None, bool]:
        """Serve requests with one decoder; returns whether it knew the file in part only."""
        backend, stream, threads = self._open
        try:
            decoder = open_decoder(
                self._uri,
                backend,
                stream,
                threads,
                self._deadline,
                self.stats,
                times_s,
                self._sound,
            )
        except InputError as error:
            self.error = str(error)
            self.failures = {request.request_id: reason_of(error) for request in requests}
            return False
        with decoder:
            plan = make_plan(decoder.timeline, requests)
            for index, reason in plan.failures.items():
                self.failures[requests[index].request_id] = reason
            try:
                yield from self._deliver(decoder, plan, requests)
            except VideoError as error:  # the file stopped being read on the way
                self.error = str(error)
                return False
            return decoder.partial and not decoder.timed_out

    def _deliver(
        self, decoder: VideoDecoder, plan: Plan, requests: list[FrameRequest]
    ) -> Iterator[Clip]:
        waiting = _Waiting(plan, requests)
        try:
            for place, picture in decoder.pictures(plan.wanted):
                self.stats.delivered += 1
                done = waiting.place(place, picture, decoder, self._size, self._fit)
                for index in done:
                    places = plan.places[index]
                    assert places is not None
                    span = requests[index].span
                    shown_s = decoder.timeline.times_s[places] - (span.start_s if span else 0.0)
                    yield Clip(requests[index].request_id, waiting.take(index), shown_s)
        except VideoError as error:
            left = {requests[index].request_id: error.reason for index in waiting.unfinished()}
            self.failures |= left
            raise
        for index in waiting.unfinished():
            places = plan.places[index]
            assert places is not None
            self.failures[requests[index].request_id] = _why_missing(decoder, places.tolist())


class _Waiting:
    """Requests that still wait for frames, and the frames they have so far."""

    def __init__(self, plan: Plan, requests: Sequence[FrameRequest]) -> None:
        self._requests = requests
        self._missing: dict[int, int] = {}
        self._frames: dict[int, np.ndarray] = {}
        self._length: dict[int, int] = {}
        # place -> crop -> (request, position in it) of everyone who wants that picture
        self._takers: dict[int, dict[Box | None, list[tuple[int, int]]]] = defaultdict(dict)
        for index, places in enumerate(plan.places):
            if places is None:
                continue
            self._missing[index] = len(places)
            self._length[index] = len(places)
            crop = requests[index].crop
            for position, place in enumerate(places.tolist()):
                self._takers[place].setdefault(crop, []).append((index, position))

    def place(
        self, place: int, picture: object, decoder: VideoDecoder, size: Size, fit: Fit
    ) -> list[int]:
        """Hand one decoded picture to its takers; returns the requests that are now complete."""
        done = []
        for crop, takers in self._takers.pop(place, {}).items():
            first: np.ndarray | None = None
            for index, position in takers:
                if index not in self._frames:
                    height, width = decoder.output_shape(picture, size, fit, crop)
                    shape = (self._length[index], height, width, 3)
                    self._frames[index] = np.empty(shape, dtype=np.uint8)
                out = self._frames[index][position]
                if first is None:
                    decoder.convert(picture, size, fit, crop, out)
                    first = out
                else:
                    out[...] = first
                self._missing[index] -= 1
                if self._missing[index] == 0:
                    done.append(index)
        return done

    def take(self, index: int) -> np.ndarray:
        del self._missing[index]
        return self._frames.pop(index)

    def unfinished(self) -> list[int]:
        return list(self._missing)


def read_plan(
    uri: str,
    requests: Sequence[FrameRequest],
    size: Size = None,
    *,
    backend: str = "pyav",
    stream: int = 0,
    fit: Fit = "stretch",
    threads: int = 1,
    time_limit_s: float | None = None,
    sound: bool = False,
) -> PlanRun:
    """Serve all requests on one video with one pass: iterate the result for `Clip`s.

    Each group of pictures is decoded at most once, pictures that nobody wants are never
    converted, and not even decoded where the codec allows. Clips come as they are complete, not in
    the order of `requests`. A request that cannot be served is in `.failures` with its reason
    and the others are served all the same; a bad file never raises. The reasons: `before_start`,
    `past_end`, `damaged` (a frame would show damage, or refers to one that does), `decode_gap` (the
    decoder gives no such frame), `unreadable`, `timeout`, `io_error` (a store did not answer).

    size: short side in pixels, (H, W), or None for the coded pixels; shrinking is anti-aliased.
    fit: how (H, W) is met when the shapes differ: "stretch", or "cover" (centre crop).
    stream: counts the file's video streams from 0.
    threads: decoder threads; 1 costs the least CPU a frame.
    time_limit_s: no further packet is read or decoded after it; what is missing then is `timeout`.
    sound: the index found nothing wrong with the file; spares a long transport stream its scan.
    Raises SettingError for a size, crop, backend or stream that cannot mean anything, and
    DependencyError if the backend is not installed.
    """
    check_size(size, fit)
    for request in requests:
        check_box(request.crop)
    seen = {request.request_id for request in requests}
    if len(seen) != len(requests):
        raise SettingError("requests: two of them have the same request_id")
    if stream < 0 or threads < 1:
        raise SettingError(f"stream={stream}, threads={threads}: stream >= 0, threads >= 1")
    return PlanRun(
        uri,
        requests,
        size,
        backend=backend,
        stream=stream,
        fit=fit,
        threads=threads,
        time_limit_s=time_limit_s,
        sound=sound,
    )


def read(
    uri: str,
    times_s: Sequence[float] | np.ndarray,
    size: Size = None,
    *,
    backend: str = "pyav",
    stream: int = 0,
    fit: Fit = "stretch",
    crop: Box | None = None,
    span: Span | None = None,
) -> np.ndarray:
    """The frames shown at `times_s`, seconds from the first frame shown, in any order.

    Returns uint8 [T, H, W, 3] RGB, upright. See `read_plan` for size, fit, crop and stream, and
    `FrameRequest` for span.
    Raises InputError if the file cannot be read or any of the frames cannot be had, and says why.
    """
    times = np.atleast_1d(np.asarray(times_s, dtype=np.float64))
    request = FrameRequest(0, times, crop, span)
    run = read_plan(uri, [request], size, backend=backend, stream=stream, fit=fit)
    for clip in run:
        run.close()  # left to the garbage collector, the file would stay open until it comes round
        return clip.frames
    if run.error:
        raise InputError(run.error)
    raise InputError(
        f"{uri}: no frames for times {times.min():.3f}..{times.max():.3f} s: {run.failures[0]}"
    )


def read_range(
    uri: str,
    start_s: float,
    stop_s: float,
    size: Size = None,
    *,
    backend: str = "pyav",
    stream: int = 0,
    fit: Fit = "stretch",
    time_limit_s: float | None = None,
    span: Span | None = None,
) -> RangeFrames:
    """Every frame that starts to be shown within [start_s, stop_s), and the one shown at start_s.

    The range is cut to the video; frames that cannot be had, or not within `time_limit_s`, are left
    out, and named in `lost`. Of a span, times count from its first frame, and the range is cut to
    it.
    Raises InputError if the file cannot be read or no frame of the range can be had.
    """
    near = None if span is None else _times_near(start_s, stop_s, span)
    with _opened(uri, backend, stream, time_limit_s, near) as decoder:
        got, times, lost = _in_range(decoder, start_s, stop_s, size, fit, span)
        unsure = decoder.partial and not decoder.timed_out and bool(lost or not got)
    if unsure:  # around what is missing the file is not what its header promised
        with _opened(uri, backend, stream, time_limit_s) as decoder:
            got, times, lost = _in_range(decoder, start_s, stop_s, size, fit, span)
    if not got:
        why = f": {', '.join(sorted(set(lost.values())))}" if lost else ""
        raise InputError(f"{uri}: no frame could be had in {start_s:.3f}..{stop_s:.3f} s{why}")
    return RangeFrames(*_stacked(got, times), lost)


def _times_near(start_s: float, stop_s: float, span: Span) -> np.ndarray:
    """Times of the file that lie in a range of a span, so near each other that none is left out."""
    stop_s = min(stop_s, span.end_s - span.start_s)
    steps = np.arange(max(0.0, start_s), stop_s, NEAR_S / 2)
    return FrameRequest(0, np.append(steps, stop_s), span=span).file_times_s()


def _in_range(
    decoder: VideoDecoder, start_s: float, stop_s: float, size: Size, fit: Fit, span: Span | None
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray, dict[float, str]]:
    """The pictures of a range by their places, the times of all places, and what is lost."""
    before, after, end_s, times = _bounds(decoder.timeline, span)
    tolerance = decoder.timeline.tolerance_s
    first = max(before, int(np.searchsorted(times, start_s + tolerance, side="right")) - 1)
    last = min(after, int(np.searchsorted(times, stop_s - tolerance, side="left")))
    if start_s >= end_s:
        last = first
    got = list(_pictures(decoder, np.arange(first, last), size, fit))
    missing = sorted(set(range(first, last)) - {place for place, _ in got})
    lost = {float(times[place]): _why_missing(decoder, [place]) for place in missing}
    return got, times, lost


def frames(
    uri: str,
    fps: float | None = None,
    size: Size = None,
    *,
    chunk: int = 32,
    backend: str = "pyav",
    stream: int = 0,
    fit: Fit = "stretch",
    span: Span | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Walk through a whole video, or a span, in order, in chunks, in constant memory.

    fps: the frames shown at 0, 1/fps, 2/fps, ...; each frame once even if it is shown longer. None
        is every frame.
    Yields (uint8 [N, H, W, 3] RGB, float64 [N] times at which they start to be shown), N = `chunk`
    but for the last. Frames that cannot be decoded are left out.
    Raises InputError if the file cannot be read.
    """
    with _opened(uri, backend, stream) as decoder:
        first, stop, end_s, times = _bounds(decoder.timeline, span)
        wanted = np.arange(first, stop)
        if fps is not None:
            if not fps > 0:
                raise SettingError(f"fps={fps}: a positive rate is needed")
            steps = np.arange(max(1, int(np.ceil(end_s * fps - 1e-6)))) / fps
            tolerance = decoder.timeline.tolerance_s
            places = np.searchsorted(times, steps + tolerance, side="right") - 1
            wanted = np.unique(places[(places >= first) & (places < stop)])
        batch: list[tuple[int, np.ndarray]] = []
        for place, frame in _pictures(decoder, wanted, size, fit):
            batch.append((place, frame))
            if len(batch) == chunk:
                yield _stacked(batch, times)
                batch = []
        if batch:
            yield _stacked(batch, times)


def _bounds(timeline: Timeline, span: Span | None) -> tuple[int, int, float, np.ndarray]:
    """Places [first, stop) of a span's frames, how long it is, and the times of all frames of the
    file as they count in it."""
    if span is None:
        return 0, timeline.num_frames, timeline.end_s, timeline.times_s
    first, stop = timeline.places_within(span)
    times_s = timeline.times_s - span.start_s
    end_s = times_s[stop] if stop < timeline.num_frames else timeline.end_s - span.start_s
    end_s = min(float(end_s), span.end_s - span.start_s)
    return first, stop, end_s if first < stop else 0.0, times_s


def _opened(
    uri: str,
    backend: str,
    stream: int,
    time_limit_s: float | None = None,
    times_s: np.ndarray | None = None,
) -> VideoDecoder:
    deadline = deadline_after(time_limit_s)
    return open_decoder(uri, backend, stream, 1, deadline, DecodeStats(), times_s)


def _why_missing(decoder: VideoDecoder, places: list[int]) -> str:
    """Why not all of these places could be had."""
    if not decoder.damaged.isdisjoint(places):
        return DAMAGED
    return TIMEOUT if decoder.timed_out else DECODE_GAP


def _pictures(
    decoder: VideoDecoder, wanted: np.ndarray, size: Size, fit: Fit
) -> Iterator[tuple[int, np.ndarray]]:
    check_size(size, fit)
    for place, picture in decoder.pictures(wanted):
        height, width = decoder.output_shape(picture, size, fit, None)
        out = np.empty((height, width, 3), dtype=np.uint8)
        decoder.convert(picture, size, fit, None, out)
        yield place, out


def _stacked(
    batch: list[tuple[int, np.ndarray]], times_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    batch.sort(key=lambda pair: pair[0])
    return np.stack([frame for _, frame in batch]), times_s[[place for place, _ in batch]]
