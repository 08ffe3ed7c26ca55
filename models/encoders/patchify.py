"""How images and clips are cut into tokens' patches, hidden in part, and compared afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marey.configs.errors import SettingError

VARIANCE_FLOOR = 1e-6
"""Added to a patch's variance: a patch of one value becomes 0 (MAE's released code)."""


def patchify(images: Tensor, patch: int) -> Tensor:
    """[N, C, H, W] -> [N, L, patch x patch x C]: patches row by row, values of a pixel together.

    H and W are multiples of `patch`.
    """
    count, channels, height, width = images.shape
    cut = images.reshape(count, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, height: int) -> Tensor:
    """The inverse of `patchify` for images of this height: [N, C, height, W]."""
    count, _, values = patches.shape
    channels = values // patch**2
    cut = patches.reshape(count, height // patch, -1, patch, patch, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(count, channels, height, -1)


def tubelets(clips: Tensor, frames: int, patch: int) -> Tensor:
    """[N, C, T, H, W] -> [N, L, frames x patch x patch x C], the patches of one time together.

    T is a multiple of `frames`, H and W of `patch`.
    """
    count, channels, length, height, width = clips.shape
    cut = clips.reshape(
        count, channels, length // frames, frames, height // patch, patch, width // patch, patch
    )
    return cut.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(count, -1, frames * patch**2 * channels)


def normalize_patches(patches: Tensor, channels: int = 1) -> Tensor:
    """Each patch to mean 0 and (unbiased) variance 1 over its values; those of one value to 0.

    patches: float [..., values], with `channels` above 1 [..., pixels x channels], each channel by
    itself (VideoMAE's released code). MAE, arXiv 2111.06377, section 4.1.
    """
    values = patches.unflatten(-1, (-1, channels))
    variance, mean = torch.var_mean(values, dim=-2, keepdim=True)
    return ((values - mean) / (variance + VARIANCE_FLOOR).sqrt()).flatten(-2)


def spread(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask of coarse cells on a finer grid: bool [N, h, w] -> [N, height, width].

    height and width are multiples of h and w.
    """
    down, across = height // mask.shape[1], width // mask.shape[2]
    return mask.repeat_interleave(down, dim=1).repeat_interleave(across, dim=2)


def cell_side(image_size: int, cells: int, setting: str) -> int:
    """Side of a cell in pixels, for so many along each side of a picture.

    Raises SettingError, with the method's `setting` that counts them, unless they divide it.
    """
    if image_size % cells:
        raise SettingError(f"method.{setting}={cells} must divide encoder.image_size={image_size}")
    return image_size // cells


def learned_tile(side: int) -> nn.Parameter:
    """What stands in hidden cells, to be learned: float32 [3, side, side], near 0 at first."""
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(3, side, side), std=0.02))


def hide(images: Tensor, mask: Tensor, tile: Tensor) -> Tensor:
    """Put `tile` in place of every masked cell of the images.

    images: [N, C, H, W]; mask: bool [N, h, w]; tile: [C, H / h, W / w].
    """
    height, width = images.shape[2:]
    tiled = tile.repeat(1, *mask.shape[1:]).to(images.dtype)
    return torch.where(spread(mask, height, width)[:, None], tiled, images)


def visible_mean(patches: Tensor, mask: Tensor) -> Tensor:
    """Mean of what is not masked: [N, 1, V]. patches [N, L, V], mask bool [N, L]."""
    seen = ~mask[..., None]
    return (patches * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1)
