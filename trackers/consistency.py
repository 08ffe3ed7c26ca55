"""Which tracks are to be believed? Forward-backward check, appearance, jumps and scale.

`docs/tracking.md` says what each check catches and what none of them does.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.trackers.camera_path import CameraPath, own_travel
from marey.trackers.tracker import Request, State, Track, Tracker, inside_share, iou


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on B tracks; NaN where a track never got that far.

    fb_iou: overlap of the start box with the box that the backward run returns, [B].
    fb_error: distance of the two centres over sqrt(w * h) of the start box, [B].
    appearance: normalised cross-correlation of the first and the last crop, [B].
    mean_score, low_share: mean of the tracker's score, and share of its frames below `min_score`.
    travel: distance between the first and the last centre over the box's width, [B].
    own_travel, late_travel: distance between the last centre and the first one, or the one at two
        thirds of the track, carried by the camera, over sqrt(w * h), [B]; NaN where the camera's
        motion is not known.
    """

    fb_iou: NDArray[np.float64]
    fb_error: NDArray[np.float64]
    appearance: NDArray[np.float64]
    mean_score: NDArray[np.float64]
    low_share: NDArray[np.float64]
    travel: NDArray[np.float64]
    own_travel: NDArray[np.float64]
    late_travel: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a track must keep (tracker specification, section 8, and Wang & Gupta's mining)."""

    min_fb_iou: float = 0.6
    max_fb_error: float = 0.2
    min_appearance: float = 0.2
    max_appearance: float = 0.98  # above, the pair is a duplicate
    min_score: float = 0.0  # of the tracker's score
    max_low_share: float = 0.1
    max_jump: float = 1.25  # centre step a frame, in sqrt(w * h): half a window of 2.5
    max_scale_rate: float = 1.2  # size ratio a second
    min_travel: float = 0.1  # box widths over the whole track
    max_travel: float = 2.0
    min_own_travel: float = 0.0  # of its own accord, the camera's motion removed
    min_late_travel: float = 0.0  # the same over the last third of the track
    min_inside: float = 0.98  # share of the last box inside the frame


def forward_backward(
    tracker: Tracker, frames: NDArray[np.uint8], track: Track, start: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Follows each track's last box back to its start with a fresh model.

    track: made forward from frame `start` of `frames`. Returns (IoU [B], centre error [B] over
    sqrt(w * h)) of the returned against the start box; IoU 0 and error inf where the way back was
    lost, NaN for tracks that never moved on from `start`.
    """
    return forward_backward_clips(tracker, [(frames, track, start)])[0]


def forward_backward_clips(
    tracker: Tracker, clips: list[tuple[NDArray[np.uint8], Track, int]]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """`forward_backward` for (frames, track, start) of several clips, in one batch."""
    requests, chosen = [], []
    for frames, track, start in clips:
        last = last_tracked(track)
        rows = np.flatnonzero(last > start)
        chosen.append(rows)
        requests.append(Request(frames, track.boxes[last[rows], rows], last[rows], "backward"))
    answers = tracker.track_clips(requests)
    out = []
    for (_, track, start), rows, back in zip(clips, chosen, answers, strict=True):
        num_boxes = track.boxes.shape[1]
        overlap, error = np.full(num_boxes, np.nan), np.full(num_boxes, np.nan)
        first, returned = track.boxes[start, rows], back.boxes[start]
        ok = back.state[start] == State.TRACKED
        overlap[rows] = np.where(ok, iou(first, returned), 0.0)
        distance = np.linalg.norm(_centre(first) - _centre(returned), axis=1)
        size = np.sqrt(np.maximum(first[:, 2] * first[:, 3], 1e-9))
        error[rows] = np.where(ok, distance / size, np.inf)
        out.append((overlap, error))
    return out


def last_tracked(track: Track) -> NDArray[np.int64]:
    """int64 [B]: the last frame in which each box was tracked, -1 if none."""
    tracked = track.state == State.TRACKED
    last = len(tracked) - 1 - np.argmax(tracked[::-1], axis=0)
    return np.where(tracked.any(axis=0), last, -1)


def measure(
    frames: NDArray[np.uint8],
    track: Track,
    fb: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    start: int = 0,
    min_score: float = 0.0,
    camera: CameraPath | None = None,
) -> Quality:
    """Everything `judge` needs, from one clip's frames and tracks and their `forward_backward`.

    camera: the path of the camera through frames[start:]; None: what needs it is NaN.
    """
    last = last_tracked(track)
    num_boxes = track.boxes.shape[1]
    appearance, travel = np.full(num_boxes, np.nan), np.full(num_boxes, np.nan)
    mean_score, low_share = np.full(num_boxes, np.nan), np.full(num_boxes, np.nan)
    for b in np.flatnonzero(last > start):
        first, final = track.boxes[start, b], track.boxes[last[b], b]
        appearance[b] = crop_correlation(frames[start], first, frames[last[b]], final)
        travel[b] = np.linalg.norm(_centre(final) - _centre(first)) / max(float(first[2]), 1e-9)
        scores = track.score[start + 1 : last[b] + 1, b]
        mean_score[b] = scores.mean()
        low_share[b] = (scores < min_score).mean()
    unknown = np.full(num_boxes, np.nan)
    own, late = (unknown, unknown) if camera is None else own_travels(track, camera, start)
    return Quality(fb[0], fb[1], appearance, mean_score, low_share, travel, own, late)


def own_travels(
    track: Track, camera: CameraPath, start: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`Quality.own_travel` and `late_travel` of B tracks; camera: the path through
    frames[start:]."""
    last = last_tracked(track)
    own, late = np.full(len(last), np.nan), np.full(len(last), np.nan)
    for b in np.flatnonzero(last > start):
        own[b], late[b] = own_travel(camera, track.boxes[start : last[b] + 1, b])
    return own, late


def judge(
    track: Track,
    quality: Quality,
    limits: Limits,
    *,
    size: tuple[int, int],
    seconds: float,
    start: int = 0,
    min_frames: int = 10,
) -> list[str]:
    """Why each of the B tracks is refused; "" for those that stand.

    size: (width, height) of the frames. seconds: from one frame to the next. The cheap reasons come
    first: a track is counted under the first that holds.
    """
    last = last_tracked(track)
    reasons = []
    for b, end in enumerate(last):
        if end - start + 1 < min_frames:
            reasons.append(track.reason[b] or "too_short")
            continue
        boxes = track.boxes[start : end + 1, b].astype(np.float64)
        reasons.append(_judge_one(boxes, quality, b, limits, size, seconds))
    return reasons


def crop_correlation(
    a: NDArray[np.uint8],
    box_a: NDArray[np.floating],
    b: NDArray[np.uint8],
    box_b: NDArray[np.floating],
    side: int = 32,
) -> float:
    """Normalised cross-correlation, -1..1, of two boxes' grey crops at `side` x `side` pixels."""
    first, second = _grey_crop(a, box_a, side), _grey_crop(b, box_b, side)
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm > 1e-9 else 0.0


def _judge_one(
    boxes: NDArray[np.float64],
    quality: Quality,
    b: int,
    limits: Limits,
    size: tuple[int, int],
    seconds: float,
) -> str:
    steps = np.linalg.norm(np.diff(_centre(boxes), axis=0), axis=1)
    extent = np.sqrt(boxes[:, 2] * boxes[:, 3])
    rate = np.abs(np.log(extent[-1] / extent[0])) / max((len(boxes) - 1) * seconds, 1e-9)
    # a quarter of a second at least, or one rounding of a short track's size would count as growth
    rate *= min(1.0, (len(boxes) - 1) * seconds / 0.25)
    if np.any(steps > limits.max_jump * extent[:-1]):
        return "jump"
    if rate > np.log(limits.max_scale_rate):
        return "scale"
    if quality.low_share[b] > limits.max_low_share:
        return "low_score"
    if inside_share(boxes[-1], size) < limits.min_inside:
        return "exit"
    if quality.travel[b] < limits.min_travel:
        return "static"
    if quality.travel[b] > limits.max_travel:
        return "travel"
    # an unknown camera refuses nothing
    if quality.own_travel[b] < limits.min_own_travel:
        return "background"
    if quality.late_travel[b] < limits.min_late_travel:
        return "stopped"
    if not quality.fb_iou[b] >= limits.min_fb_iou or not quality.fb_error[b] <= limits.max_fb_error:
        return "fb"
    if quality.appearance[b] < limits.min_appearance:
        return "appearance"
    if quality.appearance[b] > limits.max_appearance:
        return "duplicate"
    return ""


def _grey_crop(
    frame: NDArray[np.uint8], box: NDArray[np.floating], side: int
) -> NDArray[np.float64]:
    x, y, w, h = (float(v) for v in box)
    # bilinear would alias a large box: its inside is averaged, replicated beyond the frame
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    x1, y1 = max(int(np.ceil(x + w)), x0 + 1), max(int(np.ceil(y + h)), y0 + 1)
    rows = np.arange(y0, y1).clip(0, frame.shape[0] - 1)
    columns = np.arange(x0, x1).clip(0, frame.shape[1] - 1)
    grey = cv2.cvtColor(np.ascontiguousarray(frame[np.ix_(rows, columns)]), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float64)


def _centre(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    return boxes[..., :2] + boxes[..., 2:] / 2.0
