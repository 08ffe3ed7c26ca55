"""Does VCOP put the clips of a video in order?"""

import pytest
import torch
from pydantic import ValidationError

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.clip_order import ClipOrder, ClipOrderConfig
from tests.dot_clips import as_batch, dot_videos, still
from tests.learning import train

CLIPS = EncoderConfig(
    backbone="tiny_r3d", stages=2, image_size=32, clip_frames=2, pool="spatial_softmax",
    pool_norm=True,
)  # fmt: skip


def method(encoder: EncoderConfig = CLIPS) -> ClipOrder:
    torch.manual_seed(0)
    sampling = {
        "kind": "clips", "num_frames": 2, "spacing_s": 0.1, "clips": 3, "placement": "in_order",
    }  # fmt: skip
    config = ClipOrderConfig.model_validate(
        {"sampling": sampling, "pair_dim": 64, "augment": AugmentConfig()}
    )
    return ClipOrder(Encoder(encoder), config)


def batch(generator: torch.Generator, shuffled: bool = False):
    frames = dot_videos(generator, 16, 6, speed=0.12, one_way=True, shuffled=shuffled)
    return as_batch(frames)


def test_it_learns_the_order_of_clips() -> None:
    solver = method()
    metrics = train(solver, batch, steps=25)
    assert solver.chance["accuracy"] == pytest.approx(1 / 6)
    assert metrics["accuracy"] > 0.5


def test_videos_without_an_order_teach_nothing() -> None:
    metrics = train(method(), lambda g: batch(g, shuffled=True), steps=25)
    assert metrics["accuracy"] == pytest.approx(1 / 6, abs=0.12)


def test_clips_are_shuffled_whole_in_the_order_of_the_label() -> None:
    solver = method()
    raw = batch(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    given = solver.augment(raw)
    plain = solver.clips(raw["frames"].unflatten(1, (3, 2)), AugmentConfig())
    for row in range(16):
        order = solver.orders[given["label"][row]]
        assert torch.equal(given["clips"][row], plain[row, order])
    assert len(given["label"].unique()) > 3


def test_samples_with_two_like_clips_are_left_out() -> None:
    moving = dot_videos(torch.Generator().manual_seed(0), 4, 6, speed=0.12)
    twice = moving.clone()
    twice[:, 4:] = twice[:, :2]
    frames = torch.cat([moving, twice, still(4, 6)])
    usable = method().augment(as_batch(frames))["usable"]
    assert usable.tolist() == [True] * 4 + [False] * 8


def test_settings_that_give_no_order_are_refused() -> None:
    for sampling in ({"clips": 3}, {"clips": 5, "placement": "in_order"}):
        with pytest.raises(ValidationError, match="two to four clips"):
            ClipOrderConfig.model_validate({"sampling": {"kind": "clips", **sampling}})
    with pytest.raises(SettingError, match="clip_frames"):
        method(CLIPS.model_copy(update={"clip_frames": 4}))
    with pytest.raises(SettingError, match="spacing_s"):
        method(CLIPS.model_copy(update={"clip_step_s": 0.2}))
