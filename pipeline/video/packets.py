"""The packets of a run, in decoding order: from memory, or from the file once more."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from av.error import FFmpegError
from av.packet import Packet

from marey.pipeline.runtime.stores import is_past
from marey.pipeline.video import av1
from marey.pipeline.video.container import VideoSource, open_video
from marey.pipeline.video.packet_log import MISSING
from marey.pipeline.video.packet_plan import Run
from marey.pipeline.video.stats import DecodeStats
from marey.pipeline.video.timeline import Timeline

SEEK_MARGIN = 4096
"""A seek may land so many packets before the run, and they are still told from those of it."""


class PacketFeed:
    """Packets of one open stream by their place in its timeline.

    stream: its number, as of `open_video`.
    kept: all of them, if they were few enough to stay in memory.
    """

    def __init__(
        self,
        source: VideoSource,
        stream: int,
        timeline: Timeline,
        kept: Sequence[Packet] | None,
        deadline: float,
        stats: DecodeStats,
    ) -> None:
        self.timed_out = False
        self._source, self._stream = source, stream
        self._timeline, self._kept = timeline, kept
        self._deadline, self._stats = deadline, stats
        codec = source.stream.codec_context.codec.canonical_name
        self._names_references = codec == "av1" and not timeline.by_order

    def late(self) -> bool:
        """Whether the deadline has passed."""
        self.timed_out |= is_past(self._deadline)
        return self.timed_out

    def packets(self, run: Run, needed: np.ndarray | None = None) -> Iterator[tuple[int, Packet]]:
        """(position, packet) of a run, ready for the decoder.

        The first one carries what a decoder must know that starts there. Their times are replaced
        by their positions, which tell frames apart where times do not.
        needed: bool, one a packet of the timeline; of streams that name references (AV1) those
            packets are left out that none of these is made of.
        """
        state = self._timeline.state
        for position, packet in self._packets(run, needed):
            ready = state.before(position, packet) if position == run.start else packet
            ready.pts, ready.dts = position, None
            yield position, ready

    def _packets(self, run: Run, needed: np.ndarray | None) -> Iterator[tuple[int, Packet]]:
        if self._kept is None:
            yield from self._demux(run)
            return
        fed = None
        if needed is not None and self._names_references:
            extradata = self._source.stream.codec_context.extradata or b""
            # A packet offers Python's buffer protocol, which its type stub does not say.
            packets = [memoryview(cast(bytes, p)) for p in self._kept[run.start : run.stop]]
            fed = av1.packets_needed(packets, needed[run.start : run.stop], extradata)
        for position in range(run.start, run.stop):
            if fed is None or fed[position - run.start]:
                yield position, self._kept[position]

    def _demux(self, run: Run) -> Iterator[tuple[int, Packet]]:
        """Packets of a run from the file once more."""
        timeline = self._timeline
        try:
            for position, packet in self._numbered(run):
                if position >= run.stop or self.late():
                    return
                if packet.size != timeline.size[position]:  # not the file that was scanned
                    self._stats.damaged += 1
                    return
                if position >= run.start:
                    yield position, packet
        except (FFmpegError, OSError):
            self._stats.damaged += 1
        self._source.check()

    def _numbered(self, run: Run) -> Iterator[tuple[int, Packet]]:
        """(position, packet) from the run's start, or from before it, to the file's end.

        Where seeks do not lead to a packet that is known, the file is read from its first one.
        """
        source = self._source
        for tick in self._keyframe_ticks(run):
            packets = (packet for packet in source.container.demux(source.stream) if packet.size)
            try:
                source.container.seek(tick, stream=source.stream, backward=True)
                landed = self._first_known(packets, run)
            except FFmpegError:  # raw streams cannot be sought in
                break
            if landed is not None:
                yield landed
                yield from enumerate(packets, landed[0] + 1)
                return
        with open_video(source.uri, self._stream, quick=True) as again:
            yield from enumerate(p for p in again.container.demux(again.stream) if p.size)
            again.check()

    def _keyframe_ticks(self, run: Run) -> Iterator[int]:
        """Where to seek for a run: to its keyframe, and if that is missed, to the one before."""
        timeline = self._timeline
        if timeline.by_order:
            return
        for position in np.flatnonzero(timeline.key[: run.start + 1])[:-3:-1]:
            dts = timeline.dts[position]
            yield int(timeline.pts[position] if dts == MISSING else dts)

    def _first_known(self, packets: Iterator[Packet], run: Run) -> tuple[int, Packet] | None:
        """The first keyframe after a seek that the timeline has at the run's start or before it.

        Told by time, size and place in the file: of the first packets after a seek in a program
        stream (`.mpg`) the demuxer gives other times than in a read from the start, those of other
        packets even; and where times start again two packets may share one.
        """
        timeline = self._timeline
        near = slice(max(0, run.start - SEEK_MARGIN), run.start + 1)
        columns = (timeline.pts[near], timeline.size[near], timeline.place[near])
        names = list(zip(*(column.tolist() for column in columns), strict=True))
        seen = Counter(names)
        known = {name: near.start + n for n, name in enumerate(names) if seen[name] == 1}
        for packet in itertools.islice(packets, SEEK_MARGIN):
            if packet.is_keyframe and packet.pts is not None:
                place = -1 if packet.pos is None else packet.pos
                position = known.get((packet.pts, packet.size, place))
                if position is not None:
                    return position, packet
            if packet.dts is not None and packet.dts > timeline.pts[run.start]:
                return None
        return None
