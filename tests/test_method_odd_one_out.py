"""Does O3N find the clip whose frames are out of order?"""

import pytest
import torch
from pydantic import ValidationError

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.odd_one_out import OddOneOut, OddOneOutConfig, summed_differences
from tests.dot_clips import as_batch, dot_videos, still
from tests.learning import train

FRAMES = EncoderConfig(
    stages=2, image_size=32, pool="spatial_softmax", pool_norm=True, embedding_dim=8
)
STACK = EncoderConfig(
    stages=2, image_size=32, clip_frames=3, differences=True, fusion="stack",
    pool="spatial_softmax",
)  # fmt: skip


def method(encoder: EncoderConfig = FRAMES, fusion: str = "each") -> OddOneOut:
    torch.manual_seed(0)
    sampling = {"kind": "clips", "num_frames": 3, "spacing_s": 0.1, "clips": 4}
    config = OddOneOutConfig.model_validate(
        {"sampling": sampling, "fusion": fusion, "hidden": [64], "augment": AugmentConfig()}
    )
    return OddOneOut(Encoder(encoder), config)


def batch(generator: torch.Generator, shuffled: bool = False):
    """Four clips of three frames, each of another run of the same dot."""
    clips = dot_videos(generator, 16 * 4, 3, speed=0.2, shuffled=shuffled)
    return as_batch(clips.unflatten(0, (16, 4)).flatten(1, 2))


def test_it_learns_to_find_the_odd_one() -> None:
    finder = method()
    metrics = train(finder, batch, steps=25)
    assert finder.chance["accuracy"] == 0.25
    assert metrics["accuracy"] > 0.5


def test_clips_that_are_all_out_of_order_teach_nothing() -> None:
    metrics = train(method(), lambda g: batch(g, shuffled=True), steps=25)
    assert metrics["accuracy"] == pytest.approx(0.25, abs=0.15)


def test_summed_differences_are_those_over_all_pairs() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True)
    slow = sum(vectors[:, i] - vectors[:, j] for i in range(6) for j in range(i + 1, 6))
    torch.testing.assert_close(summed_differences(vectors), slow)
    assert torch.autograd.gradcheck(summed_differences, (vectors,))
    shift = torch.randn(3, 1, 5, dtype=torch.float64)  # what all clips share cancels
    torch.testing.assert_close(summed_differences(vectors + shift), summed_differences(vectors))


@pytest.mark.parametrize("encoder", [FRAMES, STACK], ids=["frames", "stack of differences"])
@pytest.mark.parametrize("fusion", ["each", "differences", "concatenation"])
def test_one_clip_alone_is_shuffled_and_every_part_is_trained(encoder, fusion: str) -> None:
    finder = method(encoder, fusion)
    raw = batch(torch.Generator().manual_seed(0))
    given = finder.augment(raw)
    plain = finder.clips(raw["frames"].unflatten(1, (4, 3)), AugmentConfig())
    same = (given["clips"] == plain).flatten(2).all(2)
    assert torch.equal(same, given["label"][:, None] != torch.arange(4))
    # the same frames, in another order
    odd = given["clips"][torch.arange(16), given["label"]].transpose(1, 2).flatten(2).sum(2)
    true = plain[torch.arange(16), given["label"]].transpose(1, 2).flatten(2).sum(2)
    torch.testing.assert_close(odd.sort(1).values, true.sort(1).values)
    finder(given)["loss"].backward()
    assert all(p.grad is not None for p in finder.parameters())


def test_the_odd_place_is_anywhere_alike_often() -> None:
    torch.manual_seed(0)
    frames = dot_videos(torch.Generator().manual_seed(0), 1, 12, speed=0.05)
    many = as_batch(frames.expand(1000, -1, -1, -1, -1)[:, :, :8, :8])
    counts = torch.bincount(method().augment(many)["label"], minlength=4)
    assert (counts / 250 - 1).abs().max() < 0.25


def test_scoring_each_clip_does_not_depend_on_the_place_it_has() -> None:
    finder = method(fusion="each").eval()
    vectors = torch.randn(2, 4, 24)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(finder._scores(vectors[:, order]), finder._scores(vectors)[:, order])


def test_still_clips_are_left_out() -> None:
    finder = method()
    assert not finder.augment(as_batch(still(4, 12)))["usable"].any()


def test_settings_that_make_no_question_are_refused() -> None:
    for sampling in ({"clips": 2}, {"clips": 4, "num_frames": 1}):
        with pytest.raises(ValidationError, match="three clips or more"):
            OddOneOutConfig.model_validate({"sampling": {"kind": "clips", **sampling}})
    with pytest.raises(SettingError, match="num_frames"):
        method(STACK.model_copy(update={"clip_frames": 6}))
