"""How a grid of patches is cut out of every image, and what keeps it from giving itself away.

Positions are drawn on a board of fixed size, in the pixels of the method's paper; the board covers
a crop of the frame, whatever the frame's size. Every patch is resized once, straight from the
frame, and takes no pixel from beyond its own edges. Amounts are drawn on the CPU from torch's
default generator; pixels are worked on where the frames are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marey.models.augmentation.resample import resize_weights

FLAT = 3 / 255
"""Standard deviation, of [0, 1], below which a patch shows nothing."""

AWAY_FROM_GREEN = ((5 / 6, 2 / 6, -1 / 6), (2 / 6, 2 / 6, 2 / 6), (-1 / 6, 2 / 6, 5 / 6))
"""B = I - a'a / aa' with a = (-1, 2, -1): removes the green-magenta axis and keeps grey
(Doersch et al. 2015, section 3.1)."""


def grid_corners(side: int, pitch: float, first: float = 0.0) -> Tensor:
    """Left and top of `side` x `side` places, row after row: float32 [side^2, 2]."""
    steps = first + pitch * torch.arange(side, dtype=torch.float32)
    return torch.cartesian_prod(steps, steps).flip(1)


def whole_offsets(*shape: int, low: int, high: int) -> Tensor:
    """Whole numbers, every one from `low` to `high` as likely: float32 of this shape."""
    return torch.randint(low, high + 1, shape).float()


def on_frame(corners: Tensor, patch: float, board: float, crops: Tensor) -> Tensor:
    """Boxes in the frame, float [N, P, C, 4] xywh in its pixels.

    corners: float [N, P, C, 2], left and top of each patch (C of 3: of each colour channel) on a
    board of this side. crops: float [N, 4], xywh, the part of each frame under its board.
    """
    scale = crops[:, None, None, 2:] / board
    return torch.cat([crops[:, None, None, :2] + corners * scale,
                      (patch * scale).expand_as(corners)], dim=-1)  # fmt: skip


def cut(frames: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Patches, float32 [N, P, 3, size, size] in [0, 1].

    frames: uint8 [N, H, W, 3]; boxes: float [N, P, C, 4], C being 1, or 3 to cut each colour
    channel elsewhere. Resized as `augmentation.resample` does; only pixels whose centre lies in the
    box count.
    """
    count, height, width, _ = frames.shape
    left, top, wide, high = boxes.to(frames.device, non_blocking=True).flatten(0, 2).unbind(1)
    with torch.autocast(frames.device.type, enabled=False):
        rows = resize_weights(top, high, height, size).unflatten(0, boxes.shape[:3])
        columns = resize_weights(left, wide, width, size).unflatten(0, boxes.shape[:3])
        channels = frames.permute(0, 3, 1, 2).float() / 255
        rows = rows.transpose(1, 2).flatten(2, 3).expand(-1, 3, -1, -1)
        shrunk = (rows @ channels).unflatten(2, (boxes.shape[1], size))
        patches = shrunk @ columns.permute(0, 2, 1, 4, 3)
    return patches.transpose(1, 2).clamp(0, 1).reshape(count, -1, 3, size, size)


def textured(patches: Tensor) -> Tensor:
    """Which patches show anything at all: bool [...]. patches: float [..., 3, S, S] in [0, 1]."""
    return patches.flatten(-2).std(dim=-1).amax(dim=-1) >= FLAT


def standardize(patches: Tensor) -> Tensor:
    """Every patch and channel to mean 0 and deviation 1, so that neighbours share no statistics.

    Deviations below one step of 256 are taken as that step, so that a flat patch becomes 0 and not
    noise.
    """
    centred = patches - patches.mean(dim=(-2, -1), keepdim=True)
    deviation = centred.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return centred / deviation.clamp_min(1 / 255)


def drop_colors(patches: Tensor, noise: float = 0.01) -> Tensor:
    """One channel of each patch, drawn at random, less its mean; Gaussian noise for the others.

    patches: float [..., 3, S, S]. `noise`: its deviation over that of the kept channel (about 1/100
    in section 3.1). What the lens does to one colour against another is gone.
    """
    kept = torch.nn.functional.one_hot(torch.randint(3, patches.shape[:-3]), 3).bool()
    kept = kept.to(patches.device, non_blocking=True)[..., None, None]
    centred = patches - patches.mean(dim=(-2, -1), keepdim=True)
    channel = torch.where(kept, centred, torch.zeros_like(centred)).sum(dim=-3, keepdim=True)
    deviation = channel.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    others = torch.randn(patches.shape).to(patches, non_blocking=True) * noise * deviation
    return torch.where(kept, channel, others)


def project_colors(patches: Tensor) -> Tensor:
    """Every pixel without its part along green against magenta. patches: float [..., 3, S, S]."""
    matrix = torch.tensor(AWAY_FROM_GREEN, device=patches.device, dtype=patches.dtype)
    with torch.autocast(patches.device.type, enabled=False):
        return torch.einsum("ij,...jhw->...ihw", matrix, patches)


def even_contrast(patches: Tensor, rms: float) -> Tensor:
    """Each patch less its channels' means, scaled to this root mean square over its channels.

    A patch below the square root of three steps of 256 keeps its contrast's proportion instead.
    """
    centred = patches - patches.mean(dim=(-2, -1), keepdim=True)
    contrast = centred.square().mean(dim=(-3, -2, -1), keepdim=True).sqrt()
    return centred * (rms / contrast.clamp_min(FLAT / 3**0.5))


def pixelate(patches: Tensor, chance: float) -> Tensor:
    """Some patches at a lower resolution, from 10/96 of their own up, and back at their size.

    The square of the resolution is uniform (released code of Doersch et al.).
    patches: float [..., 3, S, S].
    """
    size = patches.shape[-1]
    coarsest, finest = max(1, round(size * 10 / 96)), size - 1
    flat = patches.flatten(0, -4)
    uniform = torch.rand(len(flat))
    sides = (uniform * (finest**2 - coarsest**2) + coarsest**2).sqrt().round().long()
    chosen = (torch.rand(len(flat)) < chance).nonzero()[:, 0]
    if not len(chosen) or finest <= coarsest:
        return patches
    flat = flat.clone()
    with torch.autocast(patches.device.type, enabled=False):
        there_and_back = torch.stack([_through(size, side) for side in range(coarsest, finest + 1)])
        matrix = there_and_back[sides[chosen] - coarsest].to(patches)
        chosen = chosen.to(patches.device, non_blocking=True)
        flat[chosen] = matrix[:, None] @ flat[chosen] @ matrix[:, None].transpose(-1, -2)
    return flat.reshape(patches.shape)


def _through(size: int, side: int) -> Tensor:
    """One axis of `size` pixels shrunk to `side` and enlarged again: float32 [size, size]."""
    start = torch.zeros(1)
    down = resize_weights(start, torch.tensor([float(size)]), size, side)[0]
    up = resize_weights(start, torch.tensor([float(side)]), side, size)[0]
    return up @ down
