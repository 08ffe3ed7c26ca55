"""Decode a plan with PyAV: each needed packet once, each unneeded frame not at all if possible."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from marey.pipeline.video.container import MAX_PIXELS, VideoSource, open_video
from marey.pipeline.video.convert import Converter
from marey.pipeline.video.damage import DamageMap
from marey.pipeline.video.display import UPRIGHT, Orientation, from_matrix
from marey.pipeline.video.fit import Fit, Geometry, Size, chroma_grain, plan_geometry
from marey.pipeline.video.packet_log import MISSING
from marey.pipeline.video.packet_plan import Box, Run, plan_runs
from marey.pipeline.video.packets import PacketFeed
from marey.pipeline.video.stats import DecodeStats
from marey.pipeline.video.timeline import KEEP_BYTES, scan
from marey.pipeline.video.windows import is_sparse, scan_near

SKIPPING_CODECS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"})
"""Decoders whose output for the other frames is the same bits when non-reference frames are left
out (held in tests/test_video_exact.py)."""

RETRY_PACKETS = 1000
"""A frame that did not come out is looked for once more by decoding from the file's start, if it
lies within so many packets of it."""

REORDERED_FRAMES = 16 + 1
"""After so many more a frame has come out: H.264 and HEVC hold back 16 frames at most."""

MACROBLOCK = 16
"""Headers may state a size that is rounded up to whole blocks of so many pixels."""

CONFESSING_CODECS = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
"""Decoders that say of each frame whether they painted over damage in it. The others hide it,
unless they are told to refuse what is damaged."""


class PyavDecoder:
    """One open stream, its timeline, and its packets in memory if they are few.

    partial: the timeline holds only the surroundings of the times that were announced. Frames
        that do not come out of them are not tried otherwise: that needs the whole timeline.
    """

    def __init__(
        self,
        uri: str,
        stream: int,
        threads: int,
        deadline: float,
        stats: DecodeStats,
        times_s: np.ndarray | None = None,
        sound: bool = False,
    ) -> None:
        """times_s: only these times will be asked for; spares a long file the whole scan.

        sound: the whole file was scanned before, and nothing was wrong with it.
        """
        self.source = open_video(uri, stream, quick=True)
        try:
            near, keep = None, KEEP_BYTES
            if times_s is not None:
                near = scan_near(self.source, times_s, KEEP_BYTES, deadline, sound=sound)
                # What is read again costs less than to hold all of a file for a few of its frames.
                tabled = "mov" in self.source.container.format.name
                keep = 0 if is_sparse(self.source, times_s, sound) and not tabled else KEEP_BYTES
            self.partial = near is not None
            self.timeline, kept = near or scan(self.source, keep, deadline)
        except BaseException:
            self.source.close()
            raise
        self.stats = stats
        self.stats.damaged += len(self.timeline.damaged)
        self.damaged: set[int] = set()
        self._feed = PacketFeed(self.source, stream, self.timeline, kept, deadline, stats)
        context = self.source.stream.codec_context
        self._begins_with = context.width, context.height
        self._confesses = context.codec.canonical_name in CONFESSING_CODECS
        self._skips = context.name in SKIPPING_CODECS and not self.timeline.by_order
        self._uri, self._stream, self._threads = uri, stream, threads
        self._careful: VideoSource | None = None
        self._converter = Converter(uri)
        self._geometries: dict[object, Geometry] = {}
        self._orientation: Orientation | None = None

    def __enter__(self) -> PyavDecoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.source.close()
        if self._careful is not None:
            self._careful.close()

    @property
    def timed_out(self) -> bool:
        """Whether decoding ended at its deadline."""
        return self._feed.timed_out

    def output_shape(
        self, picture: VideoFrame, size: Size, fit: Fit, crop: Box | None
    ) -> tuple[int, int]:
        geometry = self._geometry(picture, size, fit, crop)
        return geometry.out_height, geometry.out_width

    def convert(
        self, picture: VideoFrame, size: Size, fit: Fit, crop: Box | None, out: np.ndarray
    ) -> None:
        geometry = self._geometry(picture, size, fit, crop)
        self._converter.into(picture, geometry, out)

    def _geometry(self, frame: VideoFrame, size: Size, fit: Fit, crop: Box | None) -> Geometry:
        """Geometry for this picture. All have one output: that of the size the stream begins with.

        So a frame after a change of size comes out the same, alone or with those before.
        """
        if self._orientation is None:
            matrix = frame.side_data.get("DISPLAYMATRIX")
            self._orientation = from_matrix(bytes(matrix)) if matrix else UPRIGHT
        key = (frame.width, frame.height, frame.format.name, size, fit, crop)
        geometry = self._geometries.get(key)
        if geometry is None:
            exact = self._geometries.get((size, crop))
            width, height = self._begins_with
            grown = max(abs(frame.width - width), abs(frame.height - height)) >= MACROBLOCK
            settings = {"fit": fit, "box": crop, "grain": chroma_grain(frame)}
            turned = self._sar(), self._orientation
            if exact is None and grown:
                exact = plan_geometry(width, height, *turned, size, **settings)
            out = (exact.out_height, exact.out_width) if exact else size
            geometry = plan_geometry(frame.width, frame.height, *turned, out, **settings)
            self._geometries.setdefault((size, crop), exact or geometry)
            self._geometries[key] = geometry
        return geometry

    def _sar(self) -> Fraction:
        """The container's pixel aspect, else the one that the decoder found in the stream."""
        of_codec = self._open_context(careful=False).sample_aspect_ratio
        return self.source.stream.sample_aspect_ratio or of_codec or Fraction(1)

    def pictures(self, wanted: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (place in shown order, decoded frame) for each wanted place that can be decoded.

        wanted: int64, ascending, each once. Places that do not come out are missing from the
        output, and in `damaged` if they may show damage. Order: as the decoder gives them; a
        retried frame may come late.
        """
        missing = set(wanted.tolist())
        scanned = self.stats.damaged
        for attempt in range(2 if self.partial else 4):
            before = self.stats.damaged
            places = np.array(sorted(missing - self.damaged), dtype=np.int64)
            runs = self._runs(places, attempt, damaged=self.stats.damaged > 0)
            decode = self._decode_carefully if attempt else self._decode_planned
            for place, frame in decode(runs, places) if runs else ():
                missing.discard(place)
                self.stats.retried += attempt > 0
                yield place, frame
            if attempt == 1 and runs and self.stats.damaged == before:
                self.stats.damaged = scanned  # what the strict decoder refused was whole
            if missing <= self.damaged or self.timed_out:
                return

    def _runs(self, places: np.ndarray, attempt: int, *, damaged: bool) -> list[Run]:
        """What to decode for what is still missing.

        First as planned. Then the same carefully, where the codec tells what it mends: in an open
        group of H.264 the strict decoder refuses frames that lack nothing but what they do not
        need. Then from a keyframe earlier than the stream says is needed. Last, and at once after
        damage, from the very start, as a reader without a plan would.
        """
        if len(places) == 0:
            return []
        if attempt <= 1:
            careful = self._confesses and not self.timeline.by_order
            return plan_runs(self.timeline, places) if attempt == 0 or careful else []
        stop = int(self.timeline.shown[places].max()) + 1
        if stop > RETRY_PACKETS or self.timeline.by_order or not (damaged or attempt == 3):
            return plan_runs(self.timeline, places, keyframes_back=1) if attempt == 2 else []
        return [Run(0, stop)] if attempt == 2 or not damaged else []

    def _decode_planned(
        self, runs: list[Run], places: np.ndarray
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Decode runs and yield the frames of `places`; what nobody needs is left out.

        A run is given up at its first damage. What came out before it is good: damage reaches no
        packet that was decoded earlier. Frames shown before the keyframe that the run starts at
        refer to the group before (nobody wants them, or the run would start there): that they come
        out broken, or not at all, is no damage.
        """
        timeline = self.timeline
        context = self._open_context(careful=False)
        needed = np.zeros(len(timeline.pts), dtype=bool)
        needed[timeline.shown[places]] = needed[timeline.last_packets(places)] = True
        broken = set(timeline.damaged.tolist())
        left = self._names(places)
        emitted = 0
        for run in runs:
            skipping: str | None = None
            first = self._first(run)
            for position, packet in self._feed.packets(run, needed):
                if self._feed.late():
                    return
                if self._skips:
                    level = "DEFAULT" if needed[position] else "NONREF"
                    if level != skipping:
                        context.skip_frame = skipping = level
                early = self._early(position, first)
                frames = None if position in broken else self._send(context, packet, first, early)
                if frames is None and early:
                    continue
                if frames is None or any(self._shows_damage(frame, first) for frame in frames):
                    break
                for frame in frames:
                    place = left.pop(emitted if timeline.by_order else frame.pts, None)
                    emitted += 1
                    if place is not None and not frame.is_corrupt:
                        yield place, frame
                if not left:
                    break
            else:
                for frame in self._send(context, None, first) or ():
                    place = left.pop(emitted if timeline.by_order else frame.pts, None)
                    emitted += 1
                    if place is not None and not frame.is_corrupt:
                        yield place, frame
            context.flush_buffers()

    def _decode_carefully(
        self, runs: list[Run], places: np.ndarray
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Decode all of the runs, yield the frames of `places` that no damage reaches.

        A frame waits until every packet before its own has had its say: one that refers to a
        damaged frame may be shown, and come out, before it.
        """
        timeline = self.timeline
        context = self._open_context(careful=True)
        damage = DamageMap(timeline, context.codec.canonical_name, context.extradata or b"")
        delay = REORDERED_FRAMES * (2 if len(timeline.second) else 1)
        broken = set(timeline.damaged.tolist())
        left = self._names(places)
        held: list[tuple[int, int, VideoFrame]] = []
        emitted = 0
        for run in runs:
            packets: dict[int, Packet] = {}
            first = self._first(run)
            for position, packet in itertools.chain(self._feed.packets(run), [(run.stop, None)]):
                if self._feed.late():
                    return
                early = packet is not None and self._early(position, first)
                frames = self._send(context, packet, first, early)
                if packet is not None:
                    packets[position] = packet
                    packets.pop(position - delay, None)
                    if (frames is None and not early) or position in broken:
                        damage.add(position, bytes(packet))
                for frame in frames or ():
                    at = position if timeline.by_order or frame.pts is None else frame.pts
                    if frame.is_corrupt and timeline.by_order:
                        damage.add(max(0, position - delay), b"")
                    elif self._shows_damage(frame, first):
                        damage.add(at, bytes(packets[at]) if at in packets else b"")
                    place = left.pop(emitted if timeline.by_order else frame.pts, None)
                    emitted += 1
                    if place is not None and frame.is_corrupt:
                        self.damaged.add(place)
                    elif place is not None:
                        held.append((at, place, frame))
                ripe = position - delay if packet is not None else run.stop
                for at, place, frame in held:
                    if at > ripe:
                        continue
                    if damage.reaches(at):
                        self.damaged.add(place)
                    else:
                        yield place, frame
                held = [waiting for waiting in held if waiting[0] > ripe]
            context.flush_buffers()
        # What did not come out at all, and lies within reach of the damage, is lost to it too.
        self.damaged |= {
            place for place in left.values() if damage.reaches(int(timeline.shown[place]))
        }

    def _first(self, run: Run) -> int | None:
        """The time of the keyframe that a run starts at, where packets have times."""
        pts = int(self.timeline.pts[run.start])
        return None if self.timeline.by_order or pts == MISSING else pts

    def _early(self, position: int, first: int | None) -> bool:
        """Whether a packet is known to be shown before the time `first`."""
        return first is not None and MISSING < self.timeline.pts[position] < first

    def _names(self, places: np.ndarray) -> dict[int | None, int]:
        """Name -> place. Frames are known by their packet, or by their place in the output."""
        timeline = self.timeline
        names = places if timeline.by_order else timeline.shown[places]
        return dict(zip(names.tolist(), places.tolist(), strict=True))

    def _open_context(self, *, careful: bool) -> VideoCodecContext:
        """A decoder for this stream, which refuses damaged packets.

        The careful one belongs to a source of its own, opened at leisure. It decodes in one thread,
        so that an error belongs to the packet that was fed, and mends what it can where the codec
        says of each frame whether it was mended: not all that it refuses otherwise is in a picture.
        """
        source = self.source
        if careful:
            if self._careful is None:
                self._careful = open_video(self._uri, self._stream)
            source = self._careful
        context = source.stream.codec_context
        if not context.is_open:
            options = {"max_pixels": str(MAX_PIXELS)}
            if not (careful and self._confesses):
                options["err_detect"] = "explode"
            context.options = options
            threads = 1 if careful else self._threads
            context.thread_count = threads
            context.thread_type = "AUTO" if threads > 1 else "SLICE"
        return context

    def _send(
        self,
        context: VideoCodecContext,
        packet: Packet | None,
        first: int | None,
        early: bool = False,
    ) -> list[VideoFrame] | None:
        """Frames that come out for a packet (None: all that are left); None after damage.

        first, early: when the run's keyframe is shown, and whether the packet is shown before it;
            what is does not count as damaged.
        """
        try:
            frames = context.decode(packet)
        except (FFmpegError, ValueError):
            self.stats.damaged += packet is not None and not early
            return None
        self.stats.packets += packet is not None
        self.stats.decoded += len(frames)
        self.stats.damaged += sum(self._shows_damage(frame, first) for frame in frames)
        return frames

    def _shows_damage(self, frame: VideoFrame, first: int | None) -> bool:
        """Whether a frame shown from the time `first` on (None: any) was mended by its decoder."""
        if not frame.is_corrupt:
            return False
        return first is None or frame.pts is None or not self._early(frame.pts, first)
