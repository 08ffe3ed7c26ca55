"""Where should a track start? Boxes around things that move, the camera's own motion removed.

Wang and Gupta, "Unsupervised Learning of Visual Representations using Videos" (ICCV 2015), section
3, with replaceable parts: points are corners instead of SURF, their motion is measured by
Lucas-Kanade, and the camera's by a robust homography through it, as improved trajectories do.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import SettingError
from marey.trackers.flow import LucasKanade, grey, track_points
from marey.trackers.tracker import iou


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes for one frame; `reason` says why there are none ("" if there are).

    boxes: float32 [N, 4] xywh, best first. score: float32 [N], moving points inside.
    moving: share of the frame's points that move. camera_px: mean camera motion, pixels a frame.
    """

    boxes: NDArray[np.float32]
    score: NDArray[np.float32]
    reason: str
    moving: float = 0.0
    camera_px: float = 0.0


class Proposer(Protocol):
    """Says where tracks should start in frame `at` of a clip."""

    def propose(self, frames: NDArray[np.uint8], at: int, rng: np.random.Generator) -> Proposals:
        """frames: uint8 [T, H, W, 3] RGB."""
        ...


@dataclass(frozen=True, slots=True)
class Motion:
    """How points move between two frames.

    points: float32 [N, 2], of the first. flow, residual: float32 [N, 2], with and without the
    camera's motion, pixels. trusted: is the camera's motion known?
    """

    points: NDArray[np.float32]
    flow: NDArray[np.float32]
    residual: NDArray[np.float32]
    trusted: bool

    def speed(self, gap: int) -> NDArray[np.float32]:
        """[N]: the points' own motion in pixels a frame, the two frames being `gap` apart."""
        return np.linalg.norm(self.residual, axis=1) / gap

    def camera_px(self, gap: int) -> float:
        """The camera's mean motion in pixels a frame, the two frames being `gap` apart."""
        return float(np.linalg.norm(self.flow - self.residual, axis=1).mean()) / gap


@dataclass(frozen=True)
class MovingPoints:
    """The default: windows with most moving points. Lengths are for a frame 448 pixels high."""

    window: float = 227.0  # box side
    reference_height: float = 448.0
    stride: float = 8.0
    moving_px: float = 0.5  # residual motion a frame above which a point moves
    min_share: float = 0.25  # of moving points in the frame: fewer is noise, or nothing happens
    max_share: float = 0.75  # more is the camera
    min_points: int = 10  # moving ones inside a window
    min_density: float = 2.0  # times the frame's mean density of moving points
    max_boxes: int = 8
    max_iou: float = 0.3  # of two boxes of one frame
    gap: int = 1  # frames between the two that are compared

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_share < self.max_share <= 1.0:
            raise SettingError(
                f"proposals: min_share {self.min_share} and max_share {self.max_share} given; "
                "0 <= min_share < max_share <= 1"
            )

    def propose(self, frames: NDArray[np.uint8], at: int, rng: np.random.Generator) -> Proposals:
        """See `Proposer`; `rng` is not used."""
        del rng
        if at + self.gap >= len(frames):
            return _none("too_short")
        motion = residual_motion(frames[at], frames[at + self.gap])
        if motion is None:
            return _none("no_motion")
        camera_px = motion.camera_px(self.gap)
        scale = frames.shape[1] / self.reference_height
        moves = motion.speed(self.gap) > self.moving_px * scale
        share = float(moves.mean())
        if not motion.trusted:
            return _none("too_much_camera_motion", share, camera_px)
        if share < self.min_share:
            moves_at_all = np.linalg.norm(motion.flow, axis=1) / self.gap > self.moving_px * scale
            reason = "camera_only" if moves_at_all.mean() > self.max_share else "static"
            return _none(reason, share, camera_px)
        if share > self.max_share:
            return _none("too_much_motion", share, camera_px)
        boxes, count = self._windows(motion.points[moves], frames.shape[1:3], scale)
        if not len(boxes):
            return _none("no_dense_window", share, camera_px)
        return Proposals(boxes, count, "", share, camera_px)

    def _windows(
        self, moving: NDArray[np.float32], size: tuple[int, ...], scale: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The windows with most of the points `moving`, from an integral image of their mask."""
        height, width = size[:2]
        side = min(self.window * scale, height, width)
        step = max(self.stride * scale, 1.0)
        cells_y, cells_x = int(height / step) + 1, int(width / step) + 1
        grid = np.zeros((cells_y, cells_x))
        index = (moving / step).astype(int)
        np.add.at(grid, (index[:, 1].clip(0, cells_y - 1), index[:, 0].clip(0, cells_x - 1)), 1.0)
        total = np.zeros((cells_y + 1, cells_x + 1))
        total[1:, 1:] = grid.cumsum(0).cumsum(1)
        span = max(int(side / step), 1)
        if span > min(cells_y, cells_x):
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        count = total[span:, span:] - total[:-span, span:] - total[span:, :-span]
        count = count + total[:-span, :-span]
        y, x = np.unravel_index(np.argsort(-count, axis=None, kind="stable"), count.shape)
        inside = count[y, x]
        expected = len(moving) * side * side / (height * width)
        # where the window is half the frame, twice the mean density cannot be asked for
        wanted = min(self.min_density * expected, 0.5 * (expected + len(moving)))
        keep = inside >= max(self.min_points, wanted)
        left = np.minimum(x[keep] * step, width - side)
        top = np.minimum(y[keep] * step, height - side)
        boxes = np.column_stack([left, top, np.full((len(left), 2), side)]).astype(np.float32)
        chosen = suppress(boxes, self.max_iou, self.max_boxes)
        return boxes[chosen], inside[keep][chosen].astype(np.float32)


@dataclass(frozen=True)
class MovingObjects:
    """Boxes around connected groups of moving points: as small or large as what moves."""

    moving_px: float = 0.5  # for a frame 448 pixels high
    reference_height: float = 448.0
    min_points: int = 8
    reach: float = 18.0  # points nearer than this belong together
    margin: float = 0.1  # added on every side, of the group's extent
    min_side: float = 40.0  # of a box, in a frame 448 pixels high
    max_frame_share: float = 0.5
    max_share: float = 0.75
    max_boxes: int = 8
    max_iou: float = 0.3
    gap: int = 1

    def propose(self, frames: NDArray[np.uint8], at: int, rng: np.random.Generator) -> Proposals:
        """See `Proposer`; `rng` is not used."""
        del rng
        if at + self.gap >= len(frames):
            return _none("too_short")
        motion = residual_motion(frames[at], frames[at + self.gap])
        if motion is None:
            return _none("no_motion")
        scale = frames.shape[1] / self.reference_height
        camera_px = motion.camera_px(self.gap)
        moves = motion.speed(self.gap) > self.moving_px * max(scale, 0.5)
        share = float(moves.mean())
        if not motion.trusted:
            return _none("too_much_camera_motion", share, camera_px)
        if share > self.max_share:
            return _none("too_much_motion", share, camera_px)
        boxes, count = self._groups(motion.points[moves], frames.shape, scale)
        if not len(boxes):
            return _none(
                "camera_only" if camera_px > self.moving_px else "static", share, camera_px
            )
        chosen = suppress(boxes, self.max_iou, self.max_boxes)
        return Proposals(boxes[chosen], count[chosen], "", share, camera_px)

    def _groups(
        self,
        points: NDArray[np.float32],
        shape: tuple[int, ...],
        scale: float,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Groups of points that lie near each other; noise is dropped with the small groups."""
        height, width = shape[1:3]
        reach = max(round(self.reach * scale), 3)
        mask = np.zeros((height, width), np.uint8)
        column = points[:, 0].astype(int).clip(0, width - 1)
        row = points[:, 1].astype(int).clip(0, height - 1)
        mask[row, column] = 1
        grown = cv2.dilate(mask, np.ones((reach, reach), np.uint8))
        _, label = cv2.connectedComponents(grown)
        group = label[row, column]
        boxes, counts = [], []
        for g in np.unique(group):
            own = points[group == g]
            if len(own) < self.min_points:
                continue
            low, high = np.percentile(own, [3, 97], axis=0)  # a few points always stray
            centre = (low + high) / 2.0
            size = np.maximum((high - low) * (1.0 + 2.0 * self.margin), self.min_side * scale)
            size = np.maximum(size, size.max() / 2.0)  # a sliver has no texture to hold on to
            corner = np.clip(centre - size / 2.0, 0.0, None)
            size = np.minimum(size, np.array([width, height]) - corner)
            if size.prod() <= self.max_frame_share * width * height and size.min() >= 8.0:
                boxes.append([*corner, *size])
                counts.append(len(own))
        order = np.argsort(-np.array(counts), kind="stable") if counts else []
        table = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        return table[order], np.array(counts, dtype=np.float32)[order]


@dataclass(frozen=True)
class RandomBoxes:
    """Boxes anywhere: the baseline that the others must beat."""

    window: float = 227.0
    reference_height: float = 448.0
    max_boxes: int = 8
    max_iou: float = 0.3

    def propose(self, frames: NDArray[np.uint8], at: int, rng: np.random.Generator) -> Proposals:
        """See `Proposer`."""
        del at
        height, width = frames.shape[1:3]
        side = min(self.window * height / self.reference_height, height, width)
        corner = rng.uniform(0.0, 1.0, (32, 2)) * [width - side, height - side]
        boxes = np.column_stack([corner, np.full((32, 2), side)]).astype(np.float32)
        chosen = suppress(boxes, self.max_iou, self.max_boxes)
        return Proposals(boxes[chosen], np.ones(len(chosen), np.float32), "")


def residual_motion(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    *,
    max_points: int = 1200,
    fb_px: float = 1.0,
    reprojection_px: float = 1.5,
    min_inliers: int = 30,
    min_inlier_share: float = 0.3,
) -> Motion | None:
    """How points of one frame move to the next, with and without the camera's motion.

    before, after: uint8 [H, W, 3]. Points are good corners; those whose way back misses by more
    than `fb_px` are dropped. Returns None with fewer than `min_inliers` points (no texture).
    """
    first, second = grey(before), grey(after)
    spacing = max(first.shape[0] / 90.0, 3.0)
    corners = cv2.goodFeaturesToTrack(first, max_points, 0.002, spacing)
    if corners is None or len(corners) < min_inliers:
        return None
    points = corners.reshape(-1, 2) + np.float32(0.5)
    settings = LucasKanade(window=15, levels=3)
    there, ok_there = track_points(first, second, points, settings)
    back, ok_back = track_points(second, first, there, settings)
    good = ok_there & ok_back & (np.linalg.norm(back - points, axis=1) < fb_px)
    points, there = points[good], there[good]
    if len(points) < min_inliers:
        return None
    cv2.setRNGSeed(0)  # RANSAC draws from OpenCV's global generator
    homography, inlier = cv2.findHomography(points, there, cv2.RANSAC, reprojection_px)
    flow = (there - points).astype(np.float32)
    if homography is None:
        return Motion(points, flow, flow, trusted=False)
    count = int(inlier.sum())
    trusted = count >= min_inliers and count >= min_inlier_share * len(points)
    moved = cv2.perspectiveTransform(points.reshape(-1, 1, 2), homography).reshape(-1, 2)
    return Motion(points, flow, (there - moved).astype(np.float32), trusted)


def suppress(boxes: NDArray[np.float32], max_iou: float, limit: int) -> NDArray[np.int64]:
    """Non-maximum suppression: rows of `boxes` [N, 4], given best first, that stay."""
    kept: list[int] = []
    for row in range(len(boxes)):
        if len(kept) == limit:
            break
        if not kept or float(iou(boxes[row], boxes[kept]).max()) <= max_iou:
            kept.append(row)
    return np.array(kept, dtype=np.int64)


def _none(reason: str, moving: float = 0.0, camera_px: float = 0.0) -> Proposals:
    return Proposals(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), reason, moving, camera_px
    )


PROPOSERS: dict[str, type] = {
    "moving_points": MovingPoints,
    "moving_objects": MovingObjects,
    "random": RandomBoxes,
}
