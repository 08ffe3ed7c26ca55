"""How a batch of frames is augmented on the training device, every image by its own draw.

Amounts are drawn on the CPU from torch's default generator, so that a seed gives the same
augmentation on every device; pixels are worked on where the frames are. The draws have the
distributions of torchvision's `RandomResizedCrop`, `ColorJitter`, `RandomGrayscale`,
`GaussianBlur` and `RandomSolarize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from marey.configs.base import Settings
from marey.models.augmentation import color
from marey.models.augmentation.resample import gaussian_blur, resample, resize_weights

Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=2)]


class AugmentConfig(Settings):
    """What is augmented, and how much. The defaults change nothing: the centre square, resized."""

    crop_scale: tuple[float, float] = (1.0, 1.0)
    """Area of the random crop as share of the frame, smallest and largest; (1, 1) takes the
    centre square."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the random crop, smallest and largest."""
    zoom: Probability = 0.0
    """Chance that the centre square is zoomed about its centre (TCN's scale augmentation);
    needs crop_scale (1, 1)."""
    zoom_range: tuple[float, float] = (0.8, 3.0)
    """Smallest and largest area of the zoomed square over that of the centre square, as in TCN's
    released code; half of the zooms go in (below 1), half go out (above 1, with black around)."""
    flip: Probability = 0.0
    """Chance of mirroring left and right."""
    jitter: Probability = 0.0
    """Chance that the colours of an image are jittered, in random order, by:"""
    brightness: Amount = 0.0
    """Brightness factor from 1 - b to 1 + b."""
    contrast: Amount = 0.0
    """Contrast factor from 1 - c to 1 + c."""
    saturation: Amount = 0.0
    """Saturation factor from 1 - s to 1 + s."""
    hue: float = Field(default=0.0, ge=0, le=0.5)
    """Hue turned by -h to h of the colour circle."""
    grayscale: Probability = 0.0
    """Chance of losing all colour."""
    grayscale_first: bool = False
    """Colour is lost before the jitter (InstDisc's released code) rather than after it, so that
    what is gray has brightness and contrast jittered, but no hue turned in what becomes gray."""
    blur: Probability = 0.0
    """Chance of a Gaussian blur, its kernel a tenth of the side."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur in pixels."""
    solarize: Probability = 0.0
    """Chance that all values from 0.5 upwards are inverted, last of all (BYOL, appendix B)."""
    colors: Literal["each_frame", "each_clip", "shared"] = "each_frame"
    """Whether colours and blur are drawn for each frame alone, once for each clip of a sample, or
    once for the frames that share a crop (contrastive learning of clips)."""

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        for name in ("crop_scale", "crop_ratio", "zoom_range", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two numbers, 0 < low <= high; got {low}, {high}")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale must not exceed 1; got {self.crop_scale[1]}")
        if self.zoom and self.crop_scale != (1.0, 1.0):
            raise ValueError("zoom and crop_scale exclude each other: leave crop_scale at (1, 1)")
        return self


INSTDISC = AugmentConfig(
    crop_scale=(0.2, 1.0),
    flip=0.5,
    jitter=1.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.4,
    grayscale=0.2,
    grayscale_first=True,
)
"""The recipe of InstDisc's released code (arXiv 1805.01978), which Local Aggregation and MoCo
version 1 took over."""
SIMCLR = AugmentConfig(
    crop_scale=(0.08, 1.0),
    flip=0.5,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grayscale=0.2,
    blur=0.5,
)
"""The recipe of SimCLR (arXiv 2002.05709, appendix A), which SwAV took over."""


def augment_frames(
    frames: Tensor, size: int, config: AugmentConfig, *, shared: int = 1, clip: int | None = None
) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, size, size] in [0, 1].

    `shared` consecutive frames get one crop, zoom and flip (the frames of one tuple or clip), and
    one draw of colours and blur where `config.colors` says so. clip: how many of them are one clip,
    of several that share a crop; by default all.
    """
    clip = clip or shared
    for name, group, whole in (("frames", shared, len(frames)), ("frames of a crop", clip, shared)):
        if whole % group:
            raise ValueError(f"{whole} {name} do not divide into groups of {group}")
    # Eight bits of mantissa would not hold what eight bits of colour say.
    with torch.autocast(frames.device.type, enabled=False):
        images = _geometry(frames, size, config, shared)
        alike = {"each_frame": 1, "each_clip": clip, "shared": shared}[config.colors]
        if config.grayscale_first:
            images = _some(images, color.grayscale, config.grayscale, alike)
        images = _jitter(images, config, alike)
        if not config.grayscale_first:
            images = _some(images, color.grayscale, config.grayscale, alike)
        images = _blur(images, config, alike)
        return _some(images, color.solarize, config.solarize, alike)


def random_boxes(
    count: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes of a random resized crop: float [count, 4], xywh in whole pixels.

    Area share uniform in `scale`, log of the aspect uniform in log `ratio`; ten tries to fit, then
    the largest centred box whose aspect is allowed.
    """
    tries = 10
    area = height * width * torch.empty(count, tries).uniform_(*scale)
    aspect = torch.exp(torch.empty(count, tries).uniform_(math.log(ratio[0]), math.log(ratio[1])))
    wide = (area * aspect).sqrt().round()
    high = (area / aspect).sqrt().round()
    fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    wide, high = wide.gather(1, first)[:, 0], high.gather(1, first)[:, 0]
    found = fits.any(dim=1)
    allowed = min(max(width / height, ratio[0]), ratio[1])
    fallback_wide = min(width, round(height * allowed))
    fallback_high = min(height, round(width / allowed))
    wide = torch.where(found, wide, torch.tensor(float(fallback_wide)))
    high = torch.where(found, high, torch.tensor(float(fallback_high)))
    left = (torch.rand(count) * (width - wide + 1)).floor()
    top = (torch.rand(count) * (height - high + 1)).floor()
    left = torch.where(found, left, torch.full_like(left, (width - fallback_wide) // 2))
    top = torch.where(found, top, torch.full_like(top, (height - fallback_high) // 2))
    return torch.stack([left, top, wide, high], dim=1)


def _geometry(frames: Tensor, size: int, config: AugmentConfig, shared: int) -> Tensor:
    height, width = frames.shape[1:3]
    groups = len(frames) // shared
    if config.crop_scale == (1.0, 1.0):
        side = torch.full((groups,), float(min(height, width))) * _zoom_factors(groups, config)
        left, top = (width - side) / 2, (height - side) / 2
        if not config.zoom:
            left, top = left.floor(), top.floor()
        boxes = torch.stack([left, top, side, side], dim=1)
    else:
        boxes = random_boxes(groups, height, width, config.crop_scale, config.crop_ratio)
    mirror = torch.rand(groups) < config.flip
    boxes = boxes.repeat_interleave(shared, dim=0).to(frames.device, non_blocking=True)
    mirror = mirror.repeat_interleave(shared, dim=0).to(frames.device, non_blocking=True)
    left, top, wide, high = boxes.unbind(1)
    rows = resize_weights(top, high, height, size)
    columns = resize_weights(left, wide, width, size, mirror=mirror)
    return resample(frames, rows, columns)


def _zoom_factors(count: int, config: AugmentConfig) -> Tensor:
    """Side of the square taken from the frame over the frame's own, uniform between those of the
    smallest and the largest area; 1 where nothing is zoomed."""
    if not config.zoom:
        return torch.ones(count)
    smallest, largest = (math.sqrt(area) for area in config.zoom_range)
    inwards = torch.empty(count).uniform_(min(smallest, 1.0), 1.0)
    outwards = torch.empty(count).uniform_(1.0, max(largest, 1.0))
    factor = torch.where(torch.rand(count) < 0.5, inwards, outwards)
    return torch.where(torch.rand(count) < config.zoom, factor, torch.ones(count))


def _lots(count: int, chance: float, shared: int) -> Tensor:
    """Which images are augmented: bool [count shared], on the CPU; `shared` in a row alike."""
    return (torch.rand(count) < chance).repeat_interleave(shared)


def _jitter(images: Tensor, config: AugmentConfig, shared: int) -> Tensor:
    spreads = (config.brightness, config.contrast, config.saturation, config.hue)
    if not config.jitter or not any(spreads):
        return images
    count = len(images) // shared
    jittered = _lots(count, config.jitter, shared)
    order = torch.rand(count, 4).argsort(dim=1).repeat_interleave(shared, dim=0)
    operations = (
        color.adjust_brightness,
        color.adjust_contrast,
        color.adjust_saturation,
        color.adjust_hue,
    )
    amounts = [
        torch.empty(count).uniform_(-spread, spread).repeat_interleave(shared)
        if operation is color.adjust_hue
        else torch.empty(count).uniform_(max(0.0, 1 - spread), 1 + spread).repeat_interleave(shared)
        for operation, spread in zip(operations, spreads, strict=True)
    ]
    images = images.clone()
    for place in range(4):
        for number, operation in enumerate(operations):
            if not spreads[number]:
                continue
            chosen = (jittered & (order[:, place] == number)).nonzero()[:, 0]
            if len(chosen):
                amount = amounts[number][chosen].to(images.device, non_blocking=True)
                chosen = chosen.to(images.device, non_blocking=True)
                images[chosen] = operation(images[chosen], amount)
    return images


def _some(
    images: Tensor, change: Callable[[Tensor], Tensor], probability: float, shared: int
) -> Tensor:
    """The images, of which some are changed."""
    if not probability:
        return images
    chosen = _lots(len(images) // shared, probability, shared)
    chosen = chosen.to(images.device, non_blocking=True)
    return torch.where(chosen[:, None, None, None], change(images), images)


def _blur(images: Tensor, config: AugmentConfig, shared: int) -> Tensor:
    if not config.blur:
        return images
    count = len(images) // shared
    chosen = _lots(count, config.blur, shared).nonzero()[:, 0]
    sigma = torch.empty(count).uniform_(*config.blur_sigma).repeat_interleave(shared)
    sigma = sigma[chosen].to(images.device)
    if not len(chosen):
        return images
    radius = max(1, images.shape[-1] // 20)
    chosen = chosen.to(images.device, non_blocking=True)
    images = images.clone()
    images[chosen] = gaussian_blur(images[chosen], sigma, radius)
    return images
