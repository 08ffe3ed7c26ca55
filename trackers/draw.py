"""What does a track look like? Boxes drawn over frames, and contact sheets of many tracks."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.trackers.tracker import State, Track

# Okabe and Ito's colours, which colour-blind people tell apart
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
GREY = (160, 160, 160)
TRAIL = 15  # frames of a box's past that are drawn
LINGER = 30  # frames for which a box that ended is shown
ENDINGS = {"low_score": "lost", "out_of_frame": "left the picture"}


def draw_track(frames: NDArray[np.uint8], track: Track) -> NDArray[np.uint8]:
    """frames: uint8 [T, H, W, 3] RGB -> a copy with every box, its number and its trail.

    A box that ended is drawn grey for a second or so, with why it ended.
    """
    out = frames.copy()
    thick = max(1, round(min(frames.shape[1:3]) / 240))
    for t, image in enumerate(out):
        ended = np.flatnonzero(np.isin(track.state[t], (State.LOST, State.OUT_OF_FRAME)))
        for b in ended:
            since = t - int(track.num_frames[b])
            begun = int(np.argmax(track.state[:, b] != State.NOT_STARTED))
            if since - begun < LINGER and np.isfinite(track.boxes[t, b]).all():
                text = f"{b} {ENDINGS.get(track.reason[b], track.reason[b].replace('_', ' '))}"
                _draw_box(image, track.boxes[t, b], GREY, 1, text)
        for b in np.flatnonzero(track.state[t] == State.TRACKED):
            colour = COLOURS[b % len(COLOURS)]
            past = track.boxes[max(0, t - TRAIL) : t + 1, b]
            centres = past[np.isfinite(past).all(axis=1)]
            line = np.round(centres[:, :2] + centres[:, 2:] / 2).astype(np.int32)
            cv2.polylines(image, [line.reshape(-1, 1, 2)], False, colour, thick, cv2.LINE_AA)
            _draw_box(image, track.boxes[t, b], colour, thick, str(b))
    return out


def _draw_box(
    image: NDArray[np.uint8],
    box: NDArray[np.floating],
    colour: tuple[int, int, int],
    thick: int,
    text: str,
) -> None:
    """A box and, on a patch of its colour above it (inside, at the frame's top), a label."""
    x, y, w, h = np.round(box).astype(int).tolist()
    cv2.rectangle(image, (x, y), (x + w, y + h), colour, thick, cv2.LINE_AA)
    size = max(0.4, min(image.shape[:2]) / 800)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    left = min(max(x, 0), max(image.shape[1] - width - 4, 0))
    bottom = y if y >= height + below + 2 else y + height + below + 2
    bottom = min(max(bottom, height + below + 2), image.shape[0])
    top = bottom - height - below - 2
    cv2.rectangle(image, (left, top), (left + width + 4, bottom), colour, cv2.FILLED)
    black = (0, 0, 0)
    place = (left + 2, bottom - below)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, black, 1, cv2.LINE_AA)


def best_median_worst(scores: Sequence[float], count: int) -> list[int]:
    """Which of the tracks with these scores to show: `count` best, middle and worst, in order."""
    order = np.argsort(-np.asarray(scores), kind="stable").tolist()
    if len(order) <= 3 * count:
        return order
    middle = (len(order) - count) // 2
    return order[:count] + order[middle : middle + count] + order[-count:]
