"""How good is a tracker against ground truth? One-pass evaluation, from one or many start frames.

Wu, Lim and Yang, "Online Object Tracking: A Benchmark", CVPR 2013: start with the first true box,
run to the end, never help. The start frame is counted, as the benchmark's toolkit does. With
several start frames (the benchmark's TRE) the luck of a single run averages out.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import SettingError
from marey.configs.evaluation import TrackingSettings
from marey.configs.tracking import tracker_options
from marey.pipeline.evaluate.bootstrap import video_interval
from marey.pipeline.evaluate.protocols import Inputs
from marey.pipeline.evaluate.tracking_layouts import (
    Recording,
    known_boxes,
    read_sequence,
    truth_files,
)
from marey.pipeline.runtime.progress import each
from marey.trackers import Tracker, build, iou, names

PRECISION_PX = 20
SUCCESS_STEPS = np.linspace(0.0, 1.0, 21)
FAILURE_IOU, FAILURE_FRAMES = 0.1, 10
"""A run has failed when its overlap is at most this in so many frames in a row (VOT 2020)."""
MANY = 12
"""With more sequences than this, tables show attributes in place of sequences."""


@dataclass(frozen=True, slots=True)
class Score:
    """One tracker on one sequence (or the mean over sequences, named "mean")."""

    tracker: str
    sequence: str
    success_auc: float  # mean share of frames with IoU > t over t = 0, 0.05 ... 1
    precision: float  # share of frames with centre error <= 20 px
    mean_iou: float
    robustness: float  # share of the frames before the run fails, 1 if it never does
    boxes_per_s: float  # boxes x frames tracked per second of processor time
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """One tracker over a group of sequences: all of them, or those with an attribute."""

    tracker: str
    group: str
    sequences: int
    success_auc: float
    auc_low: float  # 95 % interval of the mean, sequences redrawn
    auc_high: float
    precision: float
    robustness: float
    boxes_per_s: float


def evaluate_otb(
    root: Path | str,
    trackers: Mapping[str, Tracker],
    *,
    starts: int = 1,
    first: int | None = None,
) -> list[Score]:
    """Runs every tracker over every sequence at or below `root`; a tracker's last row is its mean.

    root: a benchmark's folder in any layout of `tracking_layouts`. Trackers should be built with
    `persistent=True`: a track that ends is scored with its last box. starts: from how many evenly
    spaced frames each sequence is run (1: one-pass evaluation; 20: the benchmark's TRE). first:
    only so many sequences, by name. Sequences are read one after the other. Raises InputError if
    there is none, SettingError for `starts` below 1.
    """
    if starts < 1:
        raise SettingError(f"starts={starts} is out of range: at least 1")
    scores: dict[str, list[Score]] = {name: [] for name in trackers}
    for file in each(truth_files(root)[:first], "track", "sequences"):
        sequence = read_sequence(file)
        for name, tracker in trackers.items():
            scores[name].append(score_sequence(name, tracker, sequence, starts))
    return [row for name, own in scores.items() for row in (*own, _mean(name, own))]


def run_tracking(inputs: Inputs, settings: TrackingSettings) -> dict[str, Any]:
    """The protocol of `marey eval tracking`: target is the folder of sequences.

    Returns "figures", by tracker the means over sequences with an interval and the AUC by
    attribute, and "sequences", the scores by tracker and sequence. Raises SettingError for an
    unknown tracker, or a setting that one of them lacks.
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
    sequences: dict[str, dict[str, Any]] = {name: {} for name in built}
    for score in scores:
        sequences[score.tracker][score.sequence] = {
            key: value for key, value in asdict(score).items() if key not in _KEYS
        }
    figures = {name: own.pop("mean") for name, own in sequences.items()}
    for row in summarise(scores):
        if row.group == "all":
            figures[row.tracker] |= {"auc_low": row.auc_low, "auc_high": row.auc_high}
            figures[row.tracker]["by_attribute"] = {}
        else:
            figures[row.tracker]["by_attribute"][row.group] = row.success_auc
    return {"figures": figures, "sequences": sequences}


_KEYS = ("tracker", "sequence")


def summarise(scores: Sequence[Score]) -> list[Summary]:
    """Means over all sequences and over those with each attribute, trackers in their order."""
    rows = [score for score in scores if score.sequence != "mean"]
    trackers = list(dict.fromkeys(row.tracker for row in rows))
    groups = ["all", *sorted({name for row in rows for name in row.attributes})]
    found = []
    for tracker in trackers:
        for group in groups:
            own = [
                row
                for row in rows
                if row.tracker == tracker and (group == "all" or group in row.attributes)
            ]
            if own:
                found.append(_summary(tracker, group, own))
    return found


def render(result: Mapping[str, Any]) -> str:
    """A text table of what `run_tracking` returns."""
    return table(
        [
            Score(tracker=tracker, sequence=sequence, **values)
            for tracker, own in result["sequences"].items()
            for sequence, values in own.items()
        ]
    )


def table(scores: Sequence[Score]) -> str:
    """Text tables: a row per sequence where they are few, and means with intervals."""
    lines = []
    if sum(score.tracker == scores[0].tracker for score in scores) <= MANY + 1:
        lines.append(
            f"{'tracker':<20}{'sequence':<16}{'AUC':>7}{'prec@20':>9}{'IoU':>7}{'robust':>8}"
        )
        for score in scores:
            if score.sequence != "mean":
                lines.append(
                    f"{score.tracker:<20}{score.sequence:<16}{score.success_auc:>7.3f}"
                    f"{score.precision:>9.3f}{score.mean_iou:>7.3f}{score.robustness:>8.3f}"
                )
        lines.append("")
    summaries = summarise(scores)
    lines.append(
        f"{'tracker':<20}{'sequences':>10}{'AUC':>7}{'95 % interval':>16}{'prec@20':>9}"
        f"{'robust':>8}{'boxes/CPU s':>13}"
    )
    for row in summaries:
        if row.group == "all":
            interval = f"{row.auc_low:.3f}-{row.auc_high:.3f}"
            lines.append(
                f"{row.tracker:<20}{row.sequences:>10}{row.success_auc:>7.3f}{interval:>16}"
                f"{row.precision:>9.3f}{row.robustness:>8.3f}{row.boxes_per_s:>13.0f}"
            )
    groups = [g for g in dict.fromkeys(row.group for row in summaries) if g != "all"]
    if groups:
        lines += ["", f"{'AUC by attribute':<20}" + "".join(f"{g:>7}" for g in groups)]
        for tracker in dict.fromkeys(row.tracker for row in summaries):
            own = {row.group: row for row in summaries if row.tracker == tracker}
            lines.append(f"{tracker:<20}" + "".join(f"{own[g].success_auc:>7.3f}" for g in groups))
        counts = {row.group: row.sequences for row in summaries}
        lines.append(f"{'sequences':<20}" + "".join(f"{counts[g]:>7}" for g in groups))
    return "\n".join(lines)


def start_frames(truth: NDArray[np.floating], starts: int) -> NDArray[np.int64]:
    """int64: about `starts` evenly spaced frames of [T, 4] boxes, each with a known box."""
    wanted = np.linspace(0, len(truth), starts, endpoint=False).astype(np.int64)
    places = np.flatnonzero(known_boxes(truth))
    return np.unique([places[places >= t][0] for t in wanted if t <= places[-1]]).astype(np.int64)


def score_sequence(name: str, tracker: Tracker, sequence: Recording, starts: int = 1) -> Score:
    """The mean over `starts` runs of `tracker`, each from its start frame to the end."""
    num_frames = len(sequence.frames)
    first = start_frames(sequence.truth, starts)
    began = time.process_time()
    track = tracker.track(sequence.frames, sequence.truth[first], start=first)
    seconds = time.process_time() - began
    runs = [
        (*otb_scores(track.boxes[t:, b], sequence.truth[t:]),
         robustness(track.boxes[t:, b], sequence.truth[t:]))
        for b, t in enumerate(first)
    ]  # fmt: skip
    auc, precision, mean_iou, robust = np.mean(runs, axis=0).tolist()
    speed = float((num_frames - first).sum()) / max(seconds, 1e-9)
    return Score(name, sequence.name, auc, precision, mean_iou, robust, speed, sequence.attributes)


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


def robustness(boxes: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Share of the frames with known truth before the overlap stays at most 0.1 for 10 frames.

    Kristan et al., "The Eighth Visual Object Tracking VOT2020 Challenge Results", section 2.2; a
    run whose last frames (fewer than ten) are lost has failed too.
    """
    known = known_boxes(truth)
    lost = iou(boxes[known], truth[known]) <= FAILURE_IOU
    length = 0
    for t, gone in enumerate(lost):
        length = length + 1 if gone else 0
        if length == FAILURE_FRAMES or (length and t == len(lost) - 1):
            return (t + 1 - length) / len(lost)
    return 1.0


def _mean(name: str, scores: Sequence[Score]) -> Score:
    def over(values: list[float]) -> float:
        return float(np.mean(values))

    return Score(
        name,
        "mean",
        over([s.success_auc for s in scores]),
        over([s.precision for s in scores]),
        over([s.mean_iou for s in scores]),
        over([s.robustness for s in scores]),
        _speed(scores),
    )


def _summary(tracker: str, group: str, scores: Sequence[Score]) -> Summary:
    auc = np.array([s.success_auc for s in scores])
    low, high = video_interval(auc, np.arange(len(auc)).astype(object))
    return Summary(
        tracker,
        group,
        len(scores),
        float(auc.mean()),
        low,
        high,
        float(np.mean([s.precision for s in scores])),
        float(np.mean([s.robustness for s in scores])),
        _speed(scores),
    )


def _speed(scores: Sequence[Score]) -> float:
    """Boxes per second over all sequences: times add up, rates do not."""
    return 1.0 / float(np.mean([1.0 / max(s.boxes_per_s, 1e-9) for s in scores]))
