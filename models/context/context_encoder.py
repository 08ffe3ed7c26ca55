"""Context encoders: reconstruct the hole of a picture.

    L = (1 - w)  weighted mean over the hole of (x - x^)^2  +  w  adversarial

x^ is decoded from the picture with its hole filled. See docs/methods/context_encoder.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.dense_heads import map_side, require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.map_decoder import ChannelwiseLinear, MapDecoder
from marey.models.method import Method, register
from marey.models.objectives.adversarial import play
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.content_free import filled_from_around
from marey.models.objectives.distributed import mean_over_ranks

_PAPER_SIDE = 128
_BLOCKS = 4


class ContextEncoderConfig(MethodConfig):
    """Inpainting."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are given holes."""
    hole: Literal["centre", "blocks", "region"] = "region"
    """The middle quarter; several blocks of at most a quarter together; or a random shape of 20 to
    30 % of the picture, which gave the paper its best features (section 3.3)."""
    overlap: int = Field(default=0, ge=0, le=32)
    """Width of the band along the hole's edge that the encoder sees and the decoder still paints,
    in pixels of a 128 px picture (paper: 7, released code: 4, both with the centre hole)."""
    band_weight: float = Field(default=10.0, gt=0, le=1000)
    """Weight of a pixel of that band over one of the hole."""
    adversarial: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the adversarial term, with 1 less it that of the reconstruction (0.001 for sharp
    pictures); the paper's features were learned without."""
    width: int = Field(default=128, ge=8, le=2048)
    """Channels of the decoder's first layer."""
    critic_width: int = Field(default=32, ge=4, le=512)
    """Channels of the discriminator's first layer."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.3, 1.0), flip=0.5)
    """How the crop is drawn before its hole."""


@register
class ContextEncoder(Method):
    """Reconstruction of a removed region from what surrounds it.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own.
    """

    name = "context_encoder"
    paper = (
        "Pathak, Krähenbühl, Donahue, Darrell, Efros, Context Encoders: Feature Learning by "
        "Inpainting, CVPR 2016, arXiv 1604.07379"
    )
    Config = ContextEncoderConfig
    config: ContextEncoderConfig

    def __init__(self, encoder: Encoder, config: ContextEncoderConfig) -> None:
        super().__init__(encoder, config)
        require_map(encoder, self.name)
        small, side = map_side(encoder), encoder.config.image_size
        self.across = ChannelwiseLinear(encoder.feature_dim, small)
        self.decoder = MapDecoder(encoder.feature_dim, small, side, config.width, 3)
        if config.adversarial:
            self.critic = discriminator(config.critic_width)

    @property
    def chance(self) -> Mapping[str, float]:
        """What smooth interpolation of the picture around the hole explains of its variation, and
        what the mean colour does, as differences from themselves."""
        return {"explained_over_fill": 0.0, "explained": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `images`, float32 [B, F, 3, S, S], whole; `region`, bool
        [B, F, 1, S, S], what is to be painted."""
        images = self.images(batch["frames"], self.config.augment)
        shape, side = images.shape[:2], images.shape[-1]
        region = draw_holes(self.config.hole, shape[0] * shape[1], side)
        region = region.to(images.device, non_blocking=True)[:, None].unflatten(0, shape)
        return replace_frames(batch, images=images, region=region)

    def seen(self, images: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder is shown, and the hole in it: float [N, 3, S, S], bool [N, 1, S, S].

        The hole is filled with the mean colour, which is 0 in normalised images; without the band
        it is smaller than `region`.
        """
        hole = shrunk(region, round(self.config.overlap * images.shape[-1] / _PAPER_SIDE))
        return images.masked_fill(hole, 0.0), hole

    def paint(self, shown: Tensor) -> Tensor:
        """The whole picture as the decoder sees it, normalised: float [N, 3, S, S]."""
        return self.decoder(self.across(self.encoder.features(shown)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        images, region = batch["images"].flatten(0, 1), batch["region"].flatten(0, 1)
        shown, hole = self.seen(images, region)
        painted = self.paint(shown).float()
        every = torch.ones(len(images), dtype=torch.bool, device=images.device)
        terms = region_error(painted, images, region, hole, config.band_weight)
        loss = mean_over_ranks(terms, every)
        plain = region_error(painted.detach(), images, region, region)
        spread = region_error(torch.zeros_like(images), images, region, region)
        filled = region_error(filled_from_around(images, region), images, region, region)
        explained, of_fill = (
            1 - error.sum() / spread.sum().clamp_min(1e-6) for error in (plain, filled)
        )
        metrics = {
            "reconstruction": loss.detach(),
            "explained": explained,
            "fill_explained": of_fill,
            "explained_over_fill": explained - of_fill,
        }
        if config.adversarial:
            game = play(self.critic, images * region, painted * region)
            loss = (1 - config.adversarial) * loss
            loss = loss + config.adversarial * mean_over_ranks(game.generator, every)
            loss = loss + mean_over_ranks(game.discriminator, every)
            metrics["told"] = mean_over_ranks(game.told, every)
        return {"loss": loss, **metrics}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Frames with a hole, and the same with the hole painted."""
        images = self.encoder.preprocess(batch["frames"][:, 0])
        region = draw_holes(self.config.hole, len(images), images.shape[-1])
        shown, hole = self.seen(images, region.to(images.device)[:, None])
        painted = torch.where(hole, self.paint(shown).float(), images)

        def viewed(normalized: Tensor) -> Tensor:
            rgb = normalized * self.encoder.std + self.encoder.mean
            return (255 * rgb.clamp(0, 1)).round().byte().permute(0, 2, 3, 1)

        return {"seen": viewed(shown), "painted": viewed(painted)}


def draw_holes(hole: str, count: int, side: int) -> Tensor:
    """Regions to be painted, drawn without a look at the images: bool [count, side, side].

    `centre`: the middle half of each side. `blocks`: four rectangles whose sides are an eighth to a
    quarter of the picture's. `region`: the parts of a smooth noise below the level that leaves 20
    to 30 % of the area, uniformly.
    """
    if hole == "centre":
        region = torch.zeros(count, side, side, dtype=torch.bool)
        edge = side // 4
        region[:, edge : edge + side // 2, edge : edge + side // 2] = True
        return region
    if hole == "blocks":
        size = torch.randint(max(1, side // 8), side // 4 + 1, (count, _BLOCKS, 2))
        first = (torch.rand(count, _BLOCKS, 2) * (side - size + 1)).long()
        place = torch.arange(side)
        inside = (place >= first[..., None]) & (place < (first + size)[..., None])
        return (inside[:, :, 0, :, None] & inside[:, :, 1, None, :]).any(dim=1)
    # blobs of about an eighth of the picture, as the released code's noise at 0.06 of 128 px
    noise = torch.rand(count, 1, 10, 10)
    smooth = functional.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)
    order = smooth.flatten(1).argsort(dim=1).argsort(dim=1)
    lowest, highest = -(-side * side // 5), side * side * 3 // 10
    area = torch.randint(lowest, highest + 1, (count, 1))
    return (order < area).unflatten(1, (side, side))


def shrunk(region: Tensor, pixels: int) -> Tensor:
    """The region without what lies within `pixels` of the visible part: bool [N, 1, S, S]."""
    if not pixels:
        return region
    visible = (~region).float()
    near = functional.max_pool2d(visible, 2 * pixels + 1, stride=1, padding=pixels)
    return near == 0


def region_error(
    painted: Tensor, images: Tensor, region: Tensor, hole: Tensor, band_weight: float = 1.0
) -> Tensor:
    """Weighted mean squared error over the region, one for each image: float [N].

    painted, images: [N, 3, S, S]; region and hole, its inner part: bool [N, 1, S, S]. Pixels of the
    region outside the hole weigh `band_weight`, those of the hole 1, all others nothing.
    """
    painted, images = full_precision(painted), full_precision(images)
    weight = region * torch.where(hole, 1.0, band_weight)
    errors = (painted - images).square().mean(dim=1, keepdim=True) * weight
    return errors.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp_min(1)


def discriminator(width: int) -> nn.Sequential:
    """Pictures to one logit each, high for real ones: float [N, 3, S, S] -> [N, 1]."""
    layers: list[nn.Module] = []
    before = 3
    for after in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(before, after, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        before = after
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1)]
    return nn.Sequential(*layers, *pool)
