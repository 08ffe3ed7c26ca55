"""What the networks see, what the loss compares, and what a person is shown."""

from __future__ import annotations

import torch
from torch import Tensor

from marey.models.augmentation.augment import AugmentConfig, augment_frames
from marey.models.encoders.encoder import Encoder

JITTER = AugmentConfig(
    jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, colors="shared"
)
"""Colours of the networks' input, one draw for all frames of a sample (Monodepth2, 4)."""

_COLORS = torch.tensor(
    [(12, 8, 38), (84, 16, 110), (166, 44, 96), (232, 96, 50), (250, 170, 60), (250, 245, 180)],
    dtype=torch.float32,
)
"""From far to near."""


def check_augment(augment: AugmentConfig) -> AugmentConfig:
    """Refuse what would move pixels, since one camera must hold for all frames of all samples."""
    if augment.crop_scale != (1.0, 1.0) or augment.zoom or augment.flip or augment.blur:
        raise ValueError("depth takes colours only: no crop_scale, zoom, flip or blur (see mirror)")
    if augment.jitter and augment.colors != "shared":
        raise ValueError("the frames of one sample must share their colours: set colors=shared")
    return augment


def seen_and_plain(
    frames: Tensor, encoder: Encoder, augment: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """uint8 [B, F, H, W, 3] -> (jittered and normalised, as they are in [0, 1]).

    Both float32 [B, F, 3, S, S]: the centre square, resized.
    """
    size, count = encoder.config.image_size, frames.shape[1]
    flat = frames.flatten(0, 1)
    plain = augment_frames(flat, size, AugmentConfig())
    seen = augment_frames(flat, size, augment, shared=count) if augment.jitter else plain
    shape = frames.shape[:2]
    return encoder.normalize(seen).unflatten(0, shape), plain.unflatten(0, shape)


def to_pixels(images: Tensor) -> Tensor:
    """[N, 3, S, S] in [0, 1] -> uint8 [N, S, S, 3]."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)


def nearness_colors(disparity: Tensor) -> Tensor:
    """A disparity map [N, 1, S, S] as colours, uint8 [N, S, S, 3]: dark is far, bright is near.

    Each map's scale ends at its 95th percentile, so that single pixels do not darken the rest.
    """
    flat = disparity.float().flatten(1)
    top = flat.quantile(0.95, dim=1).clamp_min(1e-6)
    place = (flat / top[:, None]).clamp(0, 1) * (len(_COLORS) - 1)
    colors = _COLORS.to(disparity.device)
    low = place.floor().long().clamp_max(len(_COLORS) - 2)
    part = (place - low)[..., None]
    mixed = colors[low] * (1 - part) + colors[low + 1] * part
    return mixed.round().byte().unflatten(1, disparity.shape[-2:])
