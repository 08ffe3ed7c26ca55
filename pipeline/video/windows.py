"""What lies around a few times in a long file? Read by seeking, without demuxing all of it.

A window runs from the keyframe before a time to the first packet that is decoded after it: no later
packet can be shown earlier, because a packet is never shown before it is decoded. So the frame
shown at that time is known for certain from the window alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from av.error import FFmpegError
from av.packet import Packet

from marey.pipeline.video.container import VideoSource
from marey.pipeline.video.timeline import MAX_TOLERANCE_S, PacketLog, Timeline, demux

LONG_FRAMES = 1500
"""Shorter files are scanned whole: that takes 5 ms."""

NEAR_S = 2.0
"""Times closer than this share a window; reading on is cheaper than a seek."""

FRAMES_A_WINDOW = 600
"""What a window is taken to cost in packets. Windows that cost more than the file are not used."""


def scan_near(
    source: VideoSource, times_s: np.ndarray, keep_bytes: int, deadline: float = float("inf")
) -> tuple[Timeline, list[Packet]] | None:
    """Timeline and packets of the surroundings of `times_s`, and of the file's start.

    times_s: float64 [T], seconds from the first frame shown.
    deadline: as in `demux`, whose VideoError it raises.
    Returns None where a whole scan is better or safer: short files, many times, containers other
    than MP4 and MOV, missing times, seeks that miss.
    """
    wanted = np.unique(times_s[np.isfinite(times_s) & (times_s >= 0)])
    frames = source.stream.frames
    windows = 1 + int((np.diff(wanted) > NEAR_S).sum())
    if "mov" not in source.container.format.name or len(wanted) == 0:
        return None
    if frames < LONG_FRAMES or windows * FRAMES_A_WINDOW > frames:
        return None
    try:
        return _Windows(source, keep_bytes, deadline).read(wanted)
    except (FFmpegError, OSError, _NoWindowError):
        # The whole scan that follows starts at the file's beginning.
        source.container.seek(-(2**40), stream=source.stream, backward=False, any_frame=True)
        return None


class _NoWindowError(Exception):
    """The file does not let windows be cut; it has to be scanned."""


class _Windows:
    def __init__(self, source: VideoSource, keep_bytes: int, deadline: float) -> None:
        self._source, self._deadline = source, deadline
        self._log = PacketLog(source, keep_bytes)
        self._packets = self._demux()
        self._last = self._first = 0
        self._ended = False

    def read(self, times_s: np.ndarray) -> tuple[Timeline, list[Packet]]:
        self._read_start()
        base = float(self._source.time_base)
        tolerance_s = min(base / 2, MAX_TOLERANCE_S)
        for time_s in times_s:
            target = self._first + (time_s + tolerance_s) / base
            if (target - self._last) * base > NEAR_S and not self._ended:
                self._jump(target)
            while self._last <= target and not self._ended:
                self._take(next(self._packets, None))
        timeline = self._log.timeline()
        packets = self._log.packets
        if packets is None or timeline.by_order:
            raise _NoWindowError
        if not self._ended:
            timeline = replace(timeline, end_s=float("inf"))
        return timeline, packets

    def _read_start(self) -> None:
        """Packets until it is certain which frame is shown first."""
        first: int | None = None
        while first is None or self._last <= first:
            packet = next(self._packets, None)
            self._take(packet, at_start=True)
            if packet is None:
                raise _NoWindowError
            if not packet.is_discard:
                pts = packet.pts or 0
                first = pts if first is None else min(first, pts)
        self._first = first

    def _jump(self, target: float) -> None:
        """Go on at the last keyframe that is shown at or before `target`."""
        aim = int(target)
        for _ in range(4):
            self._source.container.seek(aim, stream=self._source.stream, backward=True)
            self._packets = self._demux()
            packet = next(self._packets, None)
            if packet is None or packet.dts is None or packet.pts is None:
                raise _NoWindowError
            if packet.dts <= self._last:
                return  # the group that is being read already; `_take` passes over what is known
            if packet.pts <= target:
                self._take(packet)
                if not self._log.records[-1][2]:
                    raise _NoWindowError  # no keyframe that decoding could start at
                return
            aim = packet.dts - 1
        raise _NoWindowError

    def _take(self, packet: Packet | None, *, at_start: bool = False) -> None:
        if packet is None:
            self._ended = True
            return
        if packet.dts is None or packet.pts is None:
            raise _NoWindowError
        if packet.dts > self._last or at_start:
            self._log.add(packet)
            self._last = packet.dts

    def _demux(self) -> Iterator[Packet]:
        return demux(self._source, self._deadline)
