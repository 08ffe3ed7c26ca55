"""Videos of moving dots for the learning tests of clip methods."""

import torch
from torch import Tensor

from marey.models.batch import Batch
from tests.learning import SIDE, draw_dots


def dot_videos(
    generator: torch.Generator,
    count: int,
    length: int,
    *,
    speed: float = 0.05,
    one_way: bool = False,
    shuffled: bool = False,
) -> Tensor:
    """A dot that crosses each video at a steady pace: uint8 [count, length, 32, 32, 3].

    speed: share of the width in a frame. one_way: all dots go right, else half go left. shuffled:
    the frames of each video in random order, so that nothing can be learned from it.
    """
    room = 1 - 0.2 - speed * (length - 1)
    start = 0.1 + room * torch.rand(count, 1, generator=generator)
    x = start + speed * torch.arange(length)
    if not one_way:
        leftward = torch.rand(count, 1, generator=generator) < 0.5
        x = torch.where(leftward, 1 - x, x)
    if shuffled:
        x = x.gather(1, torch.rand(count, length, generator=generator).argsort(1))
    y = (0.2 + 0.6 * torch.rand(count, 1, generator=generator)).expand(-1, length)
    background = (0.6 * torch.rand(count, 1, 3, generator=generator)).expand(-1, length, -1)
    frames = draw_dots(x.flatten(), y.flatten(), background.reshape(-1, 3))
    return frames.unflatten(0, (count, length))


def as_batch(frames: Tensor) -> Batch:
    """Frames as samples of as many videos."""
    count, length = frames.shape[:2]
    return {
        "frames": frames,
        "instance": torch.arange(count),
        "place": torch.arange(count),
        "time_s": torch.arange(length).float().repeat(count, 1),
        "view": torch.zeros(count, length, dtype=torch.int64),
    }


def still(count: int, length: int) -> Tensor:
    """Videos in which nothing moves: uint8 [count, length, 32, 32, 3]."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(60, 256, (count, 1, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
    return one.expand(-1, length, -1, -1, -1)
