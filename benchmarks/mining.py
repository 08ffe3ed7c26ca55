"""Are mined tracks right, and what do the filters cost? Against rendered and annotated motion.

    python -m benchmarks.mining [--tracking FOLDER]

Rendered: textured things move, turn, grow and hide each other over a background that pans; the
whole of mining runs, and each track is held against the thing it started on. Annotated (folders in
the layout of a tracking benchmark, also the generated one): tracks start at true boxes every few
frames, so that proposals play no part. A track is right if its overlap with the truth stays above
0.5 to its end.
"""

import argparse
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np

from marey.configs.mining import QualityConfig, TracksMining
from marey.pipeline.evaluate.tracking_layouts import known_boxes, read_sequence, truth_files
from marey.pipeline.mining.tracks import Mined, TrackMiner
from marey.trackers import iou
from marey.trackers.proposals import Proposals

FPS = 30.0
SIZE = (480, 360)
NO_FILTER = QualityConfig(
    min_fb_iou=0, max_fb_error=1e9, min_appearance=-1, max_appearance=1, min_travel=0,
    max_travel=1e9, min_own_travel=0, max_scale_rate=1e9, min_inside=0,
)  # fmt: skip


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking", help="folder of sequences with true boxes")
    parser.add_argument("--every", type=int, default=4, help="frames from one start to the next")
    parser.add_argument("--clips", type=int, default=30, help="rendered clips")
    parser.add_argument(
        "--trackers", nargs="+", default=["kcf-hog-scale", "dcf-colour", "dcf-colour-scale"]
    )
    options = parser.parse_args()
    print(f"{'data':10}{'tracker':16}{'filters':9}{'tracks':>8}{'right':>8}{'yield':>8}  refused")
    for name in options.trackers:
        for label, quality in (("none", NO_FILTER), ("default", QualityConfig())):
            settings = TracksMining(tracker=name, quality=quality)
            if options.clips:
                report("rendered", name, label, *rendered(settings, options.clips))
            if options.tracking:
                report(
                    "annotated", name, label, *annotated(settings, options.tracking, options.every)
                )


def report(
    data: str, name: str, label: str, right: list[bool], candidates: int, reasons: Counter[str]
) -> None:
    """One line of the table."""
    share = np.mean(right) if right else float("nan")
    refused = {k: v for k, v in reasons.most_common() if "accepted" not in k and v}
    print(
        f"{data:10}{name:16}{label:9}{len(right):8}{share:8.3f}"
        f"{len(right) / max(candidates, 1):8.3f}  {refused}",
        flush=True,
    )


def rendered(settings: TracksMining, clips: int) -> tuple[list[bool], int, Counter[str]]:
    """Mines rendered clips; (right or not, candidate boxes, reasons)."""
    miner = TrackMiner(settings)
    right: list[bool] = []
    reasons: Counter[str] = Counter()
    for seed in range(clips):
        frames, places = render(seed)
        times_s = np.arange(len(frames)) / FPS
        rng = np.random.default_rng(seed)
        for mined in miner.clip(frames, times_s, 0.0, times_s[-1], rng, reasons):
            right.append(is_right(mined, places))
    candidates = len(right) + sum(v for k, v in reasons.items() if k.startswith("track"))
    return right, candidates, reasons


def is_right(mined: Mined, places: list[np.ndarray]) -> bool:
    """Does the box stay where its start box would be if it were glued to a thing (or the ground)?

    places: float64 [T, 2, 3], frame coordinates of each thing's own, the ground's last. The thing
    is the one whose glued box fits best: the question is whether the track follows one surface.
    """
    first = round(mined.times_s[0] * FPS)
    corners = box_corners(mined.boxes[0].astype(np.float64))
    best = 0.0
    for place in places:
        start = place[first]
        own = np.linalg.solve(start[:, :2], (corners - start[:, 2]).T)
        overlap = 1.0
        for n, box in enumerate(mined.boxes):
            now = place[round(mined.times_s[n] * FPS)]
            glued = (now[:, :2] @ own).T + now[:, 2]
            overlap = min(overlap, float(iou(box, around(glued))))
        best = max(best, overlap)
    return best > 0.5


def box_corners(box: np.ndarray) -> np.ndarray:
    """float64 [4, 2]."""
    x, y, w, h = box
    return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])


def around(points: np.ndarray) -> np.ndarray:
    """The xywh box around points; a turned box is taken at its mean extent, not its hull."""
    centre = points.mean(0)
    side_a = np.linalg.norm(points[1] - points[0])
    side_b = np.linalg.norm(points[3] - points[0])
    return np.array([centre[0] - side_a / 2, centre[1] - side_b / 2, side_a, side_b])


def render(seed: int, num_frames: int = 75) -> tuple[np.ndarray, list[np.ndarray]]:
    """A clip and, for every thing in it and the ground, its map to the frame [T, 2, 3]."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    ground = texture(rng, height * 2, width * 2, 3.0)
    pan = rng.uniform(-2.5, 2.5, 2) * (seed % 3 > 0)  # every third camera stands still
    t = np.arange(num_frames)
    sway = rng.uniform(0, 4, (2, 1)) * np.sin(t / rng.uniform(6, 15))
    offset = np.array([width, height])[:, None] / 2 + pan[:, None] * (t - num_frames / 2) + sway
    places = []
    sprites = []
    for _ in range(int(rng.integers(1, 4))):
        side = rng.uniform(50, 120, 2)
        sprites.append((texture(rng, round(side[1]), round(side[0]), rng.uniform(1.5, 4)), side))
        speed = rng.uniform(0.8, 4.0) * np.exp(1j * rng.uniform(0, 2 * np.pi))
        curve = rng.uniform(0, 12) * np.exp(1j * t / rng.uniform(8, 20))
        path = complex(*rng.uniform([120, 90], [360, 270])) + speed * (t - num_frames / 2) + curve
        grow = np.exp(rng.uniform(-0.004, 0.004) * t)
        turn = np.exp(1j * rng.uniform(-0.01, 0.01) * t)
        places.append(similarity(path, grow * turn, side))
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for n in range(num_frames):
        matrix = np.array([[1.0, 0.0, -offset[0, n]], [0.0, 1.0, -offset[1, n]]])
        frame = cv2.warpAffine(ground, matrix, SIZE, borderMode=cv2.BORDER_REFLECT)
        for (sprite, _), place in zip(sprites, places, strict=True):
            cv2.warpAffine(sprite, place[n], SIZE, dst=frame, borderMode=cv2.BORDER_TRANSPARENT)
        noise = rng.normal(0, 3, frame.shape)
        frames[n] = np.clip(frame + noise, 0, 255).astype(np.uint8)
    still = np.tile(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), (num_frames, 1, 1))
    still[:, :, 2] = -offset.T
    return frames, [*places, still]


def similarity(path: np.ndarray, factor: np.ndarray, side: np.ndarray) -> np.ndarray:
    """float64 [T, 2, 3]: sprite pixels -> frame pixels, centre on `path`, scaled and turned."""
    matrix = np.empty((len(path), 2, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = factor.real
    matrix[:, 1, 0], matrix[:, 0, 1] = factor.imag, -factor.imag
    centre = np.stack([path.real, path.imag], axis=1)
    matrix[:, :, 2] = centre - matrix[:, :, :2] @ (side / 2)
    return matrix


def texture(rng: np.random.Generator, height: int, width: int, smooth: float) -> np.ndarray:
    """uint8 [H, W, 3]: random blobs of full contrast."""
    noise = cv2.GaussianBlur(
        rng.uniform(0, 255, (height, width, 3)).astype(np.float32), (0, 0), smooth
    )
    low, high = np.percentile(noise, [1, 99])
    return np.clip((noise - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def annotated(
    settings: TracksMining, folder: str, every: int
) -> tuple[list[bool], int, Counter[str]]:
    """Tracks of one second from true boxes in every `every`-th frame; as `rendered`."""
    miner = TrackMiner(settings)
    # what the annotated targets do is not ours to choose: they may stand or leave quickly
    miner.limits = replace(miner.limits, min_travel=0.0, max_travel=1e9)
    length = round(settings.track_s * FPS) + 1
    right: list[bool] = []
    candidates = 0
    reasons: Counter[str] = Counter()
    for file in truth_files(folder):
        sequence = read_sequence(file)
        known = known_boxes(sequence.truth)
        found, pieces = [], []
        for start in range(0, len(sequence.frames) - 10, every):
            if known[start]:
                box = sequence.truth[start : start + 1]
                found.append((start, Proposals(box, np.ones(1, np.float32), "")))
                times_s = np.arange(start, min(start + length, len(sequence.frames))) / FPS
                pieces.append((sequence.frames[start : start + length], times_s))
        candidates += len(found)
        for mined in miner.follow(found, pieces, 1 / FPS, reasons):
            first = round(mined.times_s[0] * FPS)
            truth = sequence.truth[first : first + len(mined.boxes)]
            seen = known_boxes(truth)
            overlap = iou(mined.boxes, truth)
            right.append(bool(seen[-1] and overlap[seen].min() > 0.5))
    return right, candidates, reasons


if __name__ == "__main__":
    main()
