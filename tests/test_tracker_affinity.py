"""Label propagation carries a box with its content, for any encoder, any number of boxes."""

import numpy as np
import pytest
import torch
from torch import nn

from marey.configs.errors import SettingError
from marey.trackers import State, build, iou
from marey.trackers.affinity import PatchEncoder, box_masks, mask_boxes
from tests.tracked_scenes import moving_square


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


SMALL = {"height": 160, "memory": 2}


def test_a_large_box_is_followed_forward_and_backward():
    frames, truth = moving_square(8, (10, 0), side=80, start=(40, 40))  # one cell a frame
    tracker = build("affinity", **SMALL)
    track = tracker.track(frames, truth[:1])
    assert (track.state == State.TRACKED).all()
    assert iou(track.boxes[:, 0], truth).min() > 0.45  # unlearned features smear
    back = tracker.track(frames, truth[-1:], start=7, direction="backward")
    assert iou(back.boxes[0, 0], truth[0]) > 0.45


def test_masks_are_channels_so_other_boxes_change_nothing():
    frames, truth = moving_square(5, (6, 3), side=80, start=(40, 40))
    others = truth[:1] + np.float32([[20, 10, 5, 0], [-30, 5, 0, 0], [60, -20, -20, 0]])
    tracker = build("affinity", **SMALL)
    together = tracker.track(frames, np.concatenate([truth[:1], others]))
    np.testing.assert_allclose(
        together.boxes[:, :1], tracker.track(frames, truth[:1]).boxes, atol=1e-2
    )


def test_any_encoder_with_any_stride_will_do():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 32, 7, stride=4, padding=3))
    frames, truth = moving_square(4, (6, 3), side=80, start=(40, 40))
    track = build("affinity", encoder=encoder, height=128, stride=4, memory=1).track(
        frames, truth[:1]
    )
    assert iou(track.boxes[:, 0], truth).min() > 0.5


def test_a_box_becomes_its_mask_and_back():
    boxes = np.array([[20.0, 10.0, 60.0, 40.0], [0.0, 0.0, 100.0, 80.0]])
    masks = box_masks(boxes, (100, 80), (16, 20))
    np.testing.assert_allclose(masks.sum(1) * 25, boxes[:, 2] * boxes[:, 3], rtol=1e-5)
    back = mask_boxes(masks, (100, 80), (16, 20))
    np.testing.assert_allclose(back[:, 2:], 0.9 * boxes[:, 2:], rtol=1e-5)
    np.testing.assert_allclose(
        back[:, :2] + back[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2, rtol=1e-5
    )
    assert np.isnan(mask_boxes(np.zeros((1, 320), np.float32), (100, 80), (16, 20))).all()


def test_the_patch_encoder_keeps_the_grid_and_forgets_brightness():
    images = torch.rand(2, 3, 48, 64)
    encoder = PatchEncoder(8)
    features = encoder(images)
    assert features.shape == (2, 192, 6, 8)
    torch.testing.assert_close(features, encoder(images + 0.3), atol=1e-5, rtol=0)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(SettingError, match="temperature"):
        build("affinity", temperature=0.0)
