"""What does a tracker follow in this video? Boxes drawn over the frames, for people to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from marey.configs.errors import InputError, UsageError
from marey.pipeline.runtime.storage import Folder, split
from marey.pipeline.video import probe, read_range
from marey.pipeline.video.mp4_writer import encode_mp4
from marey.trackers import Request, State, Track, build
from marey.trackers.draw import draw_track
from marey.trackers.proposals import PROPOSERS

LOOK_EVERY_S = 0.2
"""How often frames are looked at for something that moves."""
MAX_SECONDS = 120.0
"""Longest piece that is followed at once: its frames are held in memory."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What became of the boxes."""

    frames: int
    boxes: int
    kept: int
    """Boxes that are still tracked in the last frame."""
    reasons: dict[str, int]


def follow(
    video: str,
    out: str,
    *,
    boxes: np.ndarray | None = None,
    tracker: str = "strcf",
    tracker_settings: Mapping[str, Any] | None = None,
    start_s: float = 0.0,
    seconds: float = 20.0,
    height: int = 448,
) -> Followed:
    """Track boxes from `start_s` on, and write the frames with the boxes drawn as an mp4.

    boxes: float [B, 4] xywh in pixels of the displayed video, in the first frame; None takes what
    moves, from the first frame on in which something does. Raises InputError when the video cannot
    be read or nothing moves, UsageError for values out of range, SettingError for an unknown
    tracker.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise UsageError(f"--seconds {seconds} is not in (0, {MAX_SECONDS:g}]")
    built = build(tracker, **(tracker_settings or {}))
    info = probe(video, motion="none")
    if info.status == "unreadable":
        raise InputError(info.error)
    if not 0 <= start_s < info.duration_s:
        raise UsageError(f"--start {start_s} is not within the {info.duration_s:.2f} s of {video}")
    side = min(info.width, info.height, height)
    frames, times_s, _ = read_range(video, start_s, start_s + seconds, side)
    if len(frames) < 2:
        raise InputError(f"{video}: fewer than two frames from {start_s} s on")
    scale = frames.shape[1] / info.height
    fps = (len(times_s) - 1) / (times_s[-1] - times_s[0])
    if boxes is None:
        first, chosen = _first_motion(frames, max(1, round(fps * LOOK_EVERY_S)))
        if not len(chosen):
            raise InputError(
                f"{video}: nothing moves within {seconds} s of {start_s} s but the camera; give "
                "--box x,y,w,h, or another --start"
            )
    else:
        first, chosen = 0, (boxes * scale).astype(np.float32)
    request = Request(frames, chosen, np.full(len(chosen), first, dtype=np.int64))
    (track,) = built.track_clips([request])
    folder, name = split(out)
    Folder(folder).write(name, encode_mp4(draw_track(frames, track), times_s))
    return _summary(track)


def _first_motion(frames: np.ndarray, every: int) -> tuple[int, np.ndarray]:
    """The first of every `every`-th frame in which things move, and their boxes float32 [B, 4]."""
    proposer = PROPOSERS["moving_objects"]()
    for at in range(0, len(frames) - 1, every):
        boxes = proposer.propose(frames, at, np.random.default_rng(0)).boxes
        if len(boxes):
            return at, boxes
    return 0, np.zeros((0, 4), np.float32)


def _summary(track: Track) -> Followed:
    alive = int((track.state[-1] == State.TRACKED).sum())
    reasons = Counter(reason for reason in track.reason if reason)
    return Followed(len(track.boxes), track.boxes.shape[1], alive, dict(reasons.most_common()))
