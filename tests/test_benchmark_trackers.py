"""The tracking benchmark compares trackers sequence by sequence, and draws what its scores say."""

import json

import cv2
import numpy as np
import pytest

from benchmarks import tracker_page, trackers
from marey.pipeline.evaluate.tracking import Score, evaluate_otb
from marey.trackers import build
from tests.tracked_scenes import moving_square


@pytest.fixture
def sequences(tmp_path):
    """Four OTB folders, in which a square moves more and more slowly."""
    for n, step in enumerate([(4, 2), (3, 1), (2, 1), (1, 0)]):
        frames, truth = moving_square(12, step, seed=n)
        folder = tmp_path / "benchmark" / f"{n:04d}_SV"
        (folder / "img").mkdir(parents=True)
        for t, frame in enumerate(frames):
            cv2.imwrite(str(folder / "img" / f"{t + 1:04d}.jpg"), frame[:, :, ::-1])
        rows = truth + np.array([1, 1, 0, 0], np.float32)
        np.savetxt(folder / "groundtruth_rect.txt", rows, fmt="%.2f", delimiter=",")
    return tmp_path / "benchmark"


def row(tracker: str, sequence: str, auc: float, boxes_per_s: float) -> Score:
    return Score(tracker, sequence, auc, 1.0, auc, 1.0, boxes_per_s)


def test_trackers_are_compared_sequence_by_sequence():
    """Ours is better by a tenth on each of two unlike sequences, at half the time."""
    theirs = {"a": 0.2, "b": 0.8, "mean": 0.5}
    rows = [row("theirs", name, auc, 10) for name, auc in theirs.items()]
    rows += [row("ours", name, theirs[name] + 0.1, 20) for name in ("b", "a", "mean")]
    line = trackers.differences(rows, "theirs").splitlines()[-1]
    assert line.split() == ["ours", "+0.100", "+0.100", "+0.100", "0.500x"]


def test_the_first_sequences_by_name_are_evaluated(sequences):
    found = evaluate_otb(sequences, {"mosse": build("mosse", persistent=True)}, first=2)
    assert [score.sequence for score in found] == ["0000_SV", "0001_SV", "mean"]


def test_the_page_shows_the_best_the_median_and_the_worst(sequences, tmp_path, monkeypatch):
    scores = {"0000_SV": 0.1, "0001_SV": 0.9, "0002_SV": 0.4, "0003_SV": 0.6}
    lines = [
        json.dumps({"tracker": "dcf-hog", "sequence": name, "success_auc": auc})
        for name, auc in scores.items()
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    chosen = tracker_page.best_median_worst([json.loads(line) for line in lines])
    assert [(which, one["success_auc"]) for which, one in chosen] == [
        ("best", 0.9), ("median", 0.4), ("worst", 0.1),
    ]  # fmt: skip
    out = tmp_path / "page.png"
    monkeypatch.setattr("sys.argv", ["x", "--tracking", str(sequences), "--out", str(out),
                                     "--rows", str(tmp_path / "rows.jsonl")])  # fmt: skip
    tracker_page.main()
    page = cv2.imread(str(out))
    assert page is not None
    page = page[:, :, ::-1].astype(int)
    strip = len(page) // 3
    for n in range(3):
        red, green, blue = np.moveaxis(page[n * strip : (n + 1) * strip], 2, 0)
        assert ((green - red > 100) & (green - blue > 100)).sum() > 100  # right boxes are green
        assert ((red - green > 150) & (red - blue > 150)).sum() == 0
