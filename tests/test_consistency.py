"""Track checks measure what they say and count each track under one reason."""

import numpy as np
import pytest
import torch

from marey.trackers import State, Track, build
from marey.trackers.camera_path import camera_path, own_travel
from marey.trackers.consistency import (
    Limits,
    Quality,
    crop_correlation,
    forward_backward,
    judge,
    last_tracked,
    measure,
)
from tests.tracked_scenes import moving_square, texture


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def straight(num_frames=31, step=(2.0, 0.0), side=60.0, growth=1.0, start=(50.0, 50.0)):
    """A `Track` of one box that moves evenly; always tracked."""
    t = np.arange(num_frames)
    size = side * growth**t
    centre = np.array(start) + side / 2 + t[:, None] * np.array(step)
    boxes = np.concatenate([centre - size[:, None] / 2, np.repeat(size[:, None], 2, 1)], axis=1)
    state = np.full((num_frames, 1), State.TRACKED, np.uint8)
    score = np.ones((num_frames, 1), np.float32)
    return Track(boxes[:, None].astype(np.float32), score, state, ("",))


def quality(**changed):
    values = {
        "fb_iou": 0.9,
        "fb_error": 0.05,
        "appearance": 0.7,
        "mean_score": 0.8,
        "low_share": 0.0,
        "travel": 1.0,
        "own_travel": 1.0,
        "late_travel": 0.5,
    }
    return Quality(**{k: np.array([v]) for k, v in (values | changed).items()})


def verdict(track, measured, **more):
    settings = {"size": (400, 300), "seconds": 1 / 30} | more
    return judge(track, measured, Limits(min_own_travel=0.1), **settings)[0]


def test_a_good_track_stands():
    assert verdict(straight(), quality()) == ""


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"fb_iou": 0.3}, "fb"),
        ({"fb_error": 0.5}, "fb"),
        ({"fb_iou": np.nan}, "fb"),
        ({"appearance": 0.1}, "appearance"),
        ({"appearance": 0.99}, "duplicate"),
        ({"low_share": 0.3}, "low_score"),
        ({"travel": 0.05}, "static"),
        ({"travel": 3.0}, "travel"),
        ({"own_travel": 0.05}, "background"),
        ({"own_travel": np.nan, "late_travel": np.nan}, ""),
    ],
)
def test_each_check_refuses_alone(changed, reason):
    assert verdict(straight(), quality(**changed)) == reason


def test_geometry_is_checked_on_the_boxes():
    assert verdict(straight(growth=1.03), quality()) == "scale"
    assert verdict(straight(step=(12.0, 0.0)), quality()) == "exit"
    jumping = straight()
    jumping.boxes[10:, 0, 0] += 100
    assert verdict(jumping, quality()) == "jump"


def test_a_track_that_ended_early_is_counted_under_the_reason_it_ended_for():
    track = straight()
    track.state[5:] = State.LOST
    ended = Track(track.boxes, track.score, track.state, ("low_score",))
    assert verdict(ended, quality()) == "low_score"
    assert verdict(straight(5), quality()) == "too_short"


def test_a_drifting_track_does_not_find_the_way_back():
    """The boxes slide over a scene that stands still: from where they end, nothing leads back."""
    frames = np.stack([texture(300, 400, 1)] * 16)
    frames[1::2] += 1  # no frame is a copy of the one before
    drifting = straight(16, step=(3.0, 0.0))
    overlap, error = forward_backward(build("kcf-hog"), frames, drifting)
    assert overlap[0] < 0.3
    assert error[0] > 0.5


def test_measures_of_a_followed_square():
    frames, truth = moving_square(16, (3, 1))
    tracker = build("kcf-hog")
    track = tracker.track(frames, truth[:1])
    measured = measure(frames, track, forward_backward(tracker, frames, track), min_score=0.35)
    assert measured.travel[0] == pytest.approx(np.hypot(45, 15) / 40, abs=0.05)
    assert measured.appearance[0] > 0.9
    assert measured.low_share[0] == 0.0
    assert last_tracked(track).tolist() == [15]


def test_crop_correlation_knows_same_opposite_and_unrelated():
    image = texture(80, 80, 1)
    box = np.array([10.0, 10.0, 40.0, 40.0])
    assert crop_correlation(image, box, image, box) == pytest.approx(1.0)
    assert crop_correlation(image, box, 255 - image, box) == pytest.approx(-1.0, abs=1e-3)
    assert abs(crop_correlation(image, box, texture(80, 80, 7), box)) < 0.4


@pytest.mark.parametrize("pan", [(0, 0), (3, 1), (-2, 2)])
def test_a_box_on_the_background_has_no_travel_of_its_own(pan):
    """A pan carries the box far across the picture: it still goes nowhere."""
    plane, square = texture(400, 500, 1), texture(40, 40, 2)
    frames, moving, still = [], [], []
    for t in range(21):
        x, y = 60 + pan[0] * t, 60 + pan[1] * t
        frame = plane[y : y + 240, x : x + 320].copy()
        frame[80 + t : 120 + t, 60 + 4 * t : 100 + 4 * t] = square
        frames.append(frame)
        moving.append([60 + 4 * t, 80 + t, 40, 40])
        still.append([150 - pan[0] * t, 150 - pan[1] * t, 40, 40])
    path = camera_path(np.stack(frames))
    whole, late = own_travel(path, np.array(still, np.float32))
    assert max(whole, late) < 0.05
    whole, late = own_travel(path, np.array(moving, np.float32))
    expected = np.hypot(80 + pan[0] * 20, 20 + pan[1] * 20) / 40
    assert whole == pytest.approx(expected, abs=0.05)
    assert late == pytest.approx(expected / 2, abs=0.05)  # the last ten frames of twenty


def test_a_camera_that_cannot_be_followed_refuses_nothing():
    frames = np.stack([texture(120, 160, seed) for seed in range(11)])
    path = camera_path(frames)
    box = np.tile(np.array([[40, 40, 30, 30]], np.float32), (11, 1))
    assert np.isnan(own_travel(path, box)).all()


def test_a_thing_before_a_plain_wall_is_not_taken_for_the_scene():
    """All corners are the thing's: without its box, nothing tells how the camera moved."""
    frames = np.full((11, 200, 300, 3), 100, np.uint8)
    boxes = np.zeros((11, 1, 4), np.float32)
    for t in range(11):
        frames[t, 40:140, 20 + 5 * t : 120 + 5 * t] = texture(100, 100, 3)
        boxes[t, 0] = 20 + 5 * t, 40, 100, 100
    assert own_travel(camera_path(frames), boxes[:, 0])[0] < 0.1
    assert np.isnan(own_travel(camera_path(frames, boxes), boxes[:, 0])).all()
