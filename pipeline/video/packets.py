"""The packets of a run, in decoding order: from memory, or from the file once more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from av.error import FFmpegError
from av.packet import Packet

from pipeline.video import av1
from pipeline.video.plan import Run
from pipeline.video.source import VideoSource
from pipeline.video.stats import DecodeStats
from pipeline.video.timeline import MISSING, Timeline

SEEK_MARGIN = 4096
"""A seek may land so many packets before the run, and they are still told from those of it."""


class PacketFeed:
    """Packets of one open stream by their place in its timeline.

    kept: all of them, if they were few enough to stay in memory.
    """

    def __init__(
        self,
        source: VideoSource,
        timeline: Timeline,
        kept: Sequence[Packet] | None,
        deadline: float,
        stats: DecodeStats,
    ) -> None:
        self.timed_out = False
        self._source, self._timeline, self._kept = source, timeline, kept
        self._deadline, self._stats = deadline, stats
        codec = source.stream.codec_context.codec.canonical_name
        self._names_references = codec == "av1" and not timeline.by_order

    def late(self) -> bool:
        """Whether the deadline has passed."""
        self.timed_out |= time.monotonic() > self._deadline
        return self.timed_out

    def packets(self, run: Run, needed: np.ndarray | None = None) -> Iterator[tuple[int, Packet]]:
        """(position, packet) of a run.

        needed: bool, one a packet of the timeline; of streams that name references (AV1) those
            packets are left out that none of these is made of.
        """
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
        """Packets of a run from the file, found again by their times."""
        timeline, container, stream = self._timeline, self._source.container, self._source.stream
        times = timeline.dts if timeline.dts[run.start] != MISSING else timeline.pts
        target = int(times[run.start])
        if run.start == 0 or target == MISSING:
            position = 0
            container.seek(_first_tick(timeline), stream=stream, backward=True, any_frame=False)
        else:
            container.seek(target, stream=stream, backward=True)
            position = -1
        found = {
            (int(timeline.pts[i]), int(timeline.dts[i])): i
            for i in range(max(0, run.start - SEEK_MARGIN), run.stop)
        }
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or self.late():
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
        except (FFmpegError, OSError):
            self._stats.damaged += 1
        self._source.check()


def _first_tick(timeline: Timeline) -> int:
    known = timeline.dts[timeline.dts != MISSING]
    return int(known[0]) if len(known) else 0
