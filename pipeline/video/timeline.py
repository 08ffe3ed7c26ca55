"""When is each frame of a stream shown? Answered from its packets, without decoding.

A time is measured from the presentation start: t = 0 is the first frame shown. The frame shown at
t is the last one whose time is not after t. Containers round times to their tick (1 ms in
Matroska), so a time is compared with half a tick of tolerance, 0.5 ms at most: the k-th frame of
a 30 fps file is found at t = k / 30 although the file says 67 ms for 66.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from av.error import FFmpegError
from av.packet import Packet

from marey.configs.errors import InputError
from marey.pipeline.video.clock import distinct_times, forward
from marey.pipeline.video.container import VideoSource
from marey.pipeline.video.decoder_state import DecoderState
from marey.pipeline.video.packet_log import KEY, MISSING, SECOND, SHOWN, PacketLog, demux
from marey.pipeline.video.span import Span

MAX_TOLERANCE_S = 0.0005
KEEP_BYTES = 96 * 2**20
"""Packets of a stream up to this size stay in memory between the scan and the decode."""

_PACKED_DIVX = re.compile(rb"DivX\d+[Bb]\d+p")


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The packets of one stream in decode order, and the frames they show in shown order.

    pts, dts: int64 [N] in ticks of `time_base`; `MISSING` where the file has none.
    key: bool [N]; size: int64 [N] bytes.
    shown: int64 [F], decode positions in the order in which their frames are shown; of a frame in
        two packets, the first.
    times_s: float64 [F], when each of them is shown, from the first one, ascending.
    end_s: when the last one stops being shown.
    by_order: packet times do not say which frame is shown when (packed B-frames of old AVI files,
        raw streams), so that frames are known only by their place in the decoder's output.
    damaged: int64, decode positions of the packets that the demuxer marked as damaged.
    error: why the demuxer stopped early, or the timeline does.
    scene_grid: longest distance of keyframes in frames, if the encoder says that it put a keyframe
        at each scene cut; None if it says nothing.
    one_packet_a_frame: whether a packet holds the frame it shows and nothing else.
    second: bool [N], packets that hold the second field of the frame that the one before began;
        empty where there is none.
    place: int64 [N], where each packet begins in the file, in bytes; -1 where unknown.
    state: what a decoder must know that starts at one of the packets.
    nearest_s: least distance of two frames, if less than a tick (times that were spread).
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
    second: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=bool))
    place: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    state: DecoderState = field(default_factory=DecoderState)
    nearest_s: float = float("inf")

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
        """Half a tick; less where frames lie so near that their neighbours would be met."""
        return min(float(self.time_base) / 2, MAX_TOLERANCE_S, self.nearest_s / 4)

    @property
    def start_s(self) -> float:
        """The container's own time of the first frame shown; 0 where it gives none."""
        pts = self.pts[self.shown]
        timed = pts[pts != MISSING]
        return float(timed.min() * self.time_base) if len(timed) else 0.0

    def last_packets(self, places: np.ndarray) -> np.ndarray:
        """Decode positions of the packets that complete the frames at these places: int64."""
        positions = self.shown[places]
        if not self.second.any():
            return positions
        after = np.minimum(positions + 1, len(self.second) - 1)
        return np.where(self.second[after], after, positions)

    def frame_at(self, times_s: np.ndarray) -> np.ndarray:
        """Which frame is shown at each time, as a place in shown order.

        times_s: float64 [T]. Returns int64 [T]; -1 before the start, -2 at or after the end.
        """
        times_s = np.asarray(times_s, dtype=np.float64)
        places = np.searchsorted(self.times_s, times_s + self.tolerance_s, side="right") - 1
        places = np.where(times_s >= self.end_s + self.tolerance_s, -2, places)
        return np.where(np.isfinite(times_s), places, -1)

    def places_within(self, span: Span) -> tuple[int, int]:
        """The frames that begin within a span: places [first, stop) in shown order."""
        edges = np.array(span) - self.tolerance_s
        first, stop = np.searchsorted(self.times_s, edges, side="left").tolist()
        return first, max(first, stop)

    def within(self, span: Span) -> Timeline:
        """The frames of a span alone, their times from the first of them; the packets of the file.

        A span without a frame gives a timeline without one.
        """
        first, stop = self.places_within(span)
        start_s = self.times_s[first] if first < stop else 0.0
        end_s = self.times_s[stop] if stop < self.num_frames else self.end_s
        return replace(
            self,
            shown=self.shown[first:stop],
            times_s=self.times_s[first:stop] - start_s,
            end_s=float(end_s - start_s) if first < stop else 0.0,
        )


def scan(
    source: VideoSource, keep_bytes: int = 0, deadline: float = float("inf")
) -> tuple[Timeline, list[Packet] | None]:
    """Demux the whole stream once.

    Returns the timeline, and the packets themselves unless they exceed `keep_bytes` in total.
    A demuxer that fails on the way ends the timeline there: its `error` says why. So do times that
    step back.
    Raises InputError if the stream holds no packet at all, VideoError as `demux` does.
    """
    log = PacketLog(source, keep_bytes)
    error = None
    try:
        for packet in demux(source, deadline):
            log.add(packet)
    except (FFmpegError, OSError) as failure:
        error = f"stopped after {len(log)} packets: {failure}"
    return timeline_of(log, error), log.packets


def timeline_of(log: PacketLog, error: str | None = None) -> Timeline:
    """The timeline of the packets of a log. Raises InputError if there are none."""
    source = log.source
    if not len(log):
        raise InputError(f"{source.uri}: its video stream holds no packet ({error or 'empty'})")
    numbers, marks = log.columns()
    if log.state.encrypted is not None:
        if not log.state.encrypted:
            raise InputError(f"{source.uri}: is encrypted; decrypt it to have it read")
        stop = log.state.encrypted
        error = f"is encrypted from packet {stop} on; decrypt it to have it read"
        numbers, marks = numbers[:stop], marks[:stop]
    begins = np.flatnonzero(marks & SHOWN)
    pts = numbers[:, 0]
    context = source.stream.codec_context
    packed = context.name == "mpeg4" and bool(_PACKED_DIVX.search(context.extradata or b""))
    # AVI holds no presentation times: the demuxer guesses them from the decode order.
    guessed = source.container.format.name == "avi" and context.name != "mpeg4"
    packed |= guessed and context.has_b_frames
    if "mov" in source.container.format.name:
        begins = begins[~source.edits().hides(pts[begins])]
    untimed = bool((pts[begins] == MISSING).any())
    # A capture that begins in the middle of a group: no decoder can show what comes before its
    # first keyframe. Of an MP4 the table of keyframes may be wrong, and nothing was cut.
    if not untimed and not packed and "mov" not in source.container.format.name:
        before = len(begins)
        begins = _from_first_key(begins, pts, marks)
        if len(begins) < before and error is None:
            error = (
                f"begins between two keyframes: {before - len(begins)} frames that refer to what "
                "came before it are not read"
            )
    base = float(source.time_base)
    ticks = pts[begins]
    # MP4 states the time of every frame in one table: no clock ran, and none steps back.
    if not untimed and not packed and "mov" not in source.container.format.name:
        ticks, cut = forward(ticks, (marks[begins] & KEY).astype(bool), log.reorder)
        if cut is not None:
            stop = int(begins[cut])
            error = (
                f"its times start again after {stop} packets (files joined end to end, or a clock "
                f"that was set back?); the {len(marks) - stop} packets from there on are not read"
            )
            numbers, marks, begins, ticks = numbers[:stop], marks[:stop], begins[:cut], ticks[:cut]
    if log.packets is not None:
        del log.packets[len(marks) :]
    pts, dts, size, duration, place = numbers.T.copy()
    second = (marks & SECOND).astype(bool)
    shown = begins
    if untimed:
        ticks = np.arange(len(shown)) / ((source.fps or 25.0) * base)
    else:
        order = np.argsort(ticks, kind="stable")
        shown = shown[order]
        ticks = (ticks[order] - ticks[order[:1]]).astype(np.float64)
    end, nearest_s = 0.0, float("inf")
    if len(shown):
        # Of fields, durations may mean a field or a frame.
        fields = second.any() and len(shown) > 1
        last = 0 if fields else _frame_duration(shown[-1], duration, second)
        end = ticks[-1] + _last_frame_ticks(source, ticks, last)
        spread = ticks if packed else distinct_times(ticks, end)
        if spread is not ticks:
            ticks, nearest_s = spread, float(np.diff(spread).min()) * base
            if not last:
                end = ticks[-1] + _last_frame_ticks(source, ticks, 0)
    return Timeline(
        source.time_base,
        pts,
        dts,
        (marks & KEY).astype(bool),
        size,
        shown,
        ticks * base,
        float(end) * base,
        by_order=packed or untimed,
        damaged=np.array([n for n in log.damaged if n < len(marks)], dtype=np.int64),
        error=error,
        scene_grid=log.grid,
        one_packet_a_frame=context.codec.canonical_name not in ("vp8", "vp9", "av1"),
        second=second if second.any() else np.empty(0, dtype=bool),
        place=place,
        state=log.state,
        nearest_s=nearest_s,
    )


def _from_first_key(begins: np.ndarray, pts: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The frames that can be decoded of a stream whose first packet is no keyframe: those from its
    first keyframe on, but for those shown before it, which refer to the group that is missing."""
    keys = np.flatnonzero(marks & KEY)
    if not len(keys) or keys[0] == 0:
        return begins
    return begins[(begins >= keys[0]) & (pts[begins] >= pts[keys[0]])]


def _frame_duration(position: int, duration: np.ndarray, second: np.ndarray) -> int:
    """Ticks for which a frame is shown, by its packets."""
    both = position + 1 < len(second) and second[position + 1]
    return int(duration[position] + (duration[position + 1] if both else 0))


def _last_frame_ticks(source: VideoSource, ticks: np.ndarray, duration: int) -> float:
    """How long the last frame is shown: as its packets say, else as long as its neighbours."""
    if duration > 0:
        return float(duration)
    distances = np.diff(ticks)
    if (distances > 0).any():
        return float(np.median(distances[distances > 0]))
    return 1.0 / (source.fps * float(source.time_base)) if source.fps else 1.0
