"""Decode a plan with PyAV: each needed packet once, each unneeded frame not at all if possible."""

from __future__ import annotations

import time
from collections.abc import Iterator

import av
import numpy as np
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

from pipeline.video.convert import Converter
from pipeline.video.display import UPRIGHT, Orientation, from_matrix
from pipeline.video.geometry import Fit, Geometry, Size, plan_geometry
from pipeline.video.plan import Box, Run, plan_runs
from pipeline.video.source import open_video
from pipeline.video.stats import DecodeStats
from pipeline.video.timeline import KEEP_BYTES, MISSING, Timeline, scan

SKIPPING_CODECS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"})
"""Decoders whose output for the other frames is the same bits when non-reference frames are left
out (held in tests/test_video_exact.py)."""

RETRY_PACKETS = 3000
"""A frame that did not come out is looked for once more by decoding from the file's start, if it
lies within so many packets of it."""


class PyavDecoder:
    """One open stream, its timeline, and its packets in memory if they are few."""

    def __init__(
        self, uri: str, stream: int, threads: int, deadline: float, stats: DecodeStats
    ) -> None:
        self.source = open_video(uri, stream)
        try:
            self.timeline, self._packets = scan(self.source, keep_bytes=KEEP_BYTES)
        except BaseException:
            self.source.close()
            raise
        self.stats = stats
        self.stats.damaged += self.timeline.damaged
        self.timed_out = False
        self._deadline = deadline
        self._context = self.source.stream.codec_context
        self._context.thread_count = threads
        self._context.thread_type = "AUTO" if threads > 1 else "SLICE"
        self._converter = Converter()
        self._geometries: dict[object, Geometry] = {}
        self._orientation: Orientation | None = None

    def __enter__(self) -> PyavDecoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.source.close()

    def output_shape(
        self, picture: VideoFrame, size: Size, fit: Fit, crop: Box | None
    ) -> tuple[int, int]:
        geometry = self._geometry(picture, size, fit, crop)
        return geometry.out_height, geometry.out_width

    def convert(
        self, picture: VideoFrame, size: Size, fit: Fit, crop: Box | None, out: np.ndarray
    ) -> None:
        self._converter.into(picture, self._geometry(picture, size, fit, crop), out)

    def _geometry(self, frame: VideoFrame, size: Size, fit: Fit, crop: Box | None) -> Geometry:
        """Geometry for this picture; one that changes size in mid-stream keeps the output's."""
        if self._orientation is None:
            matrix = next((s for s in frame.side_data if s.type == Type.DISPLAYMATRIX), None)
            self._orientation = from_matrix(bytes(matrix)) if matrix else UPRIGHT
        key = (frame.width, frame.height, frame.format.name, size, fit, crop)
        geometry = self._geometries.get(key)
        if geometry is None:
            exact = self._geometries.get((size, crop))
            geometry = plan_geometry(
                frame.width,
                frame.height,
                self.source.sar,
                self._orientation,
                (exact.out_height, exact.out_width) if exact else size,
                fit=fit,
                box=crop,
                grain=_chroma_grain(frame),
            )
            self._geometries.setdefault((size, crop), geometry)
            self._geometries[key] = geometry
        return geometry

    def pictures(self, wanted: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (place in shown order, decoded frame) for each wanted place that can be decoded.

        wanted: int64, ascending, each once. Places that do not come out are missing from the
        output. Order: as the decoder gives them; a retried frame may come late.
        """
        missing = set(wanted.tolist())
        for attempt in range(3):
            runs = self._runs(missing, attempt)
            for place, frame in self._decode(runs, frozenset(missing), skip=attempt == 0):
                missing.discard(place)
                self.stats.retried += attempt > 0
                yield place, frame
            if not missing or self.timed_out:
                return

    def _runs(self, missing: set[int], attempt: int) -> list[Run]:
        """Runs for this attempt: as planned, from a keyframe earlier, from the very start."""
        places = np.array(sorted(missing), dtype=np.int64)
        if attempt < 2:
            if attempt == 1 and self.timeline.by_order:
                return []
            return plan_runs(self.timeline, places, keyframes_back=attempt)
        stop = int(self.timeline.shown[places].max()) + 1
        if self.timeline.by_order or stop > RETRY_PACKETS:
            return []
        return [Run(0, stop)]

    def _decode(
        self, runs: list[Run], places: frozenset[int], *, skip: bool
    ) -> Iterator[tuple[int, VideoFrame]]:
        timeline = self.timeline
        context = self._context
        skip = skip and not timeline.by_order and context.name in SKIPPING_CODECS
        needed = np.zeros(len(timeline.pts), dtype=bool)
        needed[timeline.shown[sorted(places)]] = True
        place_of = (
            {}
            if timeline.by_order
            else {int(timeline.pts[timeline.shown[place]]): place for place in places}
        )
        emitted = 0
        left = set(places)
        for run in runs:
            skipping: str | None = None
            for position, packet in self._feed(run):
                if time.monotonic() > self._deadline:
                    self.timed_out = True
                    return
                if skip:
                    level = "DEFAULT" if needed[position] else "NONREF"
                    if level != skipping:
                        context.skip_frame = skipping = level
                for frame in self._send(packet):
                    place = emitted if timeline.by_order else place_of.get(frame.pts, -1)
                    emitted += 1
                    if place in left:
                        left.discard(place)
                        yield place, frame
                if not left:
                    break
            for frame in self._send(None):
                place = emitted if timeline.by_order else place_of.get(frame.pts, -1)
                emitted += 1
                if place in left:
                    left.discard(place)
                    yield place, frame
            context.flush_buffers()
            if skip:
                context.skip_frame = "DEFAULT"

    def _send(self, packet: Packet | None) -> list[VideoFrame]:
        try:
            frames = self._context.decode(packet)
        except (av.FFmpegError, ValueError):
            self.stats.damaged += packet is not None
            return []
        self.stats.packets += packet is not None
        self.stats.decoded += len(frames)
        return frames

    def _feed(self, run: Run) -> Iterator[tuple[int, Packet]]:
        if self._packets is not None:
            yield from ((i, self._packets[i]) for i in range(run.start, run.stop))
            return
        yield from self._demux(run)

    def _demux(self, run: Run) -> Iterator[tuple[int, Packet]]:
        """Packets of a run from the file, found again by their times."""
        timeline, container, stream = self.timeline, self.source.container, self.source.stream
        place = run.start
        times = timeline.dts if timeline.dts[place] != MISSING else timeline.pts
        target = int(times[place])
        if run.start == 0 or target == MISSING:
            position = 0
            container.seek(_first_tick(timeline), stream=stream, backward=True, any_frame=False)
        else:
            container.seek(target, stream=stream, backward=True)
            position = -1
        found = {
            (int(timeline.pts[i]), int(timeline.dts[i])): i
            for i in range(max(0, run.start - 4096), run.stop)
        }
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    return
                key = (
                    MISSING if packet.pts is None else packet.pts,
                    MISSING if packet.dts is None else packet.dts,
                )
                position = found.get(key, position + 1 if position >= 0 else -1)
                if position >= run.stop:
                    return
                if position >= run.start:
                    yield position, packet
        except (av.FFmpegError, OSError):
            self.stats.damaged += 1


def _first_tick(timeline: Timeline) -> int:
    known = timeline.dts[timeline.dts != MISSING]
    return int(known[0]) if len(known) else 0


def _chroma_grain(frame: VideoFrame) -> tuple[int, int]:
    """Luma pixels to one chroma sample, across and down."""
    components = frame.format.components
    if len(components) < 3 or frame.format.is_rgb:
        return 1, 1
    luma, chroma = components[0], components[1]
    return -(-luma.width // chroma.width), -(-luma.height // chroma.height)
