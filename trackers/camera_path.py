"""How did the camera move through a clip? Homographies between frames, chained.

A track whose last box is its first one carried by the camera followed the scene, not a thing: a box
on the background comes back perfectly on the way back and looks the same all along, so that no
other check refuses it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.trackers.flow import LucasKanade, grey, track_points

SIDE = 240
"""Frames are reduced to about this short side: the camera's motion needs no more."""
POINTS = 300
MIN_INLIERS, MIN_INLIER_SHARE = 20, 0.3


@dataclass(frozen=True, slots=True)
class CameraPath:
    """at: int64 [K], frames of the clip, first and last among them. maps: float64 [K, 3, 3], where
    points of frame at[0] lie in frame at[k]; NaN where the camera's motion is not known."""

    at: NDArray[np.int64]
    maps: NDArray[np.float64]

    def carry(self, points: NDArray[np.floating], start: int, stop: int) -> NDArray[np.float64]:
        """Where points [N, 2] of frame at[start] lie in frame at[stop] if they are the scene's."""
        between = self.maps[stop] @ np.linalg.inv(self.maps[start])
        homogeneous = np.column_stack([points, np.ones(len(points))]) @ between.T
        return homogeneous[:, :2] / homogeneous[:, 2:]


def camera_path(
    frames: NDArray[np.uint8], boxes: NDArray[np.floating] | None = None, every: int = 5
) -> CameraPath:
    """The camera's motion through uint8 [T, H, W, 3], measured from every fifth frame to the next.

    boxes: [T, B, 4] xywh of what is being tracked (NaN: nowhere): what they cover is not looked at,
    or a large thing before a plain wall would be taken for the scene. A step with too few points
    that agree (no texture, most of the picture moves) is unknown, and so is all that comes after.
    """
    at = np.unique(np.append(np.arange(0, len(frames), every), len(frames) - 1))
    factor = min(1.0, SIDE / min(frames.shape[1:3]))
    maps = np.full((len(at), 3, 3), np.nan)
    maps[0] = np.eye(3)
    before = _small(frames[at[0]], factor)
    to_full = np.diag([1 / factor, 1 / factor, 1.0])
    for k in range(1, len(at)):
        after = _small(frames[at[k]], factor)
        ignore = None if boxes is None else boxes[at[k - 1]] * factor
        step = _step(before, after, ignore)
        if step is None:
            break
        maps[k] = to_full @ step @ np.linalg.inv(to_full) @ maps[k - 1]
        before = after
    return CameraPath(at, maps)


def own_travel(path: CameraPath, boxes: NDArray[np.floating]) -> tuple[float, float]:
    """How far a box went of its own accord, over the whole track and over its last third.

    boxes: [T, 4] xywh of the first T frames that `path` is of; what comes after the last frame of
    `path.at` among them is not looked at. Distances between the last centre and the earlier one
    carried by the camera, over sqrt(w * h) of the first box; NaN where the camera's motion is not
    known.
    """
    at = path.at[path.at < len(boxes)]
    centres = boxes[at, :2] + boxes[at, 2:] / 2.0
    size = max(float(np.sqrt(boxes[0, 2] * boxes[0, 3])), 1e-9)
    last = len(at) - 1
    if not np.isfinite(path.maps[last]).all():
        return float("nan"), float("nan")
    travel = []
    for start in (0, (2 * last) // 3):
        carried = path.carry(centres[start : start + 1], start, last)[0]
        travel.append(float(np.linalg.norm(centres[last] - carried)) / size)
    return travel[0], travel[1]


def _small(frame: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    image = grey(frame)
    if factor < 1.0:
        size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(image, dtype=np.uint8)


def _step(
    before: NDArray[np.uint8], after: NDArray[np.uint8], ignore: NDArray[np.floating] | None
) -> NDArray[np.float64] | None:
    """float64 [3, 3]: the homography of most points outside the boxes `ignore` [B, 4]."""
    mask = np.full(before.shape, 255, np.uint8)
    for x, y, w, h in () if ignore is None else ignore[np.isfinite(ignore).all(axis=1)]:
        top, left = max(int(y), 0), max(int(x), 0)
        mask[top : max(int(np.ceil(y + h)), 0), left : max(int(np.ceil(x + w)), 0)] = 0
    spacing = max(before.shape[0] / 40.0, 3.0)
    corners = cv2.goodFeaturesToTrack(before, POINTS, 0.005, spacing, mask=mask)
    if corners is None or len(corners) < MIN_INLIERS:
        return None
    points = corners.reshape(-1, 2) + np.float32(0.5)
    there, ok = track_points(before, after, points, LucasKanade(window=13, levels=3))
    points, there = points[ok], there[ok]
    if len(points) < MIN_INLIERS:
        return None
    cv2.setRNGSeed(0)  # RANSAC draws from OpenCV's global generator
    found, inlier = cv2.findHomography(points, there, cv2.RANSAC, 1.5)
    if found is None or inlier.sum() < max(MIN_INLIERS, MIN_INLIER_SHARE * len(points)):
        return None
    return np.asarray(found, dtype=np.float64)
