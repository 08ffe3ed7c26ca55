"""What lies around a few times in a long file? Read by seeking, without demuxing all of it.

A window runs from a keyframe before a time to the packet after which no frame can follow that is
shown at that time or before it. In MP4 that is the first packet decoded after the time, because a
packet is never shown before it is decoded. Elsewhere it is the packet after as many later frames as
the codec can reorder. So the frame shown at that time is known for certain from the window alone.

Seeking takes the file at its word that times ascend. The table of an MP4 says so. The cues of a
Matroska file are held against their places in it, and a window begins one group early, so that a
clock that steps back near the time is seen. A transport stream has no table: there, windows are for
files that the index knows to be sound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from av.error import FFmpegError
from av.packet import Packet

from marey.pipeline.video.clock import MOST_REORDERED
from marey.pipeline.video.container import VideoSource
from marey.pipeline.video.packet_log import REORDERED, PacketLog, demux
from marey.pipeline.video.timeline import MAX_TOLERANCE_S, Timeline, timeline_of

LONG_FRAMES = 1500
"""Shorter files are scanned whole: that takes 5 ms."""

NEAR_S = 2.0
"""Times closer than this share a window; reading on is cheaper than a seek."""

FRAMES_A_WINDOW = 600
"""What a window is taken to cost in packets. Windows that cost more than the file are not used."""

PIXELS_A_BYTE = 32
"""Of a file that says nothing of its length, a byte is taken to hold so many pixels: a quarter of a
bit each. Wrong guesses cost time, no frame."""

FIRST_REACH_S, LAST_REACH_S = 1.0, 64.0
"""How far before a time a keyframe is looked for where no table says where it is."""


def scan_near(
    source: VideoSource,
    times_s: np.ndarray,
    keep_bytes: int,
    deadline: float = float("inf"),
    *,
    sound: bool = False,
) -> tuple[Timeline, list[Packet]] | None:
    """Timeline and packets of the surroundings of `times_s`, and of the file's start.

    times_s: float64 [T], seconds from the first frame shown.
    deadline: as in `demux`, whose VideoError it raises.
    sound: the whole file was scanned before, and nothing was wrong with it.
    Returns None where a whole scan is better or safer: short files, many times, containers that
    give no hold, missing or repeated times, seeks that miss.
    """
    if not is_sparse(source, times_s, sound):
        return None
    kind = source.container.format.name
    if "mov" in kind:
        edits = source.edits()
        if edits.parts > 1 or edits.gaps:
            return None
    elif not ("matroska" in kind or (sound and kind == "mpegts")):
        return None
    try:
        return _Windows(source, keep_bytes, deadline, sound).read(_wanted(times_s))
    except (FFmpegError, OSError, _NoWindowError):
        # The whole scan that follows starts at the file's beginning.
        source.container.seek(-(2**40), stream=source.stream, backward=False, any_frame=True)
        return None


def is_sparse(source: VideoSource, times_s: np.ndarray, sound: bool) -> bool:
    """Whether times are so few for a file, by its header, that most of it is not needed.

    sound: a file that was written as it was recorded (Matroska, WebM of a browser), without length
    and cues, counts by its bytes.
    """
    wanted = _wanted(times_s)
    frames = source.stream.frames
    if frames <= 0 and source.container.duration:
        frames = int(source.container.duration / 1e6 * (source.fps or 25.0))
    elif frames <= 0 and sound:
        context = source.stream.codec_context
        pixels = context.width * context.height
        frames = PIXELS_A_BYTE * source.container.size // pixels if pixels else 0
    windows = 1 + int((np.diff(wanted) > NEAR_S).sum())
    return len(wanted) > 0 and frames >= max(LONG_FRAMES, windows * FRAMES_A_WINDOW)


def _wanted(times_s: np.ndarray) -> np.ndarray:
    return np.unique(times_s[np.isfinite(times_s) & (times_s >= 0)])


class _NoWindowError(Exception):
    """The file does not let windows be cut; it has to be scanned."""


class _Windows:
    def __init__(self, source: VideoSource, keep_bytes: int, deadline: float, sound: bool) -> None:
        self._source, self._deadline, self._sound = source, deadline, sound
        self._log = PacketLog(source, keep_bytes)
        self._packets = self._demux()
        self._tabled = "mov" in source.container.format.name
        self._streamed = source.container.format.name == "mpegts"
        codec = source.stream.codec_context.codec.canonical_name
        self._reorder = REORDERED.get(codec, MOST_REORDERED)
        self._seen: set[tuple[int | None, int, int]] = set()
        self._later: list[int] = []  # the greatest times taken since the last seek, ascending
        self._last = self._first = 0
        self._reach_s = FIRST_REACH_S
        self._sets_at_start = False
        self._ended = False

    def read(self, times_s: np.ndarray) -> tuple[Timeline, list[Packet]]:
        self._read_start()
        base = float(self._source.time_base)
        tolerance_s = min(base / 2, MAX_TOLERANCE_S)
        for time_s in times_s:
            target = self._first + (time_s + tolerance_s) / base
            if (target - self._last) * base > NEAR_S and not self._ended:
                self._jump(target)
            while not self._is_past(target) and not self._ended:
                self._take(next(self._packets, None))
        timeline = timeline_of(self._log)
        packets = self._log.packets
        unsure = timeline.by_order or timeline.error or timeline.nearest_s < float("inf")
        if packets is None or unsure:
            raise _NoWindowError
        if not self._ended:
            timeline = replace(timeline, end_s=float("inf"))
        return timeline, packets

    def _read_start(self) -> None:
        """Packets until it is certain which frame is shown first."""
        first: int | None = None
        while first is None or not self._is_past(first):
            packet = next(self._packets, None)
            if packet is None:
                raise _NoWindowError
            if first is None and not (self._tabled or packet.is_keyframe):
                raise _NoWindowError  # begins in the middle of a group: see `timeline_of`
            self._take(packet)
            if first is None:
                self._sets_at_start = self._log.has_sets
            if not packet.is_discard:
                pts = packet.pts or 0
                first = pts if first is None else min(first, pts)
        self._first = first

    def _is_past(self, target: float) -> bool:
        """Whether no packet after those taken can be shown at `target` or before it."""
        if self._tabled:
            return self._last > target
        return len(self._later) > self._reorder and self._later[0] > target

    def _jump(self, target: float) -> None:
        """Go on at a keyframe that is shown at or before `target`."""
        landed = self._land_anywhere(target) if self._streamed else self._land_by_table(target)
        if not self._is_taken(landed):
            self._later = []
        self._take(landed)
        # A stream whose parameter sets lie in its packets may have changed them since the start.
        if not self._log.ends_in_key or (self._sets_at_start and not self._log.has_sets):
            raise _NoWindowError

    def _land_by_table(self, target: float) -> Packet:
        """The keyframe at or before `target`; in Matroska, unless it is sound, the one before."""
        aim, early = int(target), self._tabled or self._sound
        for _ in range(6):
            packet = self._seek(aim)
            if not self._tabled and not self._sound:
                self._check_cues()
            if packet.pts is None or (self._tabled and packet.dts is None):
                raise _NoWindowError
            decoded = packet.pts if packet.dts is None or not self._tabled else packet.dts
            if packet.pts <= target:
                if early or packet.pts <= self._first:
                    return packet
                early = True
            aim = decoded - 1
        raise _NoWindowError

    def _land_anywhere(self, target: float) -> Packet:
        """The first keyframe after a place that lies some seconds before `target`."""
        while self._reach_s <= LAST_REACH_S:
            back = self._reach_s / float(self._source.time_base)
            packet = self._seek(max(self._first, int(target - back)))
            for candidate in itertools.chain([packet], self._packets):
                if candidate.pts is not None and candidate.is_keyframe:
                    if candidate.pts <= target:
                        return candidate
                    break
            self._reach_s *= 2
        raise _NoWindowError

    def _seek(self, tick: int) -> Packet:
        self._source.container.seek(tick, stream=self._source.stream, backward=True)
        self._packets = self._demux()
        packet = next(self._packets, None)
        if packet is None:
            raise _NoWindowError
        return packet

    def _check_cues(self) -> None:
        """Raise unless later cues lie later in the file: then no clock was set back between."""
        entries = list(self._source.stream.index_entries)
        times = np.array([entry.timestamp for entry in entries])
        places = np.array([entry.pos for entry in entries])
        if len(entries) < 2 or (np.diff(times) <= 0).any() or (np.diff(places) < 0).any():
            raise _NoWindowError
        self._check_cues = lambda: None  # type: ignore[method-assign]  # once a file

    def _is_taken(self, packet: Packet) -> bool:
        return (packet.pos, packet.pts or 0, packet.size) in self._seen

    def _take(self, packet: Packet | None) -> None:
        if packet is None:
            self._ended = True
            return
        if packet.pts is None or (self._tabled and packet.dts is None):
            raise _NoWindowError
        if self._is_taken(packet):
            return
        self._seen.add((packet.pos, packet.pts, packet.size))
        self._log.add(packet)
        if self._tabled:
            self._last = packet.dts or 0
            return
        self._last = max(self._last, packet.pts)
        if self._log.ends_in_frame:
            self._later = sorted([*self._later, packet.pts])[-self._reorder - 1 :]

    def _demux(self) -> Iterator[Packet]:
        return demux(self._source, self._deadline)
