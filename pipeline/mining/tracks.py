"""How do videos become patch tracks? Proposals, tracking and filters over decoded clips.

    unit of work -> windows of frames -> shots -> proposals -> tracks -> checks -> patches -> rows

Plain callables; the stage graph runs them, in threads or as Ray actors. Every candidate that is
refused is counted under one reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from marey.configs.errors import InputError
from marey.configs.mining import TracksMining
from marey.configs.tracking import tracker_options
from marey.pipeline.data.events import Video
from marey.pipeline.data.shards import TRACKS, encode_image
from marey.pipeline.data.source import Source
from marey.pipeline.mining.shots import hard_cuts
from marey.pipeline.sampling import event_rng
from marey.pipeline.video import RangeFrames
from marey.pipeline.video.isolate import guarded_range
from marey.pipeline.video.reasons import PASSING, reason_of
from marey.trackers import State, Track, Tracker, build
from marey.trackers.camera_path import camera_path
from marey.trackers.consistency import (
    Limits,
    Quality,
    forward_backward_clips,
    judge,
    last_tracked,
    measure,
    own_travels,
)
from marey.trackers.proposals import PROPOSERS, Proposals, Proposer
from marey.trackers.tracker import Request

CUT_SHARE, CUT_BOXES = 0.7, 4
"""When this share of at least so many boxes ends in one frame, it is a cut that nobody saw."""


@dataclass(frozen=True, slots=True)
class TrackUnit:
    """The unit of work: tracks that start within [start_s, stop_s) of one video."""

    number: int
    row: int  # the video's place in the index's fixed order
    start_s: float
    stop_s: float


def thinned(video: Video, times_s: np.ndarray, max_fps: float) -> np.ndarray:
    """Which frames to follow things in, at most so many per second: int64, ascending.

    times_s: float64 [T], ascending. At a constant rate every n-th frame, so that tracks are even;
    where the rate varies, each frame that comes long enough after the last one kept.
    """
    if video.frame_times is None:
        return np.arange(0, len(times_s), max(1, math.ceil(video.fps / max_fps - 1e-6)))
    kept: list[int] = []
    for n, time_s in enumerate(times_s.tolist()):
        if not kept or time_s - times_s[kept[-1]] >= 1 / max_fps - 1e-3:  # as containers round
            kept.append(n)
    return np.array(kept, dtype=np.int64)


class TrackUnits(Sequence[TrackUnit]):
    """The units of a corpus, in the order of the index: the same on every machine.

    Made when they are asked for: a corpus has millions.
    """

    def __init__(self, source: Source, settings: TracksMining) -> None:
        self._duration_s = source.durations_s()
        readable = self._duration_s > 0
        pieces = np.ceil(self._duration_s / settings.unit_s - 1e-6)
        self._ends = np.cumsum(np.where(readable, np.maximum(1, pieces), 0).astype(np.int64))
        self._unit_s = settings.unit_s
        self.refused = int((~readable).sum())
        """Videos of the index that have no frame, and so no unit."""

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number):  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(f"unit {number} of {len(self)}")
        row = int(np.searchsorted(self._ends, number, side="right"))
        piece = number - (int(self._ends[row - 1]) if row else 0)
        start = piece * self._unit_s
        stop = min(start + self._unit_s, float(self._duration_s[row]))
        return TrackUnit(number, row, start, stop)


@dataclass(frozen=True, slots=True)
class Mined:
    """One track that stands.

    times_s: float64 [n]. boxes: float32 [n, 4] and patches: uint8 [p, S, S, 3], of frames at
    tracking size; `scale` turns boxes into pixels of the displayed picture.
    """

    times_s: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    patches: np.ndarray
    patch_times_s: np.ndarray
    quality: dict[str, float]
    scale: float


@dataclass
class TrackMiner:
    """Mines one video's units; holds the tracker, nothing else."""

    settings: TracksMining
    suspicious: bool = False
    """Read each video in a process of its own: one of them may have killed this one before."""

    def __post_init__(self) -> None:
        s = self.settings
        extra: dict[str, Any] = {"device": s.device} if s.device != "cpu" else {}
        if s.quality.min_score is not None:
            extra["min_score"] = s.quality.min_score
        extra |= tracker_options(s.tracker, s.tracker_settings, "tracker_settings.")
        self.tracker: Tracker = build(s.tracker, **extra)
        proposer = PROPOSERS[s.proposals.kind]
        self.proposer: Proposer = proposer(max_boxes=s.proposals.max_boxes)
        q = s.quality
        self.limits = Limits(
            min_fb_iou=q.min_fb_iou,
            max_fb_error=q.max_fb_error,
            min_appearance=q.min_appearance,
            max_appearance=q.max_appearance,
            min_travel=q.min_travel,
            max_travel=q.max_travel,
            max_scale_rate=q.max_scale_rate,
            min_inside=q.min_inside,
            min_own_travel=q.min_own_travel,
            min_late_travel=q.min_late_travel,
        )

    def unit(self, video: Video, unit: TrackUnit) -> tuple[list[Mined], Counter[str]]:
        """The tracks of one unit, best kept first when there are too many, and all reasons.

        Raises VideoError for a video that cannot be read for now (`PASSING`).
        """
        kept: list[Mined] = []
        reasons: Counter[str] = Counter()
        for start, stop in self._windows(unit):
            try:
                frames, times_s, lost = self._read(video, start, stop)
            except InputError as error:
                if reason_of(error) in PASSING:
                    raise
                reasons[f"window: {video.video_id}: {reason_of(error)}"] += 1
                continue
            gone = (why for time_s, why in lost.items() if time_s < stop)
            reasons.update(f"frame: {video.video_id}: {why}" for why in gone)
            rng = event_rng(0, round(start * 1000), video.video_id)
            # no track goes across a gap
            edges = (*video.cuts, *lost)
            found = self.clip(frames, times_s, start, stop, rng, reasons, edges)
            scale = video.height / frames.shape[1] if video.height else 1.0
            kept += [replace(mined, scale=scale) for mined in found]
        most = max(1, round(self.settings.per_minute * (unit.stop_s - unit.start_s) / 60))
        if len(kept) > most:
            reasons["track: over_the_limit"] += len(kept) - most
            best = sorted(range(len(kept)), key=lambda n: (-kept[n].quality["fb_iou"], n))[:most]
            kept = [kept[n] for n in sorted(best)]
        reasons["track: accepted"] += len(kept)
        return kept, reasons

    def _windows(self, unit: TrackUnit) -> Iterator[tuple[float, float]]:
        pieces = max(1, math.ceil((unit.stop_s - unit.start_s) / self.settings.window_s - 1e-6))
        for piece in range(pieces):
            start = unit.start_s + piece * self.settings.window_s
            yield start, min(start + self.settings.window_s, unit.stop_s)

    def _read(self, video: Video, start: float, stop: float) -> RangeFrames:
        """Frames from `start` until tracks that start before `stop` have ended."""
        side = min(video.width, video.height) or self.settings.height
        frames, times_s, lost = guarded_range(
            video.location(),
            start,
            stop + self.settings.track_s + 0.1,
            min(self.settings.height, side),
            suspected=self.suspicious,
            stream=video.stream,
            span=video.span,
        )
        kept = thinned(video, times_s, self.settings.max_fps)
        if len(kept) == len(times_s):  # an index would copy all frames
            return RangeFrames(frames, times_s, lost)
        return RangeFrames(frames[kept], times_s[kept], lost)

    def clip(
        self,
        frames: np.ndarray,
        times_s: np.ndarray,
        start_s: float,
        stop_s: float,
        rng: np.random.Generator,
        reasons: Counter[str],
        known_cuts: Sequence[float] = (),
    ) -> list[Mined]:
        """The tracks that start in [start_s, stop_s) of a decoded clip.

        frames: uint8 [T, H, W, 3]; times_s: float64 [T]. Adds to `reasons`.
        """
        edges = {0, len(frames), *hard_cuts(frames)}
        edges |= {int(np.searchsorted(times_s, cut)) for cut in known_cuts}
        shots = sorted(edge for edge in edges if edge <= len(frames))
        seconds = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0
        starts: list[tuple[int, int]] = []
        for key in self._keys(times_s, start_s, stop_s):
            last_s = times_s[key] + self.settings.track_s + seconds / 2
            stop = int(np.searchsorted(times_s, last_s, side="right"))
            end = min(shots[int(np.searchsorted(shots, key, side="right"))], stop)
            if end - key < self.settings.quality.min_frames:
                reasons["key frame: too_short"] += 1
            else:
                starts.append((key, end))
        found, pieces = [], []
        for key, end in starts:
            proposals = self.proposer.propose(frames[key:end], 0, rng)
            if proposals.reason:
                reasons[f"key frame: {proposals.reason}"] += 1
                continue
            found.append((key, proposals))
            pieces.append((frames[key:end], times_s[key:end]))
        return self.follow(found, pieces, seconds, reasons)

    def _keys(self, times_s: np.ndarray, start_s: float, stop_s: float) -> Iterator[int]:
        """Frames in which tracks start: the first at or after every multiple of `every_s`.

        Each once, where frames are farther apart than that.
        """
        every, before = self.settings.proposals.every_s, -1
        for n in range(math.ceil(start_s / every - 1e-6), math.ceil(stop_s / every - 1e-6)):
            place = int(np.searchsorted(times_s, n * every - 1e-6))
            if place > before and place < len(times_s) and times_s[place] < stop_s:
                yield place
            before = place

    def follow(
        self,
        found: list[tuple[int, Proposals]],
        pieces: list[tuple[np.ndarray, np.ndarray]],
        seconds: float,
        reasons: Counter[str],
    ) -> list[Mined]:
        """Tracks every proposal of every key frame in one batch, and keeps what stands.

        found: key frames and the boxes that start there. pieces: for each, the frames from the key
        frame on, uint8 [T, H, W, 3], and their times. seconds: from one frame to the next. Adds to
        `reasons`.
        """
        tracks = self.tracker.track_clips(
            [
                Request(frames, p.boxes, np.zeros(len(p.boxes), dtype=np.int64))
                for (_, p), (frames, _) in zip(found, pieces, strict=True)
            ]
        )
        screened = [
            self._screen(t, f, seconds, reasons) for t, (f, _) in zip(tracks, pieces, strict=True)
        ]
        alive = [n for n, rows in enumerate(screened) if len(rows)]
        subsets = [_subset(tracks[n], screened[n]) for n in alive]
        back = forward_backward_clips(
            self.tracker,
            [(pieces[n][0], track, 0) for n, track in zip(alive, subsets, strict=True)],
        )
        out: list[Mined] = []
        for n, track, fb in zip(alive, subsets, back, strict=True):
            frames, times_s = pieces[n]
            quality = measure(frames, track, fb)
            verdicts = self._judge(track, quality, frames, seconds)
            for b, reason in enumerate(verdicts):
                if reason:
                    reasons[f"track: {reason}"] += 1
                else:
                    out.append(self._cut(frames, times_s, track, b, quality, found[n][1]))
        return out

    def _screen(
        self, track: Track, frames: np.ndarray, seconds: float, reasons: Counter[str]
    ) -> np.ndarray:
        """Which tracks pass everything that needs no backward run: rows of `track`."""
        num_boxes = track.boxes.shape[1]
        last = last_tracked(track)
        begun = last >= 0  # a box that was refused at once tells nothing of a cut
        ended = last[begun & np.array([bool(r) for r in track.reason], dtype=bool)]
        if begun.sum() >= CUT_BOXES and len(ended):
            most = int(np.bincount(ended).max())
            if most > CUT_SHARE * begun.sum():
                reasons["track: cut"] += num_boxes
                return np.zeros(0, dtype=np.int64)
        perfect = np.ones(num_boxes), np.zeros(num_boxes)
        quality = measure(frames, track, perfect)
        verdicts = self._judge(track, quality, frames, seconds)
        if not all(verdicts):  # the camera's motion is only measured where tracks depend on it
            standing = np.array([not reason for reason in verdicts])
            path = camera_path(frames, track.boxes[:, standing])
            own, late = own_travels(track, path)
            quality = replace(quality, own_travel=own, late_travel=late)
            verdicts = self._judge(track, quality, frames, seconds)
        for reason in verdicts:
            if reason:
                reasons[f"track: {reason}"] += 1
        return np.array([b for b, reason in enumerate(verdicts) if not reason], dtype=np.int64)

    def _judge(
        self, track: Track, quality: Quality, frames: np.ndarray, seconds: float
    ) -> list[str]:
        return judge(
            track,
            quality,
            self.limits,
            size=(frames.shape[2], frames.shape[1]),
            seconds=seconds,
            min_frames=self.settings.quality.min_frames,
        )

    def _cut(
        self,
        frames: np.ndarray,
        times_s: np.ndarray,
        track: Track,
        b: int,
        quality: Quality,
        proposals: Proposals,
    ) -> Mined:
        """The patches of a track that stands."""
        count = int((track.state[:, b] == State.TRACKED).sum())
        boxes = track.boxes[:count, b]
        chosen = np.linspace(0, count - 1, self.settings.patches).round().astype(int)
        patches = [
            cut_patch(frames[t], boxes[t], self.settings.context, self.settings.patch_size)
            for t in chosen
        ]
        return Mined(
            times_s=times_s[:count],
            boxes=boxes,
            scores=track.score[:count, b],
            patches=np.stack(patches),
            patch_times_s=times_s[chosen],
            quality={
                "fb_iou": float(quality.fb_iou[b]),
                "fb_error": float(quality.fb_error[b]),
                "appearance": float(quality.appearance[b]),
                "moving": proposals.moving,
                "camera_px": proposals.camera_px,
            },
            scale=1.0,
        )


def cut_patch(frame: np.ndarray, box: np.ndarray, context: float, size: int) -> np.ndarray:
    """The box with `context` around it, square by real pixels: uint8 [size, size, 3].

    The square is moved inside the frame where it would leave it, and made smaller only where the
    frame is.
    """
    height, width = frame.shape[:2]
    side = min(float(max(box[2], box[3])) * (1.0 + context), float(min(height, width)))
    centre = box[:2].astype(np.float64) + box[2:] / 2.0
    corner = np.clip(centre - side / 2.0, 0.0, np.array([width, height]) - side)
    x0, y0 = np.floor(corner).astype(int)
    whole = max(1, min(math.ceil(side), height - y0, width - x0))
    piece = np.ascontiguousarray(frame[y0 : y0 + whole, x0 : x0 + whole])
    method = cv2.INTER_AREA if whole > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(piece, (size, size), interpolation=method), dtype=np.uint8)


def track_table(video: Video, mined: Sequence[Mined], settings: TracksMining) -> pa.Table:
    """Mined tracks of one video as rows of `shards.TRACKS`."""
    rows: list[dict[str, Any]] = []
    for n, item in enumerate(mined):
        rows.append(
            {
                "sample": f"{video.video_id}@{item.times_s[0]:.3f}#{n}",
                "video_id": video.video_id,
                "event": video.event,
                "view": video.view,
                "images": [encode_image(patch, settings.image) for patch in item.patches],
                "image_times_s": item.patch_times_s.tolist(),
                "times_s": item.times_s.tolist(),
                "boxes": (item.boxes * np.float32(item.scale)).tolist(),
                "scores": item.scores.tolist(),
                **item.quality,
            }
        )
    return pa.Table.from_pylist(rows, schema=TRACKS)


def _subset(track: Track, rows: np.ndarray) -> Track:
    return Track(
        track.boxes[:, rows],
        track.score[:, rows],
        track.state[:, rows],
        tuple(track.reason[int(row)] for row in rows),
    )
