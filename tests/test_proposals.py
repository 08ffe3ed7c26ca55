"""Proposals find what moves by itself, and say why there is nothing."""

import numpy as np
import pytest

from marey.configs.errors import SettingError
from marey.trackers import iou
from marey.trackers.proposals import (
    PROPOSERS,
    MovingObjects,
    MovingPoints,
    RandomBoxes,
    residual_motion,
    suppress,
)
from marey.trackers.tracker import inside_share
from tests.tracked_scenes import texture

RNG = np.random.default_rng(0)


def panning(num_frames=3, step=4, height=240, width=320):
    """A camera that pans over a still scene."""
    wide = texture(height, width + step * num_frames, 1)
    return np.stack([wide[:, step * t : step * t + width] for t in range(num_frames)])


def square_over_pan(step=4, own=(9, 5)):
    """A square that moves against a panning background; frames and true boxes."""
    frames = panning(4, step, 260, 340)
    square = texture(90, 90, 3)
    truth = []
    for t in range(len(frames)):
        x, y = 80 + own[0] * t, 60 + own[1] * t
        frames[t, y : y + 90, x : x + 90] = square
        truth.append([x, y, 90, 90])
    return frames, np.array(truth, np.float32)


@pytest.mark.parametrize("proposer", [MovingPoints(), MovingObjects()])
def test_nothing_moves_nothing_is_proposed(proposer):
    frames = np.repeat(texture(240, 320, 1)[None], 3, axis=0)
    found = proposer.propose(frames, 0, RNG)
    assert (found.reason, len(found.boxes)) == ("static", 0)


@pytest.mark.parametrize("proposer", [MovingPoints(), MovingObjects()])
def test_a_panning_camera_is_not_motion(proposer):
    found = proposer.propose(panning(), 0, RNG)
    assert (found.reason, len(found.boxes)) == ("camera_only", 0)
    assert found.camera_px == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize("proposer", [MovingPoints(window=130, min_share=0.05), MovingObjects()])
@pytest.mark.parametrize("pan", [0, 4])
def test_the_moving_square_is_found_with_a_still_or_moving_camera(proposer, pan):
    frames, truth = square_over_pan(pan)
    found = proposer.propose(frames, 0, RNG)
    assert found.reason == ""
    assert iou(found.boxes[0], truth[0]) > 0.5
    for box in found.boxes:  # all of them show the square, none the background alone
        shown = box - np.array([80, 60, 0, 0], np.float32)
        assert inside_share(shown, (90, 90)) > 0.3


def test_a_flat_frame_has_no_points():
    frames = np.full((3, 120, 160, 3), 90, np.uint8)
    for proposer in (MovingPoints(), MovingObjects()):
        assert proposer.propose(frames, 0, RNG).reason == "no_motion"


def test_the_last_frame_is_too_late():
    for proposer in (MovingPoints(), MovingObjects()):
        assert proposer.propose(panning(), 2, RNG).reason == "too_short"


def test_residuals_of_a_pan_are_zero_and_flow_is_the_pan():
    motion = residual_motion(*panning(2))
    assert motion is not None
    assert motion.trusted
    np.testing.assert_allclose(np.median(motion.flow, axis=0), [-4, 0], atol=0.05)
    assert np.median(np.linalg.norm(motion.residual, axis=1)) < 0.1


def test_a_cut_gives_no_box():
    frames = np.stack([texture(240, 320, 1), texture(240, 320, 2), texture(240, 320, 2)])
    for proposer in (MovingPoints(), MovingObjects()):
        assert len(proposer.propose(frames, 0, RNG).boxes) == 0


def test_suppression_keeps_the_best_of_overlapping_boxes():
    boxes = np.array([[0, 0, 10, 10], [2, 0, 10, 10], [30, 0, 10, 10], [8, 0, 10, 10]], np.float32)
    assert suppress(boxes, 0.3, 8).tolist() == [0, 2, 3]
    assert suppress(boxes, 0.3, 1).tolist() == [0]
    for found in (RandomBoxes().propose(panning(), 0, np.random.default_rng(3)),):
        overlap = iou(found.boxes[:, None], found.boxes[None])
        assert (overlap[~np.eye(len(overlap), dtype=bool)] <= 0.3).all()


def test_proposers_are_found_by_name_and_refuse_nonsense():
    assert set(PROPOSERS) == {"moving_points", "moving_objects", "random"}
    with pytest.raises(SettingError, match="min_share"):
        MovingPoints(min_share=0.8, max_share=0.5)


def test_proposals_repeat_exactly():
    frames, _ = square_over_pan()
    first, second = (MovingObjects().propose(frames, 0, RNG) for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)
