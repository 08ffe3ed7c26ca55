"""Does the arrow of time show where there is one, and only there?"""

import pytest
import torch
from pydantic import ValidationError

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_changes import without_border_noise
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.arrow_of_time import ArrowOfTime, ArrowOfTimeConfig
from tests.dot_clips import as_batch, dot_videos, still
from tests.every_method import small_config
from tests.learning import train

FRAMES = EncoderConfig(
    stages=2, image_size=32, pool="spatial_softmax", pool_norm=True, embedding_dim=8
)
CLIPS = EncoderConfig(backbone="tiny_r3d", stages=2, image_size=32, clip_frames=4)


def method(encoder: EncoderConfig = FRAMES, augment: AugmentConfig | None = None) -> ArrowOfTime:
    torch.manual_seed(0)
    sampling = {"kind": "clips", "num_frames": 4, "spacing_s": 0.1}
    varied = augment or AugmentConfig()
    config = ArrowOfTimeConfig.model_validate({"sampling": sampling, "augment": varied})
    return ArrowOfTime(Encoder(encoder), config)


def batch(generator: torch.Generator, one_way: bool = True):
    return as_batch(dot_videos(generator, 24, 4, speed=0.12, one_way=one_way))


def test_it_learns_where_things_always_go_one_way() -> None:
    varied = AugmentConfig(crop_scale=(0.8, 1.0), jitter=0.5, brightness=0.2)
    metrics = train(method(augment=varied), batch, steps=25)
    assert metrics["accuracy"] > 0.8


def test_clips_whose_reversal_is_as_likely_stay_at_chance() -> None:
    metrics = train(method(), lambda g: batch(g, one_way=False), steps=25)
    assert metrics["accuracy"] == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("encoder", [FRAMES, CLIPS], ids=["frames", "clips"])
def test_label_1_is_the_clip_backwards_and_half_are(encoder: EncoderConfig) -> None:
    arrow = method(encoder)
    raw = as_batch(dot_videos(torch.Generator().manual_seed(0), 400, 4))
    given = arrow.augment(raw)
    plain = arrow.clips(without_border_noise(raw["frames"]), AugmentConfig())
    backward = (given["label"] == 1)[:, None, None, None, None]
    assert torch.equal(given["clips"], torch.where(backward, plain.flip(2), plain))
    assert 0.4 < given["label"].float().mean() < 0.6
    few = {name: value[:4] for name, value in given.items()}
    arrow(few)["loss"].backward()
    assert all(p.grad is not None for p in arrow.parameters())


def test_still_and_symmetric_clips_are_left_out() -> None:
    there = dot_videos(torch.Generator().manual_seed(0), 4, 2, speed=0.2)
    and_back = torch.cat([there, there.flip(1)], dim=1)
    moving = dot_videos(torch.Generator().manual_seed(0), 4, 4, speed=0.12)
    frames = torch.cat([moving, and_back, still(4, 4)])
    usable = method().augment(as_batch(frames))["usable"]
    assert usable.tolist() == [True] * 4 + [False] * 8


def test_settings_that_have_no_direction_are_refused() -> None:
    for sampling in ({"num_frames": 1}, {"clips": 2}):
        with pytest.raises(ValidationError, match="one clip of two frames or more"):
            ArrowOfTimeConfig.model_validate({"sampling": {"kind": "clips", **sampling}})


def test_the_preset_mirrors_clips_whole() -> None:
    """Frames mirrored one by one go either way: what moves to the right has no direction left."""
    config = small_config("arrow_of_time")
    torch.manual_seed(0)
    assert isinstance(config.method, ArrowOfTimeConfig)
    plain = config.method.augment.model_copy(update={"jitter": 0.0})
    settings = config.method.model_copy(update={"augment": plain})
    judge = ArrowOfTime(Encoder(config.encoder), settings)
    side = torch.zeros(16, 4, 40, 40, 3, dtype=torch.uint8)
    side[:, :, :, 20:] = 200  # bright on the right
    clips = judge.augment(as_batch(side))["clips"]
    right = clips[..., 16:].mean(dim=(1, 3, 4)) > clips[..., :16].mean(dim=(1, 3, 4))
    assert (right.all(dim=1) | ~right.any(dim=1)).all()
    assert 0 < right[:, 0].sum() < 16
