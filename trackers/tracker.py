"""What is a tracker, and what does it answer? The contract every tracker keeps, and their names.

A tracker knows no classes: it is given pixels and boxes and follows each box on its own.

1. At its start frame the output equals the given box exactly.
2. A track that ended stays ended; its last valid box is repeated.
3. One bad box never spoils the others: it is `LOST` from the start, with a reason.
4. A box's result does not depend on which other boxes are tracked beside it.
5. Frames are RGB.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from importlib import import_module
from inspect import signature
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from marey.configs import plugins
from marey.configs.errors import DependencyError, InputError, SettingError
from marey.configs.tracking import TrackerSettings, declare_tracker

Direction = Literal["forward", "backward"]


class State(IntEnum):
    """What a track says about one frame."""

    NOT_STARTED = 0
    TRACKED = 1
    LOST = 2
    OUT_OF_FRAME = 3


@dataclass(frozen=True, slots=True)
class Track:
    """Boxes followed through one clip, in the clip's own frame order whatever the direction.

    boxes: float32 [T, B, 4], xywh in pixels; NaN before the start, the last valid
        box after the end.
    score: float32 [T, B], the tracker's own scale, higher is better; NaN before the start.
    state: uint8 [T, B], values of `State`.
    reason: why each of the B tracks ended; "" while it did not.
    """

    boxes: NDArray[np.float32]
    score: NDArray[np.float32]
    state: NDArray[np.uint8]
    reason: tuple[str, ...]

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """int64 [B], in how many frames each box was tracked."""
        return (self.state == State.TRACKED).sum(axis=0)


@dataclass(frozen=True, slots=True)
class Request:
    """Boxes to follow through one clip.

    frames: uint8 [T, H, W, 3] RGB. boxes: float32 [B, 4] xywh in pixels of those frames.
    start: int64 [B], the frame each box is given for. direction: which way time runs.
    """

    frames: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    start: NDArray[np.int64]
    direction: Direction = "forward"


@dataclass(frozen=True, slots=True)
class Gate:
    """When a box is refused before anything is tracked (section numbers: `docs/tracking.md`)."""

    min_side: float = 8.0  # pixels
    max_frame_share: float = 0.8  # of the frame's area
    min_inside: float = 0.7  # share of the box's area inside the frame
    min_texture: float = 3.0  # standard deviation of grey levels (0-255) inside the box
    min_inside_later: float = 0.5  # below this the track ends as OUT_OF_FRAME


@dataclass(slots=True)
class Job:
    """One request while it is followed, with time running forward (arrays as in `Track`)."""

    frames: NDArray[np.uint8]
    start: NDArray[np.int64]
    boxes: NDArray[np.float32]
    score: NDArray[np.float32]
    state: NDArray[np.uint8]
    reason: list[str]
    pending: list[int] = field(default_factory=list)  # boxes that passed the gate

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames."""
        return self.frames.shape[2], self.frames.shape[1]

    def follow(self, t: int, b: int, box: NDArray[np.floating], score: float) -> None:
        """Box `b` is at `box` in frame `t`."""
        self.boxes[t, b] = box
        self.score[t, b] = score
        self.state[t, b] = State.TRACKED

    def end(self, t: int, b: int, reason: str, score: float = 0.0) -> None:
        """Box `b` ends at frame `t`: its last valid box is repeated from there on."""
        if t > self.start[b]:
            self.boxes[t:, b] = self.boxes[t - 1, b]
        self.score[t:, b] = 0.0
        self.score[t, b] = score
        out = State.OUT_OF_FRAME if reason == "out_of_frame" else State.LOST
        self.state[t:, b] = out
        self.reason[b] = reason


class Tracker(ABC):
    """Follows boxes through clips; subclasses say how in `_follow`."""

    gate: Gate = Gate()

    def track(
        self,
        frames: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        *,
        start: int | NDArray[np.int64] = 0,
        direction: Direction = "forward",
    ) -> Track:
        """Follows `boxes` through one clip.

        frames: uint8 [T, H, W, 3] RGB. boxes: float32 [B, 4] xywh in pixels. start: the frame (or
        int [B], one each) that the boxes are given for.
        Raises InputError if an array has the wrong shape or type, a start frame lies outside the
        clip, or a box has a negative size (the message names its row).
        """
        start = np.broadcast_to(np.asarray(start, dtype=np.int64), (len(boxes),))
        return self.track_clips([Request(frames, boxes, start, direction)])[0]

    def track_clips(self, requests: Sequence[Request]) -> list[Track]:
        """Follows the boxes of several clips, together where the tracker can; see `track`."""
        jobs = [open_job(request, self.gate) for request in requests]
        self._follow(jobs)
        return [close_job(job, r.direction) for job, r in zip(jobs, requests, strict=True)]

    @abstractmethod
    def _follow(self, jobs: list[Job]) -> None:
        """Fills every job's arrays for its `pending` boxes, from the frame after their start."""


def open_job(request: Request, gate: Gate) -> Job:
    """Checks a request, turns time forward, places the given boxes and refuses the bad ones."""
    frames, boxes = request.frames, np.asarray(request.boxes, dtype=np.float32)
    _check(request, boxes)
    num_frames, num_boxes = len(frames), len(boxes)
    start = request.start.astype(np.int64)
    if request.direction == "backward":
        frames, start = frames[::-1], num_frames - 1 - start
    job = Job(
        frames=frames,
        start=start,
        boxes=np.full((num_frames, num_boxes, 4), np.nan, dtype=np.float32),
        score=np.full((num_frames, num_boxes), np.nan, dtype=np.float32),
        state=np.full((num_frames, num_boxes), State.NOT_STARTED, dtype=np.uint8),
        reason=[""] * num_boxes,
    )
    for b in range(num_boxes):
        t = int(start[b])
        job.boxes[t:, b] = boxes[b]
        reason = refusal(frames[t], boxes[b], gate)
        if reason:
            job.end(t, b, reason)
        else:
            job.follow(t, b, boxes[b], 1.0)
            job.pending.append(b)
    return job


def close_job(job: Job, direction: Direction) -> Track:
    """The finished job as a `Track` in the clip's own frame order."""
    flip = slice(None, None, -1) if direction == "backward" else slice(None)
    return Track(job.boxes[flip], job.score[flip], job.state[flip], tuple(job.reason))


def refusal(frame: NDArray[np.uint8], box: NDArray[np.float32], gate: Gate) -> str:
    """Why `box` (xywh) cannot be followed from `frame` (uint8 [H, W, 3]); "" if it can."""
    if not np.isfinite(box).all():
        return "non_finite"
    height, width = frame.shape[:2]
    if min(box[2], box[3]) < gate.min_side:
        return "box_too_small"
    if inside_share(box, (width, height)) < gate.min_inside:
        return "outside_image"
    if box[2] * box[3] > gate.max_frame_share * width * height:
        return "box_too_large"
    x0, y0 = np.maximum(np.floor(box[:2]).astype(int), 0)
    x1, y1 = np.ceil(box[:2] + box[2:]).astype(int)
    inside = frame[y0:y1, x0:x1]
    step = 1 + max(inside.shape[:2]) // 64  # a sparse grid measures contrast well enough
    grey = inside[::step, ::step].astype(np.float32) @ np.array(
        [0.299, 0.587, 0.114], dtype=np.float32
    )
    return "textureless" if grey.std() < gate.min_texture else ""


def inside_share(box: NDArray[np.floating], size: tuple[int, int]) -> float:
    """Which share of the area of `box` (xywh) lies inside a frame of `size` (width, height)."""
    low = np.maximum(box[:2], 0.0)
    high = np.minimum(box[:2] + box[2:], size)
    return float(np.prod(np.maximum(high - low, 0.0)) / max(float(box[2] * box[3]), 1e-9))


def iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Overlap (intersection over union) of boxes `a` and `b`, xywh [..., 4], broadcast."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inter = np.prod(np.maximum(high - low, 0.0), axis=-1)
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - inter
    return inter / np.maximum(union, 1e-12)


def _check(request: Request, boxes: NDArray[np.float32]) -> None:
    frames, start = request.frames, request.start
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise InputError(
            f"frames: {frames.dtype} {list(frames.shape)} given; a tracker reads uint8 "
            "[T, H, W, 3] RGB with at least one frame"
        )
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes: shape {list(boxes.shape)} given; a tracker reads [B, 4] xywh")
    if start.shape != (len(boxes),) or np.any((start < 0) | (start >= len(frames))):
        raise InputError(
            f"start: {start.tolist()} given; one frame number in 0..{len(frames) - 1} for each of "
            f"{len(boxes)} boxes is needed"
        )
    if request.direction not in ("forward", "backward"):
        raise SettingError(f"direction: {request.direction!r} given; 'forward' or 'backward'")
    for row in np.flatnonzero((boxes[:, 2] < 0) | (boxes[:, 3] < 0)):
        raise InputError(
            f"boxes, row {row}: {boxes[row].tolist()} has a negative size; boxes are x, y, width, "
            "height with the top left corner as origin"
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    """How a tracker is made: `make()` gives what is called with the settings."""

    make: Callable[[], Callable[..., Tracker]]
    fixed: Mapping[str, Any] = field(default_factory=dict)


_registry: dict[str, _Entry] = {}
T = TypeVar("T", bound=Callable[..., Tracker])


def register(name: str, module: str, constructor: str, /, **settings: Any) -> None:
    """Make `build(name)` call `module.constructor(**settings)`; the module is imported then.

    OpenCV and torch take long to load.
    """
    _registry[name] = _Entry(lambda: getattr(import_module(module), constructor), settings)
    plugins.bring("tracker", name, module)


def register_tracker(name: str, settings: TrackerSettings | None = None) -> Callable[[T], T]:
    """Decorator of a tracker's class, or of a function that makes one: `build(name)` calls it.

    settings: what can be set, with the tracker's own values as defaults, for help and checks;
    without it the parameters are what can be set. Raises TypeError if another has this name.
    """

    def decorate(make: T) -> T:
        known = _registry.get(name)
        if known is not None and _where(known.make()) != _where(make):
            raise TypeError(f"two trackers are called {name!r}: {known.make()} and {make}")
        _registry[name] = _Entry(lambda: make)
        plugins.bring("tracker", name, make.__module__)
        if settings is not None:
            declare_tracker(name, settings)
        return make

    return decorate


def _where(make: Callable[..., Tracker]) -> tuple[str, str]:
    return make.__module__, make.__qualname__


def names() -> tuple[str, ...]:
    """Every registered tracker, whether it can be built here or not."""
    return tuple(_registry)


def find_tracker(name: str) -> _Entry:
    """How the tracker of that name, or at a dotted name, is made.

    Raises SettingError with the nearest names when there is none.
    """
    return plugins.look_up(_registry, name, "tracker", made_of=_made_of)


def _made_of(name: str, make: Any) -> _Entry:
    if not callable(make):
        raise SettingError(f"tracker {name!r} is {make!r}; a class or function is needed")
    return _Entry(lambda: cast("Callable[..., Tracker]", make))


def build(name: str, /, **settings: Any) -> Tracker:
    """The tracker called `name`; `settings` override its own.

    Raises SettingError for an unknown name or setting, DependencyError where a package is missing.
    """
    entry = find_tracker(name)
    make, given = entry.make(), {**entry.fixed, **settings}
    try:
        signature(make).bind(**given)
    except TypeError as error:
        raise SettingError(f"tracker {name!r}: {error}") from error
    made = make(**given)
    if not isinstance(made, Tracker):
        raise SettingError(f"tracker {name!r} made {type(made)}, which does not extend Tracker")
    return made


def missing() -> dict[str, str]:
    """Which registered trackers cannot be built on this machine, and why."""
    absent = {}
    for name in _registry:
        try:
            build(name)
        except DependencyError as error:
            absent[name] = str(error)
    return absent
