"""Does a tracker know when it is lost? Fits and checks the score of the correlation trackers.

    python -m benchmarks.tracker_scores --tracking BENCHMARK [--trackers dcf-colour staple strcf]

BENCHMARK: a folder with `tuning` and `reported` in it (`python -m benchmarks.trackers make`). A
frame is right if its box overlaps the truth by more than half, lost if by at most a fifth; what
lies between, and frames whose truth is unknown, are left out. The weights are fitted on the tuning
half; the area under the ROC is that of the reported one.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.trackers import one_thread
from marey.pipeline.evaluate.tracking import start_frames
from marey.pipeline.evaluate.tracking_layouts import known_boxes, read_sequence, truth_files
from marey.trackers import build, iou
from marey.trackers.correlation import CorrelationTracker
from marey.trackers.evidence import EVIDENCE, WITHOUT_COLOUR
from marey.trackers.slots import Slots

RIGHT, LOST = 0.5, 0.2


def main() -> None:
    """Prints weights for `trackers/variants.py`, and what they are worth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking", required=True, help="folder with tuning/ and reported/")
    parser.add_argument("--trackers", nargs="+", default=["dcf-colour", "staple", "strcf"])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="use every so many-th sequence")
    options = parser.parse_args()
    one_thread()
    root = Path(options.tracking)
    for name in options.trackers:
        halves = [
            collect(name, truth_files(root / half)[:: options.every], options.starts)
            for half in ("tuning", "reported")
        ]
        print_fit(name, *halves)


def collect(name: str, files: Iterable[Path], starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Evidence float64 [n, len(EVIDENCE)] of right and lost frames, and which are right."""
    tracker = build(name, persistent=True)
    assert isinstance(tracker, CorrelationTracker)
    rows: list[tuple[int, int, np.ndarray]] = []

    def observe(slots: Slots, table: np.ndarray) -> None:
        for n in np.flatnonzero(slots.alive):
            rows.append((int(slots.frame[n]), int(slots.box[n]), table[n].copy()))

    tracker.observe = observe
    evidence, right = [], []
    for file in files:
        sequence = read_sequence(file)
        rows.clear()
        first = start_frames(sequence.truth, starts)
        track = tracker.track(sequence.frames, sequence.truth[first], start=first)
        known = known_boxes(sequence.truth)
        for t, b, values in rows:
            overlap = float(iou(track.boxes[t, b], sequence.truth[t])) if known[t] else np.nan
            if overlap > RIGHT or overlap <= LOST:
                evidence.append(values)
                right.append(overlap > RIGHT)
    return np.array(evidence), np.array(right)


def print_fit(
    name: str,
    tuning: tuple[np.ndarray, np.ndarray],
    reported: tuple[np.ndarray, np.ndarray],
) -> None:
    """The weights as a line to paste, and the areas under the ROC on both halves."""
    from sklearn.metrics import roc_auc_score

    coloured = bool(np.ptp(tuning[0][:, WITHOUT_COLOUR:]) > 0)
    use = len(EVIDENCE) if coloured else WITHOUT_COLOUR
    constant, weights = fit_weights(tuning[0][:, :use], tuning[1])
    print(f"{name}: calibration=({constant:.3f}, " + ", ".join(f"{w:.3f}" for w in weights) + "),")
    for half, (values, right) in (("tuning", tuning), ("reported", reported)):
        if not len(values):
            continue
        score = values[:, :use] @ weights + constant
        alone = "  ".join(
            f"{EVIDENCE[k]} {roc_auc_score(right, values[:, k]):.3f}" for k in range(use)
        )
        print(
            f"  {half}: {len(right)} frames, {right.mean():.2f} right, ROC "
            f"{roc_auc_score(right, score):.3f}; each alone: {alone}",
            flush=True,
        )


def fit_weights(values: np.ndarray, right: np.ndarray) -> tuple[float, np.ndarray]:
    """Constant and weights of a logistic regression in which no weight is negative.

    values: float64 [n, k]. right: bool [n]. All evidence is for the box being right; a negative
    weight would fit the benchmark's own habits, and call a perfect match lost. Both kinds of frame
    weigh the same: 0.5 then means as likely right as lost.
    """
    from scipy.optimize import minimize

    mean, std = values.mean(0), values.std(0) + 1e-9
    x = np.column_stack([np.ones(len(values)), (values - mean) / std])
    sign = np.where(right, 1.0, -1.0)
    share = np.where(right, 0.5 / max(right.sum(), 1), 0.5 / max((~right).sum(), 1))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        slope = -sign * share / (1.0 + np.exp(np.clip(margin, -50, 50)))
        ridge = 1e-3 * np.append(0.0, w[1:])
        value = float(share @ np.logaddexp(0.0, -margin) + 0.5 * ridge @ w)
        return value, x.T @ slope + ridge

    bounds = [(None, None)] + [(0.0, None)] * values.shape[1]
    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = found[1:] / std
    return float(found[0] - weights @ mean), weights


if __name__ == "__main__":
    main()
