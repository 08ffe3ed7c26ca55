"""Does OPN put the frames of a video in order, and nothing into the frames of noise?"""

import pytest
import torch
from pydantic import ValidationError

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_changes import FrameChanges
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.sort_frames import SortFrames, SortFramesConfig
from tests.dot_clips import as_batch, dot_videos, still
from tests.learning import train

PLAIN = FrameChanges()


def method(
    augment: AugmentConfig | None = None, changes: FrameChanges = PLAIN, window: float = 1.0
) -> SortFrames:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        stages=2, image_size=32, pool="spatial_softmax", pool_norm=True, embedding_dim=8
    )
    varied = augment or AugmentConfig()
    config = SortFramesConfig(pair_dim=64, augment=varied, changes=changes, window=window)
    return SortFrames(Encoder(encoder), config)


def batch(generator: torch.Generator, shuffled: bool = False):
    return as_batch(dot_videos(generator, 24, 4, speed=0.15, shuffled=shuffled))


def test_it_learns_to_sort() -> None:
    varied = AugmentConfig(crop_scale=(0.8, 1.0), jitter=0.5, brightness=0.2)
    sorter = method(varied, FrameChanges(shift=0.03, channel_split=0.5), window=0.5)
    metrics = train(sorter, batch, steps=50)
    assert sorter.chance["accuracy"] == pytest.approx(1 / 12)
    assert metrics["accuracy"] > 0.2


def test_frames_that_were_shuffled_before_teach_nothing() -> None:
    metrics = train(method(), lambda g: batch(g, shuffled=True), steps=25)
    assert metrics["accuracy"] == pytest.approx(1 / 12, abs=0.06)


def test_the_shuffled_frames_are_those_of_the_video_in_the_order_of_the_label() -> None:
    sorter = method()
    raw = batch(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    shuffled = sorter.augment(raw)
    plain = sorter.images(raw["frames"], AugmentConfig())
    for row in range(24):
        places = [
            next(n for n in range(4) if torch.equal(image, plain[row, n]))
            for image in shuffled["images"][row]
        ]
        order = sorter.orders[shuffled["label"][row]].tolist()
        assert places in (order, [3 - piece for piece in order])


def test_a_sample_and_its_reversal_have_one_label() -> None:
    """Of pictures in slots there is one answer, whichever way the video ran."""
    raw = batch(torch.Generator().manual_seed(0))
    known: dict[bytes, int] = {}
    for frames in (raw["frames"][:1], raw["frames"][:1].flip(1)):
        many = {**as_batch(frames.expand(200, -1, -1, -1, -1))}
        given = method().augment(many)
        for images, label in zip(given["images"], given["label"].tolist(), strict=True):
            assert known.setdefault(images.numpy().tobytes(), label) == label
    assert len(known) == 24


def test_samples_with_two_like_frames_are_left_out() -> None:
    sorter = method()
    moving = dot_videos(torch.Generator().manual_seed(0), 4, 4, speed=0.15)
    returning = moving.clone()
    returning[:, 3] = returning[:, 0]
    frames = torch.cat([moving, returning, still(4, 4)])
    usable = sorter.augment(as_batch(frames))["usable"]
    assert usable.tolist() == [True] * 4 + [False] * 8
    metrics = sorter(sorter.augment(as_batch(still(4, 4))))
    assert metrics["loss"] == 0
    metrics["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in sorter.parameters())


@pytest.mark.parametrize("sampling", [{"num_frames": 2}, {"num_frames": 7}, {"clips": 2}])
def test_what_cannot_be_sorted_is_refused(sampling: dict) -> None:
    values = {"kind": "clips", "num_frames": 4, **sampling}
    with pytest.raises(ValidationError, match="one clip of 3 to 6 frames"):
        SortFramesConfig.model_validate({"sampling": values})
