"""Where the demo's videos come from: a small synchronised multi-view corpus, made in seconds.

Nothing is downloaded. An arm fetches a block and carries it to a pad; every event is seen by
several cameras, and every video is really encoded (h264 with B-frames). The state of the arm is
known for every frame and lies beside the videos, for evaluation only:

    folder/train/fetch000_view0.mp4     event 0 from camera 0
    folder/test/fetch009_view1.mp4
    folder/labels/fetch000.json         {"fps", "phases", "frames": [{"phase", "joints", ...}]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from marey.configs.errors import InputError, MareyError, SettingError
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.runtime.workers import Lost, run_in_processes
from marey.pipeline.synthetic.encode import encode_frames
from marey.pipeline.synthetic.look import Set, Shot
from marey.pipeline.synthetic.scene import PHASES, Event

__all__ = ["PHASES", "make_corpus"]

_TEST_SHARE = 0.25
_WORTH_A_POOL = 400 * 128**2
"""Pixels from which starting processes (about a second) pays off."""
_LIMIT_S = 3600.0
"""Seconds for one video, which takes two or three."""


def make_corpus(
    folder: Path,
    *,
    events: int = 12,
    views: int = 2,
    seconds: float = 6,
    fps: int = 15,
    size: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Path]:
    """Write `events * views` videos and their labels; the last quarter of the events is `test`.

    The same arguments write the same bytes. progress: called with (videos done, videos in all).
    Returns the videos' paths, event by event.
    Raises SettingError when a number is out of range, InputError when the folder holds videos of
    another generated corpus.
    """
    for name, value, low, high in (
        ("events", events, 2, 1000),
        ("views", views, 1, 4),
        ("seconds", seconds, 1, 600),
        ("fps", fps, 1, 120),
        ("size", size, 32, 1024),
    ):
        if not low <= value <= high:
            raise SettingError(f"{name}={value} is out of range: {low} to {high}")
    if size % 2:
        raise SettingError(f"size={size} is odd: h264 needs an even number of pixels")
    first_test = events - max(1, round(events * _TEST_SHARE))
    jobs = [
        _Video(
            path=folder / ("train" if event < first_test else "test") / _name(event, view),
            seed=seed,
            event=event,
            view=view,
            seconds=seconds,
            fps=fps,
            size=size,
        )
        for event in range(events)
        for view in range(views)
    ]
    foreign = set(folder.glob("t*/fetch*_view*.mp4")) - {job.path for job in jobs}
    if foreign:
        raise InputError(
            f"{folder} already holds a generated corpus with other settings "
            f"({len(foreign)} other videos, e.g. {min(foreign)}); choose an empty folder"
        )
    for name in ("train", "test", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for event in range(events):
        text = json.dumps(_labels(Event(seed, event, seconds), fps))
        (folder / "labels" / f"fetch{event:03d}.json").write_text(text)
    _write_all(jobs, progress)
    return [job.path for job in jobs]


@dataclass(frozen=True, slots=True)
class _Video:
    """One file to write."""

    path: Path
    seed: int
    event: int
    view: int
    seconds: float
    fps: int
    size: int


def _name(event: int, view: int) -> str:
    return f"fetch{event:03d}_view{view}.mp4"


def _write_all(jobs: Sequence[_Video], progress: Callable[[int, int], object]) -> None:
    workers = min(len(jobs), default_workers())
    pixels = sum(job.seconds * job.fps * job.size**2 for job in jobs)
    if workers == 1 or pixels < _WORTH_A_POOL:
        for done, job in enumerate(jobs, start=1):
            _write(job)
            progress(done, len(jobs))
        return
    # drawing holds the interpreter's lock, so threads would not help
    written_all = run_in_processes(_write, jobs, workers=workers, limit_s=_LIMIT_S)
    for done, (_, written) in enumerate(written_all, start=1):
        progress(done, len(jobs))
        if isinstance(written, Lost):
            raise MareyError(f"a video of the corpus was not written: {written.reason}")


def _write(job: _Video) -> None:
    cv2.setNumThreads(1)
    event = Event(job.seed, job.event, job.seconds)
    stage = Set.draw(event, np.random.default_rng([job.seed, job.event, 1]))
    shot = Shot(
        stage, job.view, job.size, np.random.default_rng([job.seed, job.event, 2, job.view])
    )
    frames = (shot.frame(number / job.fps) for number in range(round(job.seconds * job.fps)))
    encode_frames(job.path, frames, fps=job.fps, size=job.size)


def _labels(event: Event, fps: int) -> dict[str, object]:
    frames = []
    for number in range(round(event.seconds * fps)):
        state = event.state(number / fps)
        joints = (state.yaw, state.shoulder, state.elbow, state.grip)
        frames.append(
            {
                "phase": state.phase,
                "joints": [round(float(value), 4) for value in joints],
                "block": [round(float(value), 4) for value in state.block_xyz],
            }
        )
    return {"fps": fps, "phases": list(PHASES), "frames": frames}
