"""One-pass evaluation scores what the benchmark defines; drawing changes what it should."""

import weakref

import cv2
import numpy as np
import pytest
import torch

from marey.configs.errors import InputError, SettingError
from marey.pipeline.evaluate import tracking
from marey.pipeline.evaluate.tracking import (
    evaluate_otb,
    otb_scores,
    read_sequence,
    score_sequence,
    truth_files,
)
from marey.trackers import build
from marey.trackers.draw import best_median_worst, contact_sheet, draw_track
from tests.tracked_scenes import moving_square, texture


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def write_sequence(folder, num_frames=12, separator=","):
    frames, truth = moving_square(num_frames)
    (folder / "img").mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / "img" / f"{t + 1:04d}.jpg"), frame[:, :, ::-1])
    lines = [separator.join(f"{v:g}" for v in box + np.array([1, 1, 0, 0])) for box in truth]
    (folder / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")
    return truth


def test_a_perfect_tracker_scores_twenty_of_twenty_one():
    truth = np.array([[10, 20, 30, 40]] * 5, np.float32)
    assert otb_scores(truth, truth) == pytest.approx((20 / 21, 1.0, 1.0))


def test_overlap_and_centre_error_in_closed_form():
    truth = np.array([[0, 0, 40, 40], [0, 0, 40, 40]], np.float32)
    boxes = np.array([[20, 0, 40, 40], [100, 0, 40, 40]], np.float32)  # IoU 1/3 and 0
    auc, precision, mean_iou = otb_scores(boxes, truth)
    assert mean_iou == pytest.approx(1 / 6)
    assert auc == pytest.approx(7 / 21 / 2)  # 1/3 exceeds 0, 0.05, ... 0.30
    assert precision == 0.5  # 20 px counts, 100 px does not


def test_frames_without_truth_are_skipped():
    truth = np.array([[0, 0, 40, 40], [np.nan] * 4, [0, 0, 0, 0]], np.float32)
    boxes = np.array([[0, 0, 40, 40], [500, 0, 9, 9], [500, 0, 9, 9]], np.float32)
    assert otb_scores(boxes, truth)[2] == 1.0


@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_boxes_in_files_are_one_based(tmp_path, separator):
    truth = write_sequence(tmp_path / "Square", separator=separator)
    sequence = read_sequence(tmp_path / "Square" / "groundtruth_rect.txt")
    np.testing.assert_allclose(sequence.truth, truth)
    assert sequence.frames.shape == (12, 200, 280, 3)


def test_evaluation_gives_a_row_a_sequence_and_their_mean(tmp_path):
    write_sequence(tmp_path / "A")
    write_sequence(tmp_path / "B", 10)
    rows = evaluate_otb(tmp_path, {"kcf": build("kcf-hog", persistent=True)})
    assert [row.sequence for row in rows] == ["A", "B", "mean"]
    assert rows[2].success_auc == pytest.approx((rows[0].success_auc + rows[1].success_auc) / 2)
    assert rows[2].success_auc > 0.8
    assert rows[0].boxes_per_s > 0


def test_several_starts_are_each_scored_from_their_own_frame(tmp_path):
    write_sequence(tmp_path / "A")
    sequence = read_sequence(truth_files(tmp_path)[0])
    once = score_sequence("kcf", build("kcf-hog", persistent=True), sequence)
    many = score_sequence("kcf", build("kcf-hog", persistent=True), sequence, starts=4)
    assert many.success_auc == pytest.approx(once.success_auc, abs=0.1)


def test_two_targets_of_one_folder_are_two_sequences_and_none_is_kept(tmp_path, monkeypatch):
    """Jogging and Skating2 have `groundtruth_rect.1.txt` and `.2.txt`."""
    write_sequence(tmp_path / "Crossing")
    truth = write_sequence(tmp_path / "Jogging")
    whole = tmp_path / "Jogging" / "groundtruth_rect.txt"
    (tmp_path / "Jogging" / "groundtruth_rect.2.txt").write_text("200,100,30,30\n" * 12)
    whole.rename(tmp_path / "Jogging" / "groundtruth_rect.1.txt")
    alive: list[weakref.ref] = []

    def read(file):
        assert sum(one() is not None for one in alive) <= 1
        sequence = read_sequence(file)
        alive.append(weakref.ref(sequence.frames))
        return sequence

    monkeypatch.setattr(tracking, "read_sequence", read)
    rows = evaluate_otb(tmp_path, {"kcf": build("kcf-hog", persistent=True)})
    assert [row.sequence for row in rows] == ["Crossing", "Jogging-1", "Jogging-2", "mean"]
    assert rows[0].mean_iou == rows[1].mean_iou
    first = read_sequence(truth_files(tmp_path)[1])
    np.testing.assert_allclose(first.truth, truth)


def test_a_folder_without_sequences_and_broken_boxes_are_named(tmp_path):
    with pytest.raises(InputError, match="groundtruth_rect"):
        evaluate_otb(tmp_path, {})
    write_sequence(tmp_path / "A")
    (tmp_path / "A" / "groundtruth_rect.txt").write_text("1,2,3\n")
    with pytest.raises(InputError, match="four numbers"):
        read_sequence(tmp_path / "A" / "groundtruth_rect.txt")
    (tmp_path / "A" / "groundtruth_rect.txt").write_text("NaN,NaN,NaN,NaN\n0,0,0,0\n")
    with pytest.raises(InputError, match="has a box"):
        evaluate_otb(tmp_path, {"kcf": build("kcf-hog")})
    with pytest.raises(SettingError, match="starts=0"):
        evaluate_otb(tmp_path, {}, starts=0)


def test_drawing_marks_living_boxes_on_a_copy():
    frames, truth = moving_square(6)
    before = frames.copy()
    track = build("kcf-hog").track(frames, truth[[0, 0]], start=np.array([0, 3]))
    drawn = draw_track(frames, track)
    np.testing.assert_array_equal(frames, before)
    x, y, w, _ = truth[2].astype(int)
    edge = drawn[2, y, x : x + w].astype(int) - frames[2, y, x : x + w]
    assert (np.abs(edge).sum(axis=1) > 0).mean() > 0.9
    far = (slice(None), slice(150, 200), slice(0, 40))
    np.testing.assert_array_equal(drawn[far], frames[far])


def test_a_contact_sheet_shows_every_patch():
    rows = [np.full((2, 32, 32, 3), 20 * n, np.uint8) for n in range(5)]
    sheet = contact_sheet(rows, [f"track {n}" for n in range(5)], side=32, columns=2)
    for n in range(5):
        assert (sheet == 20 * n).all(axis=2).sum() >= 2 * 32 * 32
    assert contact_sheet([]).shape[2] == 3


def test_best_median_and_worst_are_shown_in_order():
    scores = texture(1, 30, 1, smooth=1)[0, :, 0].astype(float) + np.arange(30) / 100
    order = np.argsort(-scores)
    shown = best_median_worst(scores.tolist(), 3)
    assert shown == [*order[:3], *order[13:16], *order[-3:]]
    assert sorted(best_median_worst([0.1, 0.3], 3)) == [0, 1]
