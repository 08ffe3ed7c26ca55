"""Orders of pieces as classes, what makes them visible, and what is varied frame by frame."""

import math

import pytest
import torch

from marey.configs.base import MethodConfig
from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.frame_changes import (
    FrameChanges,
    augmented_frames,
    without_border_noise,
)
from marey.models.augmentation.frame_differences import frame_differences
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method
from marey.models.objectives.orders import (
    PairwiseHead,
    disorders,
    draw_orders,
    orders,
    reorder,
    shows,
)


@pytest.mark.parametrize("pieces", [3, 4, 5])
def test_every_order_is_a_class_and_with_its_reversal_half_as_many(pieces: int) -> None:
    assert len({tuple(o) for o in orders(pieces).tolist()}) == math.factorial(pieces)
    halves = orders(pieces, either_way=True)
    assert len(halves) == math.factorial(pieces) // 2
    backwards = pieces - 1 - halves
    both = {tuple(o) for o in halves.tolist()} | {tuple(o) for o in backwards.tolist()}
    assert len(both) == math.factorial(pieces)


def test_an_order_and_that_of_the_video_played_backwards_are_one_class() -> None:
    """Both put the same pictures into the same slots, so no network can tell them apart where a
    video may run either way; orders in which it can are different classes."""
    torch.manual_seed(0)
    video = torch.arange(4) * 10
    table = orders(4, either_way=True)
    order, label = draw_orders(table, 5000, either_way=True)
    shown: dict[tuple[int, ...], set[int]] = {}
    for forwards in (video, video.flip(0)):
        for pictures, kind in zip(forwards[order].tolist(), label.tolist(), strict=True):
            shown.setdefault(tuple(pictures), set()).add(kind)
    assert len(shown) == 24
    assert all(len(kinds) == 1 for kinds in shown.values())


def test_orders_are_drawn_alike_often_and_named_by_their_class() -> None:
    torch.manual_seed(0)
    table = orders(4, either_way=True)
    order, label = draw_orders(table, 24_000, either_way=True)
    counts = torch.bincount(label, minlength=12)
    assert (counts / 2000 - 1).abs().max() < 0.1
    true = table[label]
    forward = (order == true).all(1)
    assert (forward | (order == 3 - true).all(1)).all()
    assert abs(forward.float().mean() - 0.5) < 0.02


def test_disorders_are_all_but_the_true_order_alike_often() -> None:
    torch.manual_seed(0)
    order = disorders(3, 10_000)
    kinds, counts = torch.unique(order, dim=0, return_counts=True)
    assert len(kinds) == 5
    assert (kinds != torch.arange(3)).any(1).all()
    assert (counts / 2000 - 1).abs().max() < 0.1


def test_slot_i_shows_the_piece_that_the_order_names() -> None:
    pieces = torch.arange(8).view(2, 4) * 10
    order = torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]])
    assert reorder(pieces, order).tolist() == [[20, 0, 30, 10], [40, 50, 60, 70]]


def test_differences_are_mean_distances_in_grey_levels() -> None:
    frames = torch.zeros(1, 3, 16, 16, 3, dtype=torch.uint8)
    frames[0, 1] = 6
    frames[0, 2, :8] = 10
    expected = torch.tensor([[[0, 6, 5], [6, 0, 5], [5, 5, 0]]]).float()
    torch.testing.assert_close(frame_differences(frames), expected)


def test_an_order_shows_unless_each_slot_keeps_its_picture() -> None:
    backward = torch.tensor([[3, 2, 1, 0]])

    def shown(levels: list[int]) -> bool:
        frames = torch.tensor(levels, dtype=torch.uint8).view(1, 4, 1, 1, 1)
        frames = frames.expand(-1, -1, 8, 8, 3)
        return bool(shows(frame_differences(frames), backward, least=0.5))

    assert shown([10, 20, 30, 40])
    assert not shown([7, 7, 7, 7])  # still
    assert not shown([10, 20, 20, 10])  # its own mirror image in time
    assert shown([10, 20, 20, 11])


def test_the_head_sees_every_pair_once_and_in_the_order_of_slots() -> None:
    torch.manual_seed(0)
    head = PairwiseHead(5, pieces=3, classes=6, width=4).eval()
    pieces = torch.randn(2, 3, 5)
    pairs = [(0, 1), (0, 2), (1, 2)]
    parts = [head.pair(torch.cat([pieces[:, i], pieces[:, j]], 1)) for i, j in pairs]
    torch.testing.assert_close(head(pieces), head.classes(torch.cat(parts, 1)))
    assert not torch.allclose(head(pieces), head(pieces.flip(1)))


def test_a_head_of_differences_sees_only_how_pieces_differ() -> None:
    torch.manual_seed(0)
    head = PairwiseHead(5, pieces=3, classes=6, width=4, compare="differences").eval()
    pieces = torch.randn(2, 3, 5)
    apart = [pieces[:, j] - pieces[:, i] for i, j in ((0, 1), (0, 2), (1, 2))]
    parts = [head.pair(torch.cat([difference, difference.abs()], 1)) for difference in apart]
    torch.testing.assert_close(head(pieces), head.classes(torch.cat(parts, 1)))
    torch.testing.assert_close(head(pieces + torch.randn(2, 1, 5)), head(pieces))
    assert not torch.allclose(head(pieces), head(pieces.flip(1)))


class _Bare(Method):
    """A method that does nothing but hold an encoder."""


def _varied(changes: FrameChanges, frames: torch.Tensor) -> torch.Tensor:
    method = _Bare(Encoder(EncoderConfig(image_size=20)), MethodConfig())
    return augmented_frames(method.encoder, frames, AugmentConfig(), changes)


def _still(count: int = 8, side: int = 20) -> torch.Tensor:
    """The same frames six times each, [count, 6, side, side, 3], no pixel black."""
    torch.manual_seed(0)
    one = torch.randint(40, 256, (count, 1, side, side, 3), dtype=torch.uint8)
    return one.expand(-1, 6, -1, -1, -1)


def test_without_changes_the_frames_of_a_sample_are_one_crop() -> None:
    images = _varied(FrameChanges(), _still())
    assert images.shape == (8, 6, 3, 20, 20)
    assert torch.equal(images, images[:, :1].expand_as(images))


def test_each_frame_is_shifted_alone_and_no_farther_than_told() -> None:
    ramp = torch.arange(100, 140, dtype=torch.uint8).view(1, 1, 1, 40, 1)
    frames = ramp.expand(64, 6, 40, 40, 3)
    method = _Bare(Encoder(EncoderConfig(image_size=32)), MethodConfig())
    # 32 px and 4 px of room on either side are the frame's 40 px: no scaling
    images = augmented_frames(method.encoder, frames, AugmentConfig(), FrameChanges(shift=0.125))
    value = images[:, :, 0, 0] * method.encoder.std[0, 0] + method.encoder.mean[0, 0]
    start = (value[..., 0] * 255).round() - 100
    assert set(start.flatten().tolist()) == set(range(9))
    assert (start != start[:, :1]).float().mean() > 0.7
    # shifted, not distorted
    torch.testing.assert_close(
        (value[..., 1:] - value[..., :-1]) * 255, torch.ones(64, 6, 31), atol=1e-3, rtol=0
    )


def test_each_frame_is_mirrored_alone() -> None:
    frames = _still(64)
    images, plain = _varied(FrameChanges(mirror=0.5), frames), _varied(FrameChanges(), frames)
    mirrored = (images == plain.flip(-1)).flatten(2).all(2)
    assert (mirrored | (images == plain).flatten(2).all(2)).all()
    assert 0.4 < mirrored.float().mean() < 0.6
    assert (mirrored.sum(1) % 6 != 0).any()


def test_channel_splitting_puts_one_channel_of_a_frame_in_all_three() -> None:
    frames = _still(64)
    images, plain = (
        _varied(FrameChanges(channel_split=1.0), frames),
        _varied(FrameChanges(), frames),
    )
    assert torch.equal(images, images[:, :, :1].expand_as(images))
    taken = torch.stack([(images[:, :, 0] == plain[:, :, c]).flatten(2).all(2) for c in range(3)])
    assert (taken.sum(0) == 1).all()
    assert (taken.float().mean((1, 2)) - 1 / 3).abs().max() < 0.1
    assert (taken[0].sum(1) % 6 != 0).any()


def test_noise_on_black_borders_is_taken_out_and_dark_things_inside_are_not() -> None:
    torch.manual_seed(0)
    frames = torch.randint(60, 256, (2, 4, 20, 30, 3), dtype=torch.uint8)
    frames[:, :, 8:10] = 3  # a dark band inside
    noise = torch.arange(4, dtype=torch.uint8).view(1, 4, 1, 1, 1) * 5  # grows with time
    letterboxed = frames.clone()
    letterboxed[:, :, :3] = noise
    letterboxed[:, :, :, -4:] = noise
    clean = without_border_noise(letterboxed)
    assert (clean[:, :, :3] == 0).all()
    assert (clean[:, :, :, -4:] == 0).all()
    assert torch.equal(clean[:, :, 3:, :-4], frames[:, :, 3:, :-4])
    assert torch.equal(without_border_noise(frames), frames)
