"""When is each frame of a stream shown? Answered from its packets, without decoding.

A time is measured from the presentation start: t = 0 is the first frame shown. The frame shown at
t is the last one whose time is not after t. Containers round times to their tick (1 ms in
Matroska), so a time is compared with half a tick of tolerance, 0.5 ms at most: the k-th frame of
a 30 fps file is found at t = k / 30 although the file says 67 ms for 66.7.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from av.error import FFmpegError
from av.packet import Packet

from marey.configs.errors import InputError
from marey.pipeline.video import bitstream
from marey.pipeline.video.container import VideoSource
from marey.pipeline.video.reasons import TIMEOUT, VideoError

MAX_TOLERANCE_S = 0.0005
KEEP_BYTES = 96 * 2**20
"""Packets of a stream up to this size stay in memory between the scan and the decode."""

RESTART_S = 0.5
"""Decode times ascend. One that falls so far behind begins another stream (files joined end to
end): its times mean other frames than the same times before."""

_PACKED_DIVX = re.compile(rb"DivX\d+[Bb]\d+p")


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The packets of one stream in decode order, and the frames they show in shown order.

    pts, dts: int64 [N] in ticks of `time_base`; `MISSING` where the file has none.
    key: bool [N]; size: int64 [N] bytes.
    shown: int64 [F], decode positions in the order in which their frames are shown.
    times_s: float64 [F], when each of them is shown, from the first one, ascending.
    end_s: when the last one stops being shown.
    by_order: packet times do not say which frame is shown when (packed B-frames of old AVI files,
        raw streams), so that frames are known only by their place in the decoder's output.
    damaged: int64, decode positions of the packets that the demuxer marked as damaged.
    error: why the demuxer stopped early.
    scene_grid: longest distance of keyframes in frames, if the encoder says that it put a keyframe
        at each scene cut; None if it says nothing.
    one_packet_a_frame: whether a packet holds the frame it shows and nothing else.
    """

    time_base: Fraction
    pts: np.ndarray
    dts: np.ndarray
    key: np.ndarray
    size: np.ndarray
    shown: np.ndarray
    times_s: np.ndarray
    end_s: float
    by_order: bool
    damaged: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    error: str | None = None
    scene_grid: int | None = None
    one_packet_a_frame: bool = True

    @property
    def num_frames(self) -> int:
        return len(self.shown)

    @property
    def has_open_groups(self) -> bool:
        """Whether some frame follows a keyframe in the file and is shown before it (open GOP)."""
        keys = np.flatnonzero(self.key)
        if len(keys) == 0:
            return False
        group = np.searchsorted(keys, np.arange(len(self.pts)), side="right") - 1
        return bool((self.pts < self.pts[keys[np.maximum(group, 0)]])[group >= 0].any())

    @property
    def tolerance_s(self) -> float:
        return min(float(self.time_base) / 2, MAX_TOLERANCE_S)

    @property
    def start_s(self) -> float:
        """The container's own time of the first frame shown."""
        if self.num_frames == 0 or self.pts[self.shown[0]] == MISSING:
            return 0.0
        return float(self.pts[self.shown].min() * self.time_base)

    def frame_at(self, times_s: np.ndarray) -> np.ndarray:
        """Which frame is shown at each time, as a place in shown order.

        times_s: float64 [T]. Returns int64 [T]; -1 before the start, -2 at or after the end.
        """
        times_s = np.asarray(times_s, dtype=np.float64)
        places = np.searchsorted(self.times_s, times_s + self.tolerance_s, side="right") - 1
        places = np.where(times_s >= self.end_s + self.tolerance_s, -2, places)
        return np.where(np.isfinite(times_s), places, -1)


MISSING = np.iinfo(np.int64).min


class PacketLog:
    """What the demuxer said about each packet so far, in decode order.

    packets: the packets themselves, while they fit into `keep_bytes`; else None.
    after_restart: packets left out, because the times had started again before them.
    """

    def __init__(self, source: VideoSource, keep_bytes: int) -> None:
        context = source.stream.codec_context
        self.source = source
        self.records: list[tuple[int, int, bool, int, bool, int]] = []
        self.packets: list[Packet] | None = [] if keep_bytes else None
        self.damaged: list[int] = []
        self.grid: int | None = None
        self._room = keep_bytes
        self.after_restart = 0
        self._restarted = False
        self._latest = MISSING
        self._most_back = math.ceil(RESTART_S / float(source.time_base))
        self._h264 = context.name == "h264"
        self._mpeg4 = context.name == "mpeg4"
        self._vp8 = context.name in ("vp8", "libvpx")
        self._extradata = context.extradata or b""

    def add(self, packet: Packet) -> None:
        if not self.records:
            self.grid = bitstream.scene_grid(bytes(packet))
        pts, dts, key = packet.pts, packet.dts, packet.is_keyframe
        if dts is not None:
            self._restarted |= dts < self._latest - self._most_back
            self._latest = max(self._latest, dts)
        if self._restarted:
            self.after_restart += 1
            return
        if packet.is_corrupt:
            self.damaged.append(len(self.records))
        if key and self._h264:
            key = bitstream.restarts_at_once(bytes(packet), self._extradata)
        elif key and self._mpeg4:
            key = bitstream.is_intra_mpeg4(bytes(packet))
        shows = not packet.is_discard
        if shows and self._vp8:
            shows = not bitstream.hides_frame_vp8(bytes(packet))
        self.records.append(
            (
                MISSING if pts is None else pts,
                MISSING if dts is None else dts,
                key,
                packet.size,
                shows,
                packet.duration or 0,
            )
        )
        if self.packets is not None:
            self.packets.append(packet)
            self._room -= packet.size
            if self._room < 0:
                self.packets = None

    def timeline(self, error: str | None = None) -> Timeline:
        """The timeline of the packets so far. Raises InputError if there are none."""
        if not self.records:
            raise InputError(
                f"{self.source.uri}: its video stream holds no packet ({error or 'empty'})"
            )
        return _assemble(self, error)


def demux(source: VideoSource, deadline: float) -> Iterator[Packet]:
    """The packets of a stream that hold something.

    deadline: a value of `time.monotonic()`. Raises VideoError: `timeout` when it is late,
    `io_error` when a remote file is not to be had to its end.
    """
    try:
        for packet in source.container.demux(source.stream):
            if time.monotonic() > deadline:
                raise VideoError(f"{source.uri}: its packets were not read in time", TIMEOUT)
            if packet.size:
                yield packet
    finally:
        source.check()


def scan(
    source: VideoSource, keep_bytes: int = 0, deadline: float = float("inf")
) -> tuple[Timeline, list[Packet] | None]:
    """Demux the whole stream once.

    Returns the timeline, and the packets themselves unless they exceed `keep_bytes` in total.
    A demuxer that fails on the way ends the timeline there: its `error` says why.
    Raises InputError if the stream holds no packet at all, VideoError as `demux` does.
    """
    log = PacketLog(source, keep_bytes)
    error = None
    try:
        for packet in demux(source, deadline):
            log.add(packet)
    except (FFmpegError, OSError) as failure:
        error = f"stopped after {len(log.records)} packets: {failure}"
    if log.after_restart and keep_bytes and log.packets is None:
        # read again, with seeks, either stream might be met
        raise InputError(
            f"{source.uri}: its times start again after {len(log.records)} packets, and it is too "
            f"large ({keep_bytes} bytes) to be kept in memory; split it there"
        )
    if log.after_restart:
        error = (
            f"its times start again after {len(log.records)} packets (files joined end to end?); "
            f"the {log.after_restart} packets from there on are not read"
        )
    return log.timeline(error), log.packets


def _assemble(log: PacketLog, error: str | None) -> Timeline:
    source = log.source
    columns = list(zip(*log.records, strict=True))
    pts, dts, size, duration = (np.array(columns[i], dtype=np.int64) for i in (0, 1, 3, 5))
    key, shows = (np.array(columns[i], dtype=bool) for i in (2, 4))
    context = source.stream.codec_context
    packed = context.name == "mpeg4" and bool(_PACKED_DIVX.search(context.extradata or b""))
    # AVI holds no presentation times: the demuxer guesses them from the decode order.
    guessed = source.container.format.name == "avi" and context.name != "mpeg4"
    packed |= guessed and context.has_b_frames
    untimed = bool((pts[shows] == MISSING).any())
    shown = np.flatnonzero(shows)
    base = source.time_base
    if untimed:
        rate = source.fps or 25.0
        ticks = np.arange(len(shown), dtype=np.float64) / (rate * float(base))
    else:
        shown = shown[np.argsort(pts[shown], kind="stable")]
        ticks = (pts[shown] - (pts[shown[0]] if len(shown) else 0)).astype(np.float64)
        if not packed:  # two packets at one time show the later one
            last = np.append(np.diff(ticks) > 0, True)[: len(shown)]
            shown, ticks = shown[last], ticks[last]
    times_s = ticks * float(base)
    end_s = 0.0
    if len(shown):
        end_s = float(times_s[-1]) + _last_frame_s(source, times_s, int(duration[shown[-1]]))
    return Timeline(
        base,
        pts,
        dts,
        key,
        size,
        shown,
        times_s,
        end_s,
        by_order=packed or untimed,
        damaged=np.array(log.damaged, dtype=np.int64),
        error=error,
        scene_grid=log.grid,
        one_packet_a_frame=context.codec.canonical_name not in ("vp8", "vp9", "av1"),
    )


def _last_frame_s(source: VideoSource, times_s: np.ndarray, duration: int) -> float:
    """How long the last frame is shown: as its packet says, else as long as its neighbours."""
    if duration > 0:
        return duration * float(source.time_base)
    if len(times_s) > 1:
        return float(np.median(np.diff(times_s)))
    return 1.0 / source.fps if source.fps else float(source.time_base)
