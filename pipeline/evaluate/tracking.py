"""How good is a tracker against ground truth? The one-pass evaluation of the OTB benchmark.

Wu, Lim and Yang, "Online Object Tracking: A Benchmark", CVPR 2013: start with the first true box,
run to the end, never help. The start frame is counted, as the benchmark's toolkit does. With
several start frames (the benchmark's TRE) the luck of a single run averages out.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError, SettingError
from marey.configs.evaluation import TrackingSettings
from marey.configs.tracking import tracker_options
from marey.pipeline.evaluate.protocols import Inputs
from marey.pipeline.runtime.progress import each
from marey.trackers import Tracker, build, iou, names

PRECISION_PX = 20
SUCCESS_STEPS = np.linspace(0.0, 1.0, 21)
# First frames that the benchmark leaves out (sequence name -> number of the first frame used).
FIRST_FRAME = {"David": 300}


@dataclass(frozen=True, slots=True)
class Recording:
    """frames: uint8 [T, H, W, 3] RGB; truth: float32 [T, 4] xywh, 0-based, NaN where unknown."""

    name: str
    frames: NDArray[np.uint8]
    truth: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Score:
    """One tracker on one sequence (or the mean over sequences, named "mean")."""

    tracker: str
    sequence: str
    success_auc: float  # mean share of frames with IoU > t over t = 0, 0.05 ... 1
    precision: float  # share of frames with centre error <= 20 px
    mean_iou: float
    boxes_per_s: float  # boxes x frames tracked a second


def evaluate_otb(
    root: Path | str, trackers: Mapping[str, Tracker], *, starts: int = 1
) -> list[Score]:
    """Runs every tracker over every sequence folder in `root`; a tracker's last row is its mean.

    root: holds folders with `img/*.jpg` and `groundtruth_rect.txt`. Trackers should be built with
    `persistent=True`: a track that ends is scored with its last box. starts: from how many evenly
    spaced frames each sequence is run (1: one-pass evaluation; 20: the benchmark's TRE).
    Sequences are read one after the other. Raises InputError if there is none, SettingError for
    `starts` below 1.
    """
    if starts < 1:
        raise SettingError(f"starts={starts} is out of range: at least 1")
    scores: dict[str, list[Score]] = {name: [] for name in trackers}
    for file in each(truth_files(root), "track", "sequences"):
        sequence = read_sequence(file)
        for name, tracker in trackers.items():
            scores[name].append(score_sequence(name, tracker, sequence, starts))
    return [row for name, own in scores.items() for row in (*own, _mean(name, own))]


def run_tracking(inputs: Inputs, settings: TrackingSettings) -> dict[str, Any]:
    """The protocol of `marey eval tracking`: target is the folder of sequences.

    Returns "figures", the means over sequences by tracker, and "sequences", the same by tracker and
    sequence. Raises SettingError for an unknown tracker, or a setting that one of them lacks.
    """
    ours = [name for name in names() if not name.startswith("opencv-")]
    given = settings.tracker_settings
    built = {
        name: build(
            name, **{"persistent": True, **tracker_options(name, given, "tracker_settings.")}
        )
        for name in settings.names or ours
    }
    scores = evaluate_otb(inputs.target, built, starts=settings.starts)
    sequences = {name: {} for name in built}
    for score in scores:
        sequences[score.tracker][score.sequence] = {
            key: value for key, value in asdict(score).items() if key not in _KEYS
        }
    figures = {name: own.pop("mean") for name, own in sequences.items()}
    return {"figures": figures, "sequences": sequences}


_KEYS = ("tracker", "sequence")


def render(result: Mapping[str, Any]) -> str:
    """A text table of what `run_tracking` returns: every sequence, then the mean of a tracker."""
    lines = [f"{'tracker':<20}{'sequence':<16}{'AUC':>7}{'prec@20':>9}{'IoU':>7}{'boxes/s':>9}"]
    for tracker, mean in result["figures"].items():
        for sequence, score in {**result["sequences"][tracker], "mean": mean}.items():
            lines.append(
                f"{tracker:<20}{sequence:<16}{score['success_auc']:>7.3f}"
                f"{score['precision']:>9.3f}{score['mean_iou']:>7.3f}{score['boxes_per_s']:>9.0f}"
            )
    return "\n".join(lines)


def truth_files(root: Path | str) -> list[Path]:
    """`groundtruth_rect*.txt` of the sequences below `root`, sorted; a target each."""
    found = sorted(Path(root).glob("*/groundtruth_rect*.txt"))
    if not found:
        raise InputError(f"{root}: no folder with groundtruth_rect.txt and img/ in it")
    return found


def read_sequence(file: Path) -> Recording:
    """Reads the sequence that a ground-truth file is of; boxes become 0-based.

    Where a folder holds several targets (`groundtruth_rect.1.txt`, ...), each is a sequence, named
    as the benchmark does (Jogging-1). Raises InputError for what is no such sequence.
    """
    folder = file.parent
    rows = [line.replace(",", " ").split() for line in file.read_text().split("\n") if line.strip()]
    try:
        truth = np.array(rows, dtype=np.float32).reshape(-1, 4)
    except ValueError as error:
        raise InputError(f"{file}: four numbers a line expected") from error
    truth[:, :2] -= 1.0
    images = sorted((folder / "img").glob("*.jpg"))
    if folder.name in FIRST_FRAME:
        images = images[FIRST_FRAME[folder.name] - 1 :]
    count = min(len(images), len(truth))
    if not known_boxes(truth[:count]).any():
        raise InputError(f"{file}: no image in {folder}/img has a box")
    frames = []
    for path in images[:count]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError(f"{path}: not readable as an image")
        frames.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    target = file.stem.removeprefix("groundtruth_rect").replace(".", "-")
    return Recording(folder.name + target, np.stack(frames).astype(np.uint8), truth[:count])


def known_boxes(truth: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of the boxes [T, 4] xywh are known, bool [T]: neither NaN nor empty."""
    return np.asarray(np.isfinite(truth).all(axis=1) & (truth[:, 2:] > 0).all(axis=1), dtype=bool)


def score_sequence(name: str, tracker: Tracker, sequence: Recording, starts: int = 1) -> Score:
    """The mean over `starts` runs of `tracker`, each from its start frame to the end."""
    num_frames = len(sequence.frames)
    first = np.linspace(0, num_frames, starts, endpoint=False).astype(np.int64)
    places = np.flatnonzero(known_boxes(sequence.truth))
    first = np.unique([places[places >= t][0] for t in first if t <= places[-1]])
    began = time.perf_counter()
    track = tracker.track(sequence.frames, sequence.truth[first], start=first)
    seconds = time.perf_counter() - began
    runs = [otb_scores(track.boxes[t:, b], sequence.truth[t:]) for b, t in enumerate(first)]
    auc, precision, mean_iou = np.mean(runs, axis=0).tolist()
    speed = float((num_frames - first).sum()) / max(seconds, 1e-9)
    return Score(name, sequence.name, auc, precision, mean_iou, speed)


def otb_scores(
    boxes: NDArray[np.floating], truth: NDArray[np.floating]
) -> tuple[float, float, float]:
    """Success AUC, precision at 20 px and mean IoU of boxes against `truth`, both [T, 4] xywh.

    Frames whose truth is NaN or empty are skipped.
    """
    known = known_boxes(truth)
    boxes, truth = boxes[known].astype(np.float64), truth[known].astype(np.float64)
    overlap = iou(boxes, truth)
    error = np.linalg.norm(
        boxes[:, :2] + boxes[:, 2:] / 2 - truth[:, :2] - truth[:, 2:] / 2, axis=1
    )
    success = (overlap[None, :] > SUCCESS_STEPS[:, None]).mean(axis=1)
    return float(success.mean()), float((error <= PRECISION_PX).mean()), float(overlap.mean())


def _mean(name: str, scores: Sequence[Score]) -> Score:
    def over(values: list[float]) -> float:
        return float(np.mean(values))

    return Score(
        name,
        "mean",
        over([s.success_auc for s in scores]),
        over([s.precision for s in scores]),
        over([s.mean_iou for s in scores]),
        over([s.boxes_per_s for s in scores]),
    )
