"""What is varied for each frame of a tuple alone, so that no trace but content tells its order?

Frames share one crop, or the crop itself would move. What a network could put frames in order by
without looking at what happens (drift of the picture by a pixel, colour, how hard a frame was
compressed) is then augmented frame by frame. Black borders are made exactly black before: coded
noise on black grows and falls with time, and alone tells the direction (arrow of time,
section 4.1).
"""

from __future__ import annotations

from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from marey.configs.base import Settings
from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig

BLACK = 24
"""Rows and columns that never exceed this value, of 255, are border."""


class FrameChanges(Settings):
    """Drawn for every frame anew; the defaults change nothing."""

    shift: float = Field(default=0.0, ge=0, le=0.25)
    """Largest shift of a frame as share of its side, in either direction (OPN: 5 of 80 pixels)."""
    mirror: float = Field(default=0.0, ge=0, le=1)
    """Chance of mirroring a frame, so that embeddings do not tell left from right (cameras on
    opposite sides of a scene then agree)."""
    channel_split: float = Field(default=0.0, ge=0, le=1)
    """Chance that one colour channel of a frame, drawn at random, stands in for all three (OPN)."""


class Augmenter(Protocol):
    """What turns uint8 frames into its own input: an encoder."""

    config: EncoderConfig

    def augmented(
        self,
        frames: Tensor,
        recipe: AugmentConfig,
        *,
        size: int | None = None,
        shared: int = 1,
        clip: int | None = None,
    ) -> Tensor:
        """See `Encoder.augmented`."""
        ...


def augmented_frames(
    encoder: Augmenter,
    frames: Tensor,
    recipe: AugmentConfig,
    changes: FrameChanges,
    *,
    clip: int | None = None,
) -> Tensor:
    """uint8 [B, F, H, W, 3] -> float32 [B, F, 3, S, S], augmented and normalised.

    The F frames of a sample share their crop and flip; the rest is drawn for each, or, of colours
    and blur, for each `clip` of so many frames, where the recipe says so.
    """
    size = encoder.config.image_size
    margin = round(changes.shift * size)
    images = encoder.augmented(
        without_border_noise(frames),
        recipe,
        size=size + 2 * margin,
        shared=frames.shape[1],
        clip=clip,
    )
    flat = images.flatten(0, 1)
    flat = _mirror(_shift(flat, size, margin), changes.mirror)
    return _split(flat, changes.channel_split).unflatten(0, frames.shape[:2])


def without_border_noise(frames: Tensor) -> Tensor:
    """The frames, uint8 [B, F, H, W, 3], with 0 in outer rows and columns that are black in all."""
    brightest = frames.amax(dim=(1, 4))
    inside = _inside(brightest.amax(dim=2))[:, :, None] & _inside(brightest.amax(dim=1))[:, None, :]
    return torch.where(inside[:, None, :, :, None], frames, torch.zeros_like(frames))


def _inside(brightest: Tensor) -> Tensor:
    """bool [B, L]: from the first to the last place that is not black. brightest: uint8 [B, L]."""
    lit = (brightest > BLACK).int()
    return (lit.cummax(1).values & lit.flip(1).cummax(1).values.flip(1)).bool()


def _shift(images: Tensor, size: int, margin: int) -> Tensor:
    """A window of `size` out of [N, 3, size + 2 margin, ...], drawn for each image."""
    if not margin:
        return images
    corner = torch.randint(2 * margin + 1, (2, len(images), 1)) + torch.arange(size)
    rows, columns = corner.to(images.device, non_blocking=True)
    image = torch.arange(len(images), device=images.device)
    # advanced indices apart from each other come first: [N, size, size, 3]
    return images[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _mirror(images: Tensor, chance: float) -> Tensor:
    if not chance:
        return images
    mirrored = (torch.rand(len(images)) < chance).to(images.device, non_blocking=True)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def _split(images: Tensor, chance: float) -> Tensor:
    if not chance:
        return images
    split = (torch.rand(len(images)) < chance).to(images.device, non_blocking=True)
    channel = torch.randint(3, (len(images),)).to(images.device, non_blocking=True)
    image = torch.arange(len(images), device=images.device)
    gray = images[image, channel][:, None].expand_as(images)
    return torch.where(split[:, None, None, None], gray, images)
