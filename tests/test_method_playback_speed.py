"""Does SpeedNet tell how fast a clip plays, from motion alone?"""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.playback_speed import PlaybackSpeed, PlaybackSpeedConfig, speed_terms
from tests.dot_clips import as_batch, dot_videos, still
from tests.learning import train

CLIPS = EncoderConfig(backbone="tiny_r3d", stages=2, image_size=32, clip_frames=4)


def method(encoder: EncoderConfig = CLIPS, augment: AugmentConfig | None = None) -> PlaybackSpeed:
    torch.manual_seed(0)
    sampling = {"kind": "clips", "num_frames": 7, "spacing_s": 0.1}
    config = PlaybackSpeedConfig.model_validate(
        {"sampling": sampling, "augment": augment or AugmentConfig()}
    )
    return PlaybackSpeed(Encoder(encoder), config)


def batch(generator: torch.Generator, shuffled: bool = False):
    return as_batch(dot_videos(generator, 16, 7, speed=0.08, shuffled=shuffled))


def test_it_learns_which_version_is_faster() -> None:
    varied = AugmentConfig(crop_scale=(0.8, 1.0), jitter=0.5, brightness=0.2, colors="shared")
    metrics = train(method(augment=varied), batch, steps=25)
    assert metrics["accuracy"] > 0.75
    assert metrics["ordered"] > 0.85


def test_videos_whose_frames_have_no_order_have_no_speed() -> None:
    metrics = train(method(), lambda g: batch(g, shuffled=True), steps=25)
    assert metrics["accuracy"] == pytest.approx(0.5, abs=0.12)


def test_both_speeds_have_equally_many_frames_of_one_video_in_one_batch() -> None:
    speed = method()
    raw = batch(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    clips = speed.augment(raw)["clips"]
    assert clips.shape == (16, 2, 3, 4, 32, 32)
    plain = speed.clips(raw["frames"], AugmentConfig())
    assert torch.equal(clips[:, 1], plain[:, :, ::2])
    starts = set()
    for row in range(16):
        found = [s for s in range(4) if torch.equal(clips[row, 0], plain[row, :, s : s + 4])]
        assert len(found) == 1
        starts |= set(found)
    assert starts == {0, 1, 2, 3}  # nothing is told by where in the window a version lies


def test_the_two_versions_are_cropped_alone_and_their_frames_together() -> None:
    speed = method(augment=AugmentConfig(crop_scale=(0.3, 0.6)))
    clips = speed.augment(as_batch(still(8, 7)))["clips"]
    assert torch.equal(clips, clips[:, :, :, :1].expand_as(clips))
    assert not any(torch.equal(a, b) for a, b in clips)


def test_the_loss_is_the_mean_binary_cross_entropy_of_both() -> None:
    score = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(5, 2)
    slow = functional.binary_cross_entropy(score.sigmoid(), target, reduction="none").mean(1)
    torch.testing.assert_close(speed_terms(score), slow)
    assert torch.autograd.gradcheck(speed_terms, (score,))


def test_a_map_is_pooled_over_space_by_its_maximum_and_over_time_by_its_mean() -> None:
    speed = method().eval()
    given = speed.augment(batch(torch.Generator().manual_seed(0)))
    maps = speed.encoder.features(given["clips"].flatten(0, 1))
    pooled = torch.stack([one.flatten(2).amax(2).mean(1) for one in maps])
    score = speed.classifier(pooled).view(-1, 2)
    torch.testing.assert_close(speed(given)["loss"], speed_terms(score).mean())


def test_clips_in_which_nothing_moves_are_left_out() -> None:
    moving = dot_videos(torch.Generator().manual_seed(0), 4, 7, speed=0.08)
    usable = method().augment(as_batch(torch.cat([moving, still(4, 7)])))["usable"]
    assert usable.tolist() == [True] * 4 + [False] * 4


def test_clips_with_repeated_frames_are_left_out() -> None:
    """Seven frames of film at 24 frames/s, shown at 30: one is there twice."""
    moving = dot_videos(torch.Generator().manual_seed(0), 7, 7, speed=0.08)
    pulled = moving.clone()
    for row in range(1, 7):
        pulled[row] = moving[row, [n - (n >= row) for n in range(7)]]
    usable = method().augment(as_batch(torch.cat([moving, pulled[1:]])))["usable"]
    assert usable.tolist() == [True] * 7 + [False] * 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip_frames": 5}, "num_frames = 2 x encoder.clip_frames - 1"),
        ({"clip_frames": 1, "backbone": "tiny"}, "num_frames = 2 x encoder.clip_frames - 1"),
        ({"clip_step_s": 0.2}, "spacing_s"),
        ({"pool": "spatial_softmax"}, "pool=average"),
        ({"embedding_dim": 8}, "embedding_dim"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        method(CLIPS.model_copy(update=changes))


def test_an_even_number_of_frames_is_refused() -> None:
    with pytest.raises(ValidationError, match="odd number"):
        PlaybackSpeedConfig.model_validate({"sampling": {"kind": "clips", "num_frames": 8}})
