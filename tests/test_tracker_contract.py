"""Every tracker keeps the contract: start, endings, refusals, direction, independence."""

import cv2
import numpy as np
import pytest
import torch

from marey.configs.errors import DependencyError, InputError, SettingError
from marey.trackers import State, build, missing, names
from marey.trackers.tracker import Gate, Request, inside_share, iou, refusal
from tests.tracked_scenes import moving_square, texture

CHEAP = ("mosse", "dcf-grey", "kcf-grey", "dcf-hog", "kcf-hog", "median-flow", "opencv-mil")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", CHEAP)
def test_the_first_output_is_the_given_box_and_the_target_is_followed(name):
    frames, truth = moving_square()
    track = build(name).track(frames, truth[:1])
    np.testing.assert_array_equal(track.boxes[0], truth[:1])
    assert (track.state == State.TRACKED).all(), track.reason
    assert iou(track.boxes[:, 0], truth).min() > 0.6


@pytest.mark.parametrize("name", ["kcf-hog", "median-flow"])
def test_backward_is_the_reversed_forward_run(name):
    frames, truth = moving_square(12)
    tracker = build(name)
    back = tracker.track(frames, truth[-1:], start=11, direction="backward")
    mirrored = tracker.track(frames[::-1].copy(), truth[-1:])
    np.testing.assert_allclose(back.boxes, mirrored.boxes[::-1], atol=1e-4)
    assert iou(back.boxes[0, 0], truth[0]) > 0.6


@pytest.mark.parametrize("name", ["kcf-hog", "median-flow"])
def test_frames_before_the_start_are_not_started(name):
    frames, truth = moving_square(10)
    track = build(name).track(frames, truth[[4, 0, 9]], start=np.array([4, 0, 9]))
    assert (track.state[:4, 0] == State.NOT_STARTED).all()
    assert np.isnan(track.boxes[:4, 0]).all()
    assert (track.state[4:, 0] == State.TRACKED).all()
    # start at the last frame: a track of length one
    assert track.num_frames.tolist() == [6, 10, 1]
    assert track.reason == ("", "", "")


@pytest.mark.parametrize("name", ["kcf-hog", "strcf", "median-flow", "affinity", "opencv-mil"])
def test_bad_boxes_are_lost_with_a_reason_and_spoil_nothing(name):
    frames, truth = moving_square(4)
    frames[:, 150:, :60] = 90  # a flat corner
    bad = np.array(
        [
            [np.nan, 10, 30, 30],
            [10, 10, 4, 30],
            [250, 10, 60, 60],
            [1000, 1000, 30, 30],
            [0, 150, 50, 50],
            [0, 0, 280, 200],
        ],
        np.float32,
    )
    expected = ["non_finite", "box_too_small", "outside_image", "outside_image", "textureless"]
    expected.append("box_too_large")
    tracker = build(name)
    together = tracker.track(frames, np.concatenate([bad, truth[:1]]))
    assert list(together.reason) == [*expected, ""]
    assert (together.state[:, :-1] == State.LOST).all()
    alone = tracker.track(frames, truth[:1])
    # MIL draws random numbers that nobody can seed
    tolerance = 3.0 if name == "opencv-mil" else 1e-3
    np.testing.assert_allclose(together.boxes[:, -1:], alone.boxes, atol=tolerance)


def test_a_negative_size_names_its_row():
    frames, truth = moving_square(2)
    with pytest.raises(InputError, match=r"row 1.*negative size"):
        build("kcf-grey").track(frames, np.array([truth[0], [50, 50, -10, 10]], np.float32))


@pytest.mark.parametrize(
    ("frames", "boxes", "start"),
    [
        (np.zeros((3, 8, 8, 3), np.float32), np.zeros((1, 4), np.float32), 0),
        (np.zeros((3, 8, 8), np.uint8), np.zeros((1, 4), np.float32), 0),
        (np.zeros((3, 8, 8, 3), np.uint8), np.zeros((1, 5), np.float32), 0),
        (np.zeros((3, 8, 8, 3), np.uint8), np.zeros((1, 4), np.float32), 3),
    ],
)
def test_wrong_arrays_are_refused_with_what_is_allowed(frames, boxes, start):
    with pytest.raises(InputError, match="given"):
        build("kcf-grey").track(frames, boxes, start=start)


def test_one_frame_and_no_boxes_are_no_error():
    frames, truth = moving_square(1)
    assert build("kcf-hog").track(frames, truth).num_frames.tolist() == [1]
    assert build("kcf-hog").track(frames, np.zeros((0, 4), np.float32)).boxes.shape == (1, 0, 4)


def test_the_registry_names_what_is_missing_and_refuses_what_is_unknown():
    absent = missing()
    assert set(absent) <= {n for n in names() if n.startswith("opencv-")}
    for name in absent:
        with pytest.raises(DependencyError, match="contrib"):
            build(name)
    with pytest.raises(SettingError, match="kcf-hog"):
        build("no-such-tracker")
    with pytest.raises(SettingError, match="min_score"):
        build("kcf-hog", minimal_score=0.1)
    with pytest.raises(SettingError, match="median-flow"):
        build("median-flow", gridd=3)


def test_overlap_and_inside_share_in_closed_form():
    box = np.array([0.0, 0.0, 10.0, 10.0])
    others = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [10, 0, 5, 5], [0, 0, 5, 20]], float)
    np.testing.assert_allclose(iou(box, others), [1.0, 1 / 3, 0.0, 50 / 150])
    assert inside_share(np.array([-5.0, -5.0, 10.0, 10.0]), (100, 100)) == pytest.approx(0.25)


def test_the_gate_is_a_threshold_not_a_taste():
    frame = texture(100, 100, 3)
    box = np.array([70, 20, 40, 40], np.float32)  # three quarters inside
    assert refusal(frame, box, Gate()) == ""
    assert refusal(frame, box, Gate(min_inside=0.8)) == "outside_image"


def test_several_clips_in_one_call_equal_one_call_a_clip():
    tracker = build("kcf-hog", batch=3)
    requests, alone = [], []
    for n, step in enumerate([(3, 1), (-2, 2), (4, 0), (1, 3)]):
        frames, truth = moving_square(8 + n, step, start=(100, 60), size=(180 + 10 * n, 260))
        boxes = np.concatenate([truth[:1], truth[:1] + np.float32([6, 4, 0, 0])])
        requests.append(Request(frames, boxes, np.zeros(2, np.int64)))
        alone.append(tracker.track(frames, boxes))
    for one, track in zip(alone, tracker.track_clips(requests), strict=True):
        np.testing.assert_allclose(track.boxes, one.boxes, atol=1e-3)


@pytest.mark.parametrize("name", ["kcf-hog", "median-flow", "opencv-mil"])
def test_a_tracker_uses_one_thread_and_gives_the_others_back(name, monkeypatch):
    """A pool of threads costs many times the work of one box."""
    frames, truth = moving_square(3)
    tracker = build(name)
    during = []
    step = {"kcf-hog": "_record", "median-flow": "_follow_clip", "opencv-mil": "_follow_one"}[name]
    inner = getattr(tracker, step)

    def look(*given):
        during.append((cv2.getNumThreads(), torch.get_num_threads()))
        return inner(*given)

    monkeypatch.setattr(tracker, step, look)
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(2)
    torch.set_num_threads(2)
    try:
        tracker.track(frames, truth[:1])
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (2, 2)
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
    assert {threads[0] for threads in during} == {1}
    if name == "kcf-hog":
        assert {threads[1] for threads in during} == {1}
