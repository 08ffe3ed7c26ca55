"""Monodepth: from one picture of a stereo pair, the disparities that turn each into the other.

    I~l(x) = Ir(x - dl(x)),   I~r(x) = Il(x + dr(x))
    L = sum over scales and sides of  mean 0.85 (1 - SSIM(I, I~)) / 2 + 0.15 |I - I~|
        + mean |dl(x) - dr(x - dl(x))|  +  w / 2^s  smoothness(d)

d are disparities of left and right in shares of the width, s the scale. See
docs/methods/stereo_depth.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import AfterValidator, Field, field_validator
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import ViewPairsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.depth.camera import focal_share, pixel_centres, sample_at, sideways
from marey.models.depth.decoder import build_decoder, trunk_maps
from marey.models.depth.inputs import (
    JITTER,
    check_augment,
    nearness_colors,
    seen_and_plain,
    to_pixels,
)
from marey.models.depth.photometric import photometric_error, roughness, shrink
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, register


class StereoDepthConfig(MethodConfig):
    """Depth from rectified stereo pairs (Monodepth)."""

    sampling: ViewPairsSampling = ViewPairsSampling(pairs=1, anchors="first_view")
    """Which pairs are drawn: one time, the left camera first."""
    max_disparity: float = Field(default=0.3, gt=0, le=1)
    """Largest disparity as a share of the width (section 3.2)."""
    smoothness: float = Field(default=0.1, ge=0, le=10)
    """Weight of smooth disparities, divided by 2 from scale to scale (section 3.3)."""
    consistency: float = Field(default=1.0, ge=0, le=10)
    """Weight of agreement between the left and the right disparities (section 3.3)."""
    mirror: float = Field(default=0.5, ge=0, le=1)
    """Chance of mirroring a pair, which makes the right picture the left one."""
    augment: Annotated[AugmentConfig, AfterValidator(check_augment)] = JITTER
    """Colours of what the network sees, one draw a pair; the loss compares unchanged pictures."""
    baseline_m: float = Field(default=0.1, gt=0, le=1000)
    """Distance of the two cameras in metres; it sets the unit of depth, not what is learned."""
    field_of_view_deg: float = Field(default=60.0, gt=1, lt=179)
    """Angle that the short side of the frames spans, as they arrive; sets the unit of depth too."""

    @field_validator("sampling")
    @classmethod
    def _stereo(cls, sampling: ViewPairsSampling) -> ViewPairsSampling:
        if sampling.pairs != 1 or sampling.stack != 1 or sampling.anchors != "first_view":
            raise ValueError("a stereo pair needs pairs=1, stack=1 and anchors=first_view")
        return sampling


@register
class StereoDepth(Method):
    """Unsupervised depth from rectified stereo with left-right consistency.

    Batch: `frames` uint8 [B, 2, H, W, 3], left then right, rows aligned, at one time.
    """

    name = "stereo_depth"
    paper = (
        "Godard, Mac Aodha, Brostow, Unsupervised Monocular Depth Estimation with Left-Right "
        "Consistency, CVPR 2017, arXiv 1609.03677"
    )
    Config = StereoDepthConfig
    config: StereoDepthConfig

    def __init__(self, encoder: Encoder, config: StereoDepthConfig) -> None:
        super().__init__(encoder, config)
        self.decoder = build_decoder(encoder, channels=2)

    @property
    def chance(self) -> Mapping[str, float]:
        """Taking the other picture as it is, with no disparity, gains nothing."""
        return {"gain": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """In place of `frames`: `images`, float32 [B, 3, S, S], the left picture as the network
        sees it, and `pair`, float32 [B, 2, 3, S, S] in [0, 1], what the loss compares."""
        seen, pair = seen_and_plain(batch["frames"], self.encoder, self.config.augment)
        mirrored = (torch.rand(len(pair)) < self.config.mirror).to(pair.device)
        mirrored = mirrored[:, None, None, None, None]
        # in a mirrored world the right camera is the left one
        seen, pair = (torch.where(mirrored, x.flip(1, 4), x) for x in (seen, pair))
        return replace_frames(batch, images=seen[:, 0], pair=pair)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pair = batch["pair"]
        maps = self.disparities(batch["images"])
        with torch.autocast(pair.device.type, enabled=False):
            loss, metrics = stereo_loss(
                maps, pair, smoothness=self.config.smoothness, consistency=self.config.consistency
            )
            still = photometric_error(pair[:, 0], pair[:, 1]).mean()
        return {
            "loss": loss,
            **metrics,
            # the small term makes flat pictures, which nothing can improve, gain 0
            "gain": 1 - (metrics["photometric"] + 1e-6) / (still + 1e-6),
            "disparity": maps[0][:, 0].detach().mean(),
        }

    def disparities(self, images: Tensor) -> list[Tensor]:
        """Left and right disparities as shares of the width, of normalised left pictures.

        float [N, 3, S, S] -> float32 [N, 2, S / 2^s, S / 2^s] for s = 0, 1, ...
        """
        maps = self.decoder(trunk_maps(self.encoder, images))
        return [self.config.max_disparity * disparity for disparity in maps]

    def depth(self, images: Tensor, *, refined: bool = True) -> Tensor:
        """Depth in metres, [N, 1, S, S], of normalised left pictures, [N, 3, S, S].

        refined: average with what the mirrored picture gives, which mends the strip at the left
            of every object that only one camera sees (section 3.4).
        """
        disparity = self.disparities(images)[0][:, :1]
        if refined:
            mirrored = self.disparities(images.flip(3))[0][:, :1].flip(3)
            disparity = blend_mirrored(disparity, mirrored)
        share = self.config.baseline_m * focal_share(self.config.field_of_view_deg)
        return share / disparity.clamp_min(1e-6)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The left picture, how near everything in it is, and the left made from the right."""
        seen, pair = seen_and_plain(batch["frames"], self.encoder, AugmentConfig())
        disparity = self.disparities(seen[:, 0])[0][:, :1]
        return {
            "left": to_pixels(pair[:, 0]),
            "nearness": nearness_colors(disparity),
            "left from right": to_pixels(sample_at(pair[:, 1], sideways(-disparity))),
        }


def stereo_loss(
    disparities: list[Tensor], pair: Tensor, *, smoothness: float = 0.1, consistency: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of section 3.3, summed over scales.

    disparities: [N, 2, S / 2^s, S / 2^s], those of the left and of the right picture, in shares of
    the width; positive where a point lies farther left in the right picture.
    pair: [N, 2, 3, S, S] in [0, 1], left and right.
    Returns the loss and, of the left picture at the finest scale, `photometric` (error of the left
    made from the right) and `inconsistency` (in shares of the width), both detached.
    """
    loss = torch.zeros((), device=pair.device)
    metrics: dict[str, Tensor] = {}
    for scale, disparity in enumerate(disparities):
        left, right = (shrink(pair[:, side], disparity.shape[-1]) for side in (0, 1))
        of_left, of_right = disparity[:, :1], disparity[:, 1:]
        to_left, to_right = sideways(-of_left), sideways(of_right)
        error = photometric_error(left, sample_at(right, to_left)).mean()
        error_right = photometric_error(right, sample_at(left, to_right)).mean()
        apart = (of_left - sample_at(of_right, to_left)).abs().mean()
        apart_right = (of_right - sample_at(of_left, to_right)).abs().mean()
        rough = roughness(of_left, left).mean() + roughness(of_right, right).mean()
        loss = loss + error + error_right + consistency * (apart + apart_right)
        loss = loss + smoothness / 2**scale * rough
        if scale == 0:
            metrics = {"photometric": error.detach(), "inconsistency": apart.detach()}
    return loss, metrics


def blend_mirrored(disparity: Tensor, mirrored: Tensor) -> Tensor:
    """A disparity map and the re-mirrored one of the mirrored picture, as one: [N, 1, S, S].

    The mean of both; over the outer twentieth of the columns, rising to nothing at a tenth, the
    one that the camera's own occlusion does not touch there (section 3.4).
    """
    x, _ = pixel_centres(disparity.shape[-1], disparity)
    left = 1 - (20 * (x - 0.05)).clamp(0, 1)
    right = 1 - (20 * (1 - x - 0.05)).clamp(0, 1)
    mean = (disparity + mirrored) / 2
    return left * mirrored + right * disparity + (1 - left - right) * mean
