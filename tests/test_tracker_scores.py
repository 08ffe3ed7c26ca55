"""One-pass evaluation scores what the benchmark defines; drawing changes what it should."""

import weakref

import cv2
import numpy as np
import pytest
import torch

from marey.configs.errors import InputError, SettingError
from marey.configs.evaluation import TrackingSettings
from marey.pipeline.evaluate import tracking
from marey.pipeline.evaluate.protocols import Inputs
from marey.pipeline.evaluate.tracking import (
    evaluate_otb,
    otb_scores,
    render,
    robustness,
    run_tracking,
    score_sequence,
    summarise,
    table,
)
from marey.pipeline.evaluate.tracking_layouts import read_sequence, truth_files
from marey.trackers import build
from marey.trackers.draw import best_median_worst, draw_track
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


@pytest.mark.parametrize("rest", ["", "NaN,NaN,NaN,NaN\n" * 11, "0,0,0,0\n" * 11])
def test_a_test_set_without_its_truth_is_refused(tmp_path, rest):
    """Of GOT-10k's test set the first box alone is given: every tracker would score 20 of 21."""
    write_sequence(tmp_path / "GOT-10k_Test_000001")
    file = tmp_path / "GOT-10k_Test_000001" / "groundtruth_rect.txt"
    file.write_text(file.read_text().splitlines()[0] + "\n" + rest)
    with pytest.raises(InputError, match=r"one of 12 images has a box.*validation set"):
        evaluate_otb(tmp_path, {"kcf": build("kcf-hog", persistent=True)})


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


def write_images(folder, frames, pattern="{:08d}.jpg"):
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / pattern.format(t + 1)), frame[:, :, ::-1])


def test_got10k_lasot_and_vot_folders_hold_the_same_boxes(tmp_path):
    """One clip written in four layouts: the boxes that are read are the same."""
    frames, truth = moving_square(6)
    lines = [",".join(f"{v:g}" for v in box + np.array([1, 1, 0, 0])) for box in truth]
    got = tmp_path / "got" / "GOT-10k_Val_000001"
    write_images(got, frames)
    (got / "groundtruth.txt").write_text("\n".join(lines))
    (got / "absence.label").write_text("0\n0\n1\n0\n0\n0\n")
    (got / "cover.label").write_text("8\n8\n0\n4\n8\n8\n")
    lasot = tmp_path / "lasot" / "car" / "car-1"
    write_images(lasot / "img", frames)
    (lasot / "groundtruth.txt").write_text("\n".join(lines))
    (lasot / "out_of_view.txt").write_text("0,0,1,0,0,0")
    (lasot / "full_occlusion.txt").write_text("0,0,0,1,0,0")
    vot = tmp_path / "vot" / "ball"
    write_images(vot / "color", frames)
    corners = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in truth]
    (vot / "groundtruth.txt").write_text(
        "\n".join(",".join(f"{v:g}" for v in row) for row in corners)
    )
    hidden = truth.copy()
    hidden[2] = np.nan
    for name, wanted in (("got", hidden), ("lasot", hidden), ("vot", truth)):
        (file,) = truth_files(tmp_path / name)
        sequence = read_sequence(file)
        np.testing.assert_allclose(sequence.truth, wanted, err_msg=name)
        assert sequence.frames.shape == frames.shape
    assert read_sequence(truth_files(tmp_path / "got")[0]).visible.tolist() == [1, 1, 0, 0.5, 1, 1]
    assert read_sequence(truth_files(tmp_path / "lasot")[0]).visible.tolist() == [1, 1, 1, 0, 1, 1]


def test_an_empty_line_keeps_its_frame_and_names_sort_as_numbers(tmp_path):
    frames, truth = moving_square(12)
    folder = tmp_path / "A"
    write_images(folder / "img", frames, "{}.png")
    lines = [",".join(f"{v:g}" for v in box + np.array([1, 1, 0, 0])) for box in truth]
    lines[3] = ""
    (folder / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")
    sequence = read_sequence(folder / "groundtruth_rect.txt")
    np.testing.assert_array_equal(sequence.frames, frames)
    assert np.isnan(sequence.truth[3]).all()
    np.testing.assert_allclose(np.delete(sequence.truth, 3, 0), np.delete(truth, 3, 0))


@pytest.mark.parametrize("line", ["1,2,3,4,5", "1,2,3", "a,b,c,d"])
def test_rows_that_are_no_box_are_named_with_their_line(tmp_path, line):
    write_sequence(tmp_path / "A")
    file = tmp_path / "A" / "groundtruth_rect.txt"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"groundtruth_rect\.txt, line 13"):
        read_sequence(file)


def test_polygons_are_read_as_their_bounds(tmp_path):
    write_sequence(tmp_path / "A", 2)
    file = tmp_path / "A" / "groundtruth_rect.txt"
    file.write_text("11,21,51,31,41,71,1,61\n11,21,51,31,41,71,1,61\n")
    assert read_sequence(file).truth[0].tolist() == [0, 20, 50, 50]


def test_a_run_fails_where_ten_frames_in_a_row_are_lost():
    truth = np.array([[0, 0, 40, 40]] * 40, np.float32)
    boxes = truth.copy()
    assert robustness(boxes, truth) == 1.0
    boxes[5:14, 0] = 100  # nine frames, and back
    assert robustness(boxes, truth) == 1.0
    boxes[20:30, 0] = 100
    assert robustness(boxes, truth) == 20 / 40
    late = truth.copy()
    late[36:, 0] = 100
    assert robustness(late, truth) == 36 / 40


def test_attributes_group_sequences_and_intervals_hold_their_means(tmp_path):
    for n, names in enumerate(("SV,FM", "FM", "OV")):
        write_sequence(tmp_path / f"S{n}", 6 + n)
        (tmp_path / f"S{n}" / "attributes.txt").write_text(names + "\n")
    rows = evaluate_otb(tmp_path, {"kcf": build("kcf-hog", persistent=True)})
    groups = {row.group: row for row in summarise(rows)}
    assert {name: row.sequences for name, row in groups.items()} == {
        "all": 3, "FM": 2, "OV": 1, "SV": 1,
    }  # fmt: skip
    assert groups["all"].auc_low <= groups["all"].success_auc <= groups["all"].auc_high
    assert "AUC by attribute" in table(rows)
    result = run_tracking(Inputs(str(tmp_path)), TrackingSettings(trackers="kcf-hog"))
    figures = result["figures"]["kcf-hog"]
    assert figures["by_attribute"]["OV"] == groups["OV"].success_auc
    assert figures["auc_low"] == groups["all"].auc_low
    assert "AUC by attribute" in render(result)


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


def test_best_median_and_worst_are_shown_in_order():
    scores = texture(1, 30, 1, smooth=1)[0, :, 0].astype(float) + np.arange(30) / 100
    order = np.argsort(-scores)
    shown = best_median_worst(scores.tolist(), 3)
    assert shown == [*order[:3], *order[13:16], *order[-3:]]
    assert sorted(best_median_worst([0.1, 0.3], 3)) == [0, 1]
