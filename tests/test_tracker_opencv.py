"""OpenCV's trackers behind our contract: what the adapters correct. Needs a contrib wheel."""

import numpy as np
import pytest
import torch

from marey.trackers import State, build, iou, missing
from tests.tracked_scenes import moving_square, texture

WHERE = "this OpenCV is not a contrib wheel (opencv-contrib-python-headless)"
contrib = pytest.mark.skipif("opencv-kcf" in missing(), reason=WHERE)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@contrib
def test_kcf_does_not_lag_by_a_step():
    """Uncorrected, it learns late and keeps an offset of one frame's motion."""
    frames, truth = moving_square(12, (8, 0))
    track = build("opencv-kcf").track(frames, truth[:1])
    assert (track.state == State.TRACKED).all()
    assert np.abs(track.boxes[:, 0, 0] - truth[:, 0]).max() <= 1.0


@contrib
def test_kcf_follows_large_boxes_at_full_precision():
    frames, truth = moving_square(10, (3, 1), side=100, start=(20, 20))
    track = build("opencv-kcf").track(frames, truth[:1])
    assert np.abs(track.boxes[:, 0, :2] - truth[:, :2]).max() <= 1.6


@contrib
def test_fractions_of_a_pixel_survive():
    frames, truth = moving_square(6)
    box = truth[:1] + np.float32([0.3, 0.4, 0.0, 0.0])
    track = build("opencv-kcf").track(frames, box)
    np.testing.assert_array_equal(track.boxes[0], box)
    assert np.abs(track.boxes[-1, 0, :2] - truth[-1, :2] - [0.3, 0.4]).max() <= 1.0


@contrib
def test_mosse_follows_motion_beyond_its_own_window():
    frames, truth = moving_square(10, (10, 0), start=(40, 60))
    track = build("opencv-mosse").track(frames, truth[:1])
    assert iou(track.boxes[:, 0], truth).min() > 0.6


@contrib
@pytest.mark.parametrize("step", [(3, 1), (-2, 4)])
def test_our_grey_kcf_agrees_with_opencv(step):
    start = (60 if step[0] > 0 else 180, 60)
    frames, truth = moving_square(16, step, start=start)
    ours = build("kcf-grey", window=2.0).track(frames, truth[:1])
    theirs = build("opencv-kcf").track(frames, truth[:1])
    assert iou(ours.boxes, theirs.boxes).min() >= 0.7


def test_a_tracker_that_is_always_there_works_without_contrib():
    frames, truth = moving_square(5)
    track = build("opencv-mil").track(frames, truth[:1])
    assert iou(track.boxes[-1, 0], truth[-1]) > 0.5


def test_a_tracker_that_never_fails_does_not_follow_what_has_left():
    """MIL answers that all is well whatever it sees (opencv_contrib#1473)."""
    frames, truth = moving_square(16)
    frames[8:] = texture(*frames.shape[1:3], seed=1)  # the background alone
    track = build("opencv-mil").track(frames, truth[:1])
    assert (track.state[:8, 0] == State.TRACKED).all()
    assert (track.state[9:, 0] != State.TRACKED).all()
    stays = build("opencv-mil", persistent=True).track(frames, truth[:1])
    assert stays.score[:8, 0].min() == 1
    assert stays.score[9:, 0].max() == 0
