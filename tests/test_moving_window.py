"""Is the window that tasks of order see where something moves, and the same for all frames?"""

import torch

from marey.models.augmentation.moving_window import moving_window


def drifting(top: int, left: int, *, side: int = 48, frames: int = 4) -> torch.Tensor:
    """A square of 6 pixels that goes right by 2 a frame over texture: uint8 [1, F, S, S, 3]."""
    generator = torch.Generator().manual_seed(0)
    wall = torch.randint(0, 200, (side, side, 3), generator=generator, dtype=torch.uint8)
    video = wall.repeat(frames, 1, 1, 1)
    for number in range(frames):
        video[number, top : top + 6, left + 2 * number : left + 2 * number + 6] = 255
    return video[None]


def test_what_moves_is_in_the_window_as_a_whole() -> None:
    for top, left in ((0, 0), (40, 30), (20, 5)):
        video = drifting(top, left)
        window = moving_window(video, 0.5)
        assert window.shape == (1, 4, 24, 24, 3)
        whole = (video == 255).all(dim=-1).sum(dim=(2, 3))
        assert torch.equal((window == 255).all(dim=-1).sum(dim=(2, 3)), whole)


def test_the_window_is_a_cut_of_the_frames_at_one_place() -> None:
    video = drifting(20, 12)
    window = moving_window(video, 0.5)
    places = [
        (top, left)
        for top in range(25)
        for left in range(25)
        if torch.equal(video[:, :, top : top + 24, left : left + 24], window)
    ]
    assert len(places) == 1


def test_the_order_of_the_frames_has_no_part_in_it() -> None:
    """Or where a thing is in the window would tell which frames are the middle ones."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (8, 4, 32, 32, 3), generator=generator, dtype=torch.uint8)
    for row in range(8):  # a bright spot, at a place of its own in each frame
        for number in range(4):
            top, left = torch.randint(0, 28, (2,), generator=generator).tolist()
            frames[row, number, top : top + 4, left : left + 4] = 255
    window = moving_window(frames // 4, 0.5)
    for order in ([2, 0, 3, 1], [3, 2, 1, 0], [1, 3, 0, 2]):
        assert torch.equal(moving_window(frames[:, order] // 4, 0.5), window[:, order])


def test_each_sample_has_its_own_and_reversal_changes_nothing() -> None:
    both = torch.cat([drifting(2, 2), drifting(38, 30)])
    windows = moving_window(both, 0.5)
    assert torch.equal(windows[:1], moving_window(both[:1], 0.5))
    assert torch.equal(windows[1:], moving_window(both[1:], 0.5))
    assert torch.equal(moving_window(both.flip(1), 0.5), windows.flip(1))


def test_frames_that_are_not_square_and_still_ones() -> None:
    still = torch.full((2, 3, 20, 30, 3), 7, dtype=torch.uint8)
    assert moving_window(still, 0.5).shape == (2, 3, 10, 10, 3)
    assert moving_window(still, 1.0).shape == (2, 3, 20, 20, 3)
