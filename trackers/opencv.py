"""How do OpenCV's trackers keep our contract? Adapters with the corrections they need.

Names are resolved when a tracker is built: KCF and CSRT exist in the contrib wheels only, MOSSE and
MedianFlow under `cv2.legacy` there, MIL everywhere. Every correction below is an observed behaviour
of OpenCV 4.14 and 5.0 (`docs/tracking.md`).
"""

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import DependencyError
from marey.trackers.threads import one_thread
from marey.trackers.tracker import Gate, Job, Tracker, inside_share


class _Native(Protocol):
    def init(self, image: NDArray[np.uint8], boundingBox: Any) -> bool | None: ...
    def update(self, image: NDArray[np.uint8]) -> tuple[bool, Any]: ...


# Learns in its first `update`, at the unmoved box, from whatever frame that is given.
_WARM_UP = {"KCF"}
# Searches inside the box only: it is given a box this many times larger about the same centre.
_GROW = {"MOSSE": 2.0}
# Reports success for ever: whether the thing is still in its box is looked at here.
_NEVER_FAILS = {"MIL"}
LEAST_LIKENESS = (
    0.5  # normalised correlation with the thing's own look: unrelated patches reach 0.35
)
_GROWN_LIMIT = 0.5  # a jump of half the window or more is a failure reported as success
KCF_MAX_AREA = 80 * 80  # above, KCF halves the resolution and positions are quantised to 2 px


class OpenCVTracker(Tracker):
    """One OpenCV tracker object a box."""

    def __init__(self, name: str, *, persistent: bool = False, gate: Gate | None = None) -> None:
        """name: KCF, CSRT, MOSSE, MedianFlow or MIL. persistent: go on after a failure, with the
        last box, for one-pass evaluation.

        Raises DependencyError where this OpenCV has no such tracker.
        """
        self.name, self.persistent = name, persistent
        self.gate = gate or Gate()
        self._create, self._legacy = _resolve(name)

    def _follow(self, jobs: list[Job]) -> None:
        with one_thread():
            for job in jobs:
                first = min((int(job.start[b]) for b in job.pending), default=0)
                # all boxes read the same frames, converted once
                images = {t: _bgr(job.frames[t]) for t in range(first, len(job.frames))}
                for b in job.pending:
                    self._follow_one(job, images, b)

    def _follow_one(self, job: Job, images: dict[int, NDArray[np.uint8]], b: int) -> None:
        start = int(job.start[b])
        given = job.boxes[start, b].astype(np.float64)
        grow = _GROW.get(self.name, 1.0)
        shrink = 1.0
        if self.name == "KCF":
            # KCF would halve the resolution itself and round positions to 2 px
            shrink = min(1.0, float(np.sqrt((KCF_MAX_AREA - 1) / (given[2] * given[3]))))
        centre, size = given[:2] + given[2:] / 2.0, given[2:] * grow
        box = np.concatenate([centre - size / 2.0, size]) * shrink
        native_box = box if self._legacy else np.maximum(np.round(box), 1.0)
        residue = box - native_box  # given back to every answer
        cv2.setRNGSeed(0)  # MIL and MOSSE draw from the global generator
        native = self._create()
        first = _shrunk(images[start], shrink)
        try:
            ok = native.init(first, _as_rect(native_box, self._legacy))
            if ok is False:
                job.end(start, b, "refused")
                return
            if self.name in _WARM_UP:
                native.update(first)
        except cv2.error:
            job.end(start, b, "refused")
            return
        look = _Look(images[start], given) if self.name in _NEVER_FAILS else None
        before = given
        for t in range(start + 1, len(job.frames)):
            try:
                ok, answer = native.update(_shrunk(images[t], shrink))
            except cv2.error:
                ok, answer = False, (0, 0, 0, 0)
            if not ok:
                if self.persistent:
                    job.follow(t, b, before, 0.0)
                    continue
                job.end(t, b, "low_score")
                return
            found = (np.asarray(answer, dtype=np.float64) + residue) / shrink
            middle, extent = found[:2] + found[2:] / 2.0, found[2:] / grow
            box_now = np.concatenate([middle - extent / 2.0, extent])
            jump = np.abs(middle - (before[:2] + before[2:] / 2.0))
            window = given[2:] * (2.0 if self.name == "KCF" else 2.5)
            there = look is None or look.likeness(images[t], box_now) >= LEAST_LIKENESS
            if not self.persistent:
                if not there:
                    job.end(t, b, "low_score")
                    return
                if np.any(jump >= _GROWN_LIMIT * window):
                    job.end(t, b, "jump")
                    return
                if inside_share(box_now, job.size) < self.gate.min_inside_later:
                    job.end(t, b, "out_of_frame")
                    return
            job.follow(t, b, box_now, 1.0 if there else 0.0)
            before = box_now


def _resolve(name: str) -> tuple[Callable[[], _Native], bool]:
    """(constructor, is it of the legacy interface)."""
    modern = getattr(cv2, f"Tracker{name}_create", None)
    if modern is not None:
        return modern, False
    modern = getattr(getattr(cv2, f"Tracker{name}", None), "create", None)
    if modern is not None:
        return modern, False
    legacy = getattr(getattr(cv2, "legacy", None), f"Tracker{name}_create", None)
    if legacy is not None:
        return legacy, True
    raise DependencyError(
        f"OpenCV {cv2.__version__} as installed has no Tracker{name}: KCF, CSRT, MOSSE and "
        "MedianFlow are in opencv-contrib-python-headless (install it instead of, not beside, "
        "opencv-python-headless); marey's own trackers need neither"
    )


class _Look:
    """What a thing looks like in 16x16 grey cells, kept up while it is surely there."""

    CELLS, REACH = 16, 4  # cells of a side, and how many of them the thing may be off its box
    SURE, PACE = 0.8, 0.1  # from which likeness on the look is kept up, and by how much per frame

    def __init__(self, image: NDArray[np.uint8], box: NDArray[np.float64]) -> None:
        self._look = self._cells(image, box, 0)

    def likeness(self, image: NDArray[np.uint8], box: NDArray[np.float64]) -> float:
        """Largest normalised correlation of the look with places in and near `box`, xywh."""
        near = self._cells(image, box, self.REACH)
        found = cv2.matchTemplate(near, self._look, cv2.TM_CCOEFF_NORMED)
        _, best, _, (x, y) = cv2.minMaxLoc(found)
        if best >= self.SURE:
            seen = near[y : y + self.CELLS, x : x + self.CELLS]
            self._look += self.PACE * (seen - self._look)
        return float(best)

    def _cells(
        self, image: NDArray[np.uint8], box: NDArray[np.float64], reach: int
    ) -> NDArray[np.float32]:
        """float32: the box and `reach` cells around it."""
        cells = self.CELLS + 2 * reach
        size = np.maximum(np.round(box[2:] * cells / self.CELLS), 1).astype(int)
        centre = box[:2] + box[2:] / 2.0 - 0.5
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        patch = cv2.getRectSubPix(grey, size.tolist(), centre.tolist())
        small = cv2.resize(patch, (cells, cells), interpolation=cv2.INTER_AREA)
        return np.asarray(small, dtype=np.float32)


def _as_rect(box: NDArray[np.float64], legacy: bool) -> tuple[float, ...] | tuple[int, ...]:
    return tuple(float(v) for v in box) if legacy else tuple(int(v) for v in box)


def _bgr(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB to BGR, as OpenCV's trackers expect."""
    image = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR)
    return np.asarray(image, dtype=np.uint8)


def _shrunk(image: NDArray[np.uint8], shrink: float) -> NDArray[np.uint8]:
    """The image resized by `shrink`."""
    if shrink < 1.0:
        # both axes by exactly `shrink`: warpAffine keeps the scale that a rounded size would bend
        size = (int(np.ceil(image.shape[1] * shrink)), int(np.ceil(image.shape[0] * shrink)))
        offset = 0.5 / shrink - 0.5
        matrix = np.array([[1.0 / shrink, 0.0, offset], [0.0, 1.0 / shrink, offset]])
        smooth = cv2.GaussianBlur(image, (0, 0), 0.4 / shrink) if shrink < 0.5 else image
        warped = cv2.warpAffine(
            smooth,
            matrix,
            size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(warped, dtype=np.uint8)
    return image
