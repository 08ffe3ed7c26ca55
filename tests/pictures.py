"""Pictures that the tests of the context methods share, and a batch of them as it arrives."""

import torch
from torch import Tensor
from torch.nn import functional

from marey.models.batch import Batch


def batch_of(frames: Tensor, class_id: Tensor | None = None) -> Batch:
    """A batch of single images, uint8 [B, H, W, 3]."""
    count = len(frames)
    batch = {
        "frames": frames[:, None],
        "time_s": torch.zeros(count, 1),
        "instance": torch.arange(count),
        "place": torch.arange(count),
    }
    return batch if class_id is None else batch | {"class_id": class_id}


def noise(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Every pixel and channel on its own: uint8 [count, side, side, 3]."""
    return torch.randint(0, 256, (count, side, side, 3), generator=generator).byte()


def smooth(count: int, side: int, generator: torch.Generator, cells: int = 8) -> Tensor:
    """Noise of this many cells a side, enlarged: uint8 [count, side, side, 3]."""
    coarse = torch.rand(count, 3, cells, cells, generator=generator)
    fine = functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (255 * fine.clamp(0, 1)).round().byte().permute(0, 2, 3, 1)


def quilt(count: int, side: int, grid: int, generator: torch.Generator) -> Tensor:
    """A grid of stripes whose direction and width tell the place: uint8 [count, side, side, 3].

    Phase and brightness are drawn anew for every field of every picture.
    """
    place = (torch.arange(side) * grid).div(side, rounding_mode="floor")
    field = place[:, None] * grid + place[None, :]
    shape = (count, grid**2)
    phase = (6.28 * torch.rand(shape, generator=generator))[:, field]
    level = (0.35 + 0.3 * torch.rand(shape, generator=generator))[:, field]
    angle = torch.arange(grid**2) * 3.1416 / grid**2
    period = 2.5 + torch.arange(grid**2) % 2
    across = torch.arange(side).float()
    along = across[None, :] * angle.cos()[field] + across[:, None] * angle.sin()[field]
    waves = level + 0.3 * torch.sin(6.28 * along / period[field] + phase)
    return (255 * waves.clamp(0, 1)).byte()[..., None].expand(-1, -1, -1, 3).contiguous()


def coordinates(height: int, width: int) -> Tensor:
    """A picture that says where each pixel is: red and blue its column, green its row."""
    columns = torch.arange(width).expand(height, width)
    rows = torch.arange(height)[:, None].expand(height, width)
    return torch.stack([columns, rows, columns], dim=-1).byte()
