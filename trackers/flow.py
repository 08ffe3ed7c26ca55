"""How do boxes follow points? Median flow on pyramidal Lucas-Kanade, all boxes in one call.

Kalal, Mikolajczyk and Matas, "Forward-Backward Error", ICPR 2010: a grid of points in each box is
tracked forward and backward, the half that returns best and looks most alike votes by medians for
the box's shift and scale. The points of all boxes of a frame go through OpenCV in one call.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import SettingError
from marey.configs.tracking import MedianFlowSettings
from marey.trackers.threads import one_thread
from marey.trackers.tracker import Gate, Job, Tracker

Points = NDArray[np.float32]

DEFAULT = MedianFlowSettings()


@dataclass(frozen=True)
class LucasKanade:
    """Settings of the point tracker."""

    window: int = 21  # pixels
    levels: int = 4  # of the pyramid, above the image itself
    iterations: int = 20
    min_eigenvalue: float = 1e-4


def track_points(
    before: NDArray[np.uint8], after: NDArray[np.uint8], points: Points, settings: LucasKanade
) -> tuple[Points, NDArray[np.bool_]]:
    """Where `points` float32 [N, 2] of the grey image `before` lie in `after`; which were found.

    Coordinates are continuous: pixel i covers [i, i+1).
    """
    if not len(points):
        return points.copy(), np.zeros(0, dtype=bool)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, settings.iterations, 0.03)
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        (points - 0.5).reshape(-1, 1, 2).astype(np.float32),
        None,  # type: ignore[arg-type]
        winSize=(settings.window, settings.window),
        maxLevel=settings.levels,
        criteria=criteria,
        minEigThreshold=settings.min_eigenvalue,
    )
    return moved.reshape(-1, 2) + np.float32(0.5), status.reshape(-1) == 1


class MedianFlow(Tracker):
    """Median flow; `score` is the share of a box's points that came back within one pixel."""

    def __init__(
        self,
        *,
        grid: int = DEFAULT.grid,
        max_fb_error: float = DEFAULT.max_fb_error,
        max_spread: float = DEFAULT.max_spread,
        persistent: bool = DEFAULT.persistent,
        lucas_kanade: LucasKanade | None = None,
        gate: Gate | None = None,
    ) -> None:
        """grid: points on a side. max_fb_error: a box whose median forward-backward error is larger
        is lost. max_spread: and one whose points' shifts differ more (median, both in pixels).
        persistent: keep the box where it is instead of ending it.
        """
        if grid < 2:
            raise SettingError(f"grid: {grid} given; at least 2 points on a side")
        self.grid, self.max_fb_error, self.max_spread = grid, max_fb_error, max_spread
        self.persistent = persistent
        self.lucas_kanade = lucas_kanade or LucasKanade(window=9)  # the grid replaces a wide one
        self.gate = gate or Gate()

    def _follow(self, jobs: list[Job]) -> None:
        with one_thread():
            for job in jobs:
                self._follow_clip(job)

    def _follow_clip(self, job: Job) -> None:
        waiting = sorted(job.pending, key=lambda b: int(job.start[b]))
        living: list[int] = []
        before: NDArray[np.uint8] | None = None
        if not waiting:
            return
        for t in range(int(job.start[waiting[0]]), len(job.frames)):
            image = grey(job.frames[t])
            if living and before is not None:
                living = self._step(job, t, living, before, image)
            living += [b for b in waiting if job.start[b] == t]
            if not living and all(job.start[b] <= t for b in waiting):
                return
            before = image

    def _step(
        self,
        job: Job,
        t: int,
        living: list[int],
        before: NDArray[np.uint8],
        image: NDArray[np.uint8],
    ) -> list[int]:
        """Moves the boxes `living` from frame t-1 to t; those still living."""
        boxes = job.boxes[t - 1, living].astype(np.float64)
        points = grid_points(boxes, self.grid)
        flat = points.reshape(-1, 2).astype(np.float32)
        there, ok_there = track_points(before, image, flat, self.lucas_kanade)
        back, ok_back = track_points(image, before, there, self.lucas_kanade)
        error = np.linalg.norm(back - flat, axis=1)
        good = ok_there & ok_back & np.isfinite(error)
        alike = patch_correlation(before, image, flat, there)
        shape = (len(living), -1)
        there = there.reshape(*points.shape).astype(np.float64)
        good, error, alike = good.reshape(shape), error.reshape(shape), alike.reshape(shape)
        still: list[int] = []
        for row, b in enumerate(living):
            found = vote(points[row], there[row], good[row], error[row], alike[row])
            reason = ""
            if found is None:
                reason = "too_few_points"
            elif found.fb_error > self.max_fb_error:
                reason = "fb_error"
            elif found.spread > self.max_spread:
                reason = "spread"
            if (reason or found is None) and not self.persistent:
                job.end(t, b, reason)
                continue
            box, score = boxes[row], 0.0
            if found is not None and not reason:
                box = _move(box, found)
                score = float((error[row][good[row]] < 1.0).sum() / good.shape[1])
            if not self.persistent:
                low = np.maximum(box[:2], 0.0)
                high = np.minimum(box[:2] + box[2:], job.size)
                inside = np.maximum(high - low, 0.0).prod() / max(box[2] * box[3], 1e-9)
                if inside < self.gate.min_inside_later:
                    job.end(t, b, "out_of_frame")
                    continue
                if box[2:].min() < self.gate.min_side / 2:
                    job.end(t, b, "box_too_small")
                    continue
            job.follow(t, b, box, score)
            still.append(b)
        return still


@dataclass(frozen=True, slots=True)
class Vote:
    """What the points of one box say: shift in pixels, scale, and how far to believe it."""

    shift: NDArray[np.float64]
    scale: float
    fb_error: float  # median over the points, pixels
    spread: float  # median distance of the points' shifts from `shift`, pixels


def vote(
    points: NDArray[np.float64],
    there: NDArray[np.float64],
    good: NDArray[np.bool_],
    error: NDArray[np.floating],
    alike: NDArray[np.floating],
    min_points: int = 6,
) -> Vote | None:
    """Medians over the better half of one box's points [N, 2]; None with too few of them."""
    rows = np.flatnonzero(good)
    if len(rows) < min_points:
        return None
    fb_error = float(np.median(error[rows]))
    kept = rows[(error[rows] <= fb_error) & (alike[rows] >= np.median(alike[rows]))]
    if len(kept) < min_points // 2:
        kept = rows[error[rows] <= fb_error]
    a, b = points[kept], there[kept]
    shifts = b - a
    shift = np.median(shifts, axis=0)
    i, j = np.triu_indices(len(kept), 1)
    was = np.linalg.norm(a[i] - a[j], axis=1)
    now = np.linalg.norm(b[i] - b[j], axis=1)
    apart = was > 1e-6
    scale = float(np.median(now[apart] / was[apart])) if apart.any() else 1.0
    spread = float(np.median(np.linalg.norm(shifts - shift, axis=1)))
    return Vote(shift, scale, fb_error, spread)


def grid_points(boxes: NDArray[np.float64], grid: int) -> NDArray[np.float64]:
    """float64 [B, grid*grid, 2]: evenly spaced points inside boxes [B, 4] xywh."""
    step = (np.arange(grid) + 0.5) / grid
    x, y = np.meshgrid(step, step)
    unit = np.stack([x.ravel(), y.ravel()], axis=1)
    return boxes[:, None, :2] + unit[None] * boxes[:, None, 2:]


def patch_correlation(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    points: Points,
    there: Points,
    size: int = 10,
) -> NDArray[np.float64]:
    """float64 [N]: normalised cross-correlation of the patches around matching points."""
    offset = np.arange(size) - (size - 1) / 2.0

    def read(image: NDArray[np.uint8], centre: Points) -> NDArray[np.float64]:
        clean = np.nan_to_num(centre, nan=0.0, posinf=0.0, neginf=0.0)
        limit = np.array([image.shape[1] - 1, image.shape[0] - 1])
        column = np.floor(clean[:, 0, None] + offset).astype(int).clip(0, limit[0])
        row = np.floor(clean[:, 1, None] + offset).astype(int).clip(0, limit[1])
        patch = image[row[:, :, None], column[:, None, :]].reshape(len(centre), -1)
        patch = patch.astype(np.float64)
        return patch - patch.mean(axis=1, keepdims=True)

    a, b = read(before, points), read(after, there)
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return (a * b).sum(1) / np.maximum(norm, 1e-9)


def _move(box: NDArray[np.float64], found: Vote) -> NDArray[np.float64]:
    centre = box[:2] + box[2:] / 2.0 + found.shift
    size = box[2:] * found.scale
    return np.concatenate([centre - size / 2.0, size])


def grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB -> uint8 [H, W]."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), dtype=np.uint8)
