"""Monodepth2: depth of a frame and camera motion to its neighbours, from video alone.

    p' = K T ( depth(p) K^-1 p ),   I~(p) = I'(p')
    pe(I, I~) = 0.85 (1 - SSIM(I, I~)) / 2 + 0.15 |I - I~|
    L = mean over scales s of  mean min over neighbours of pe  +  w / 2^s  smoothness(d / mean d)

I' is a neighbouring frame, K the camera's intrinsics, T its predicted motion, d the disparity. See
docs/methods/mono_depth.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import AfterValidator, Field, field_validator
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.depth.camera import (
    depth_of,
    focal_share,
    reprojection,
    rigid_transform,
    sample_at,
)
from marey.models.depth.decoder import build_decoder, trunk_maps
from marey.models.depth.inputs import (
    JITTER,
    check_augment,
    nearness_colors,
    seen_and_plain,
    to_pixels,
)
from marey.models.depth.photometric import photometric_error, roughness, shrink
from marey.models.depth.pose import PoseNetwork
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, Progress, register

TIE_BREAK = 1e-5
"""Noise on the errors of unmoved frames, so that flat regions are masked half and half."""


class MonoDepthConfig(MethodConfig):
    """Depth and ego-motion from single-camera video (Monodepth2)."""

    sampling: ClipsSampling = ClipsSampling(num_frames=3, spacing_s=0.1)
    """Frames around the target, which is the middle one (of two, the second). The spacing should
    let the picture move by one to five hundredths of its width."""
    field_of_view_deg: float = Field(default=60.0, gt=1, lt=179)
    """Angle that the short side of the frames spans, as they arrive."""
    min_depth: float = Field(default=0.1, gt=0, le=1000)
    """Smallest depth, in the unit of the learned motions."""
    max_depth: float = Field(default=100.0, gt=0, le=100_000)
    """Largest depth, in the same unit."""
    fixed_scale: bool = True
    """Divide every nearness map by its mean before frames are compared. Else motions that are not
    known yet push all depths to infinity, where they matter least, and nothing brings them back;
    the paper, which starts from ImageNet weights, does without (Wang et al., arXiv 1712.00175)."""
    smoothness: float = Field(default=1e-3, ge=0, le=10)
    """Weight of smooth disparities, halved from scale to scale (section 3.2)."""
    mask_from: float = Field(default=0.25, ge=0, le=1)
    """Share of the run after which pixels are left out that an unmoved neighbour matches better
    (section 3.2, auto-masking); 0, always, is the paper's, 1 is never. Before motions are known,
    the mask leaves out whole clips whose motion is guessed wrong, and nothing corrects the guess.
    """
    over_sources: Literal["minimum", "mean"] = "minimum"
    """Which neighbour a pixel is compared with: the one that matches best, or all."""
    full_resolution: bool = True
    """Compare at the size of the input at every scale, else at the scale's own."""
    pose_width: int = Field(default=256, ge=1, le=4096)
    """Channels of the pose network's head."""
    mirror: float = Field(default=0.5, ge=0, le=1)
    """Chance of mirroring a sample, all its frames at once."""
    augment: Annotated[AugmentConfig, AfterValidator(check_augment)] = JITTER
    """Colours of what the networks see, one draw a sample; the loss compares unchanged frames."""

    @field_validator("sampling")
    @classmethod
    def _neighbours(cls, sampling: ClipsSampling) -> ClipsSampling:
        if sampling.clips != 1 or not 2 <= sampling.num_frames <= 5:
            raise ValueError(
                "a target and its neighbours are one clip of 2 to 5 frames: clips=1, num_frames=3"
            )
        return sampling


@register
class MonoDepth(Method):
    """Unsupervised depth from monocular video.

    Batch: `frames` uint8 [B, F, H, W, 3] in temporal order; F is 3, or 2 to 5.
    """

    name = "mono_depth"
    paper = (
        "Godard, Mac Aodha, Firman, Brostow, Digging into Self-Supervised Monocular Depth "
        "Prediction, ICCV 2019, arXiv 1806.01260"
    )
    Config = MonoDepthConfig
    config: MonoDepthConfig
    masking: Tensor
    """bool: whether the mask has set in."""

    def __init__(self, encoder: Encoder, config: MonoDepthConfig) -> None:
        super().__init__(encoder, config)
        self.decoder = build_decoder(encoder, channels=1)
        self.pose = PoseNetwork(encoder.config, config.pose_width)
        self.register_buffer("masking", torch.tensor(config.mask_from == 0))
        self.focal = focal_share(config.field_of_view_deg)
        self.target = config.sampling.num_frames // 2
        self.sources = [n for n in range(config.sampling.num_frames) if n != self.target]

    @property
    def chance(self) -> Mapping[str, float]:
        """Taking the neighbours as they are, with no motion and no depth, gains nothing."""
        return {"gain": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """In place of `frames`: `images`, what the networks see, and `plain`, in [0, 1], what the
        loss compares, float32 [B, F, 3, S, S]; `noise`, float32 [B, F - 1, S, S]."""
        seen, plain = seen_and_plain(batch["frames"], self.encoder, self.config.augment)
        mirrored = (torch.rand(len(plain)) < self.config.mirror).to(plain.device)
        mirrored = mirrored[:, None, None, None, None]
        seen, plain = (torch.where(mirrored, x.flip(4), x) for x in (seen, plain))
        size = plain.shape[-1]
        noise = TIE_BREAK * torch.randn(len(plain), len(self.sources), size, size)
        return replace_frames(batch, images=seen, plain=plain, noise=noise.to(plain.device))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, plain, noise = batch["images"], batch["plain"], batch["noise"]
        disparities = self.decoder(trunk_maps(self.encoder, images[:, self.target]))
        motions = self.motions(images)
        with torch.autocast(plain.device.type, enabled=False):
            target, sources = plain[:, self.target], plain[:, self.sources]
            loss, seen = torch.zeros((), device=plain.device), []
            for scale, disparity in enumerate(disparities):
                compared = self._compare(disparity, motions, target, sources, noise)
                level = disparity / (disparity.mean(dim=(1, 2, 3), keepdim=True) + 1e-7)
                rough = roughness(level, shrink(target, disparity.shape[-1])).mean()
                loss = loss + compared.error.mean() + self.config.smoothness / 2**scale * rough
                seen.append(compared)
            finest = seen[0]
            depth = self._depth_of(disparities[0].detach())
        warped, still = finest.warped.detach().mean(), finest.still.mean()
        return {
            "loss": loss / len(disparities),
            "photometric": warped,
            # the small term makes flat pictures, which nothing can improve, gain 0
            "gain": 1 - (warped + 1e-6) / (still + 1e-6),
            "masked": (~finest.kept).float().mean(),
            "depth_spread": depth.log().flatten(1).std(dim=1).mean(),
            "motion": motions.detach()[..., 3].norm(dim=2).mean(),
        }

    def after_step(self, progress: Progress) -> None:
        self.masking.fill_(progress.fraction >= self.config.mask_from)

    def motions(self, images: Tensor) -> Tensor:
        """[R | t] from the target's coordinates to each source's: float32 [B, F - 1, 3, 4].

        images: [B, F, 3, S, S], normalised. The pose network gets each pair in temporal order;
        what it says of a source before the target is inverted.
        """
        pairs = [(min(n, self.target), max(n, self.target)) for n in self.sources]
        stacked = torch.stack([images[:, pair].flatten(1, 2) for pair in pairs], dim=1)
        vectors = self.pose(stacked.flatten(0, 1)).unflatten(0, stacked.shape[:2])
        with torch.autocast(images.device.type, enabled=False):
            moves = [
                rigid_transform(vectors[:, place], inverse=source < self.target)
                for place, source in enumerate(self.sources)
            ]
        return torch.stack(moves, dim=1)

    def _compare(
        self, disparity: Tensor, motions: Tensor, target: Tensor, sources: Tensor, noise: Tensor
    ) -> Compared:
        size = target.shape[-1]
        if self.config.full_resolution:
            disparity = functional.interpolate(
                disparity, (size, size), mode="bilinear", align_corners=False
            )
        else:
            size = disparity.shape[-1]
            target = shrink(target, size)
            sources = shrink(sources.flatten(0, 1), size).unflatten(0, sources.shape[:2])
        warped = warp_sources(sources, self._depth_of(disparity), motions, self.focal)
        return compare(
            target,
            warped,
            sources,
            noise[..., :size, :size],
            mask=self.masking,
            over_sources=self.config.over_sources,
        )

    def depth(self, images: Tensor) -> Tensor:
        """Depth in the learned unit, [N, 1, S, S], of normalised images, [N, 3, S, S]."""
        return self._depth_of(self.decoder(trunk_maps(self.encoder, images))[0])

    def _depth_of(self, disparity: Tensor) -> Tensor:
        depth = depth_of(disparity, self.config.min_depth, self.config.max_depth)
        if not self.config.fixed_scale:
            return depth
        # the mean nearness stays where it starts, at a disparity of one half
        start = 2 / (1 / self.config.min_depth + 1 / self.config.max_depth)
        return depth * (1 / depth).mean(dim=(1, 2, 3), keepdim=True) * start

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The target, how near everything in it is, the target made from the frame before it, and
        the pixels that the mask keeps."""
        seen, plain = seen_and_plain(batch["frames"], self.encoder, AugmentConfig())
        depth = self.depth(seen[:, self.target])
        target, sources = plain[:, self.target], plain[:, self.sources]
        warped = warp_sources(sources, depth, self.motions(seen), self.focal)
        kept = compare(target, warped, sources, torch.zeros_like(sources[:, :, 0])).kept
        return {
            "target": to_pixels(target),
            "nearness": nearness_colors(1 / depth),
            "target from the frame before": to_pixels(warped[:, self.target - 1]),
            "kept by the mask": to_pixels(kept[:, None].float().expand(-1, 3, -1, -1)),
        }


def warp_sources(sources: Tensor, depth: Tensor, motions: Tensor, focal: float) -> Tensor:
    """Every source as the target's camera would see it: [B, N, 3, S, S].

    sources: [B, N, 3, S, S]; depth: [B, 1, S, S] of the target; motions: [B, N, 3, 4], target to
    source; focal: share of the side.
    """
    count = sources.shape[1]
    places = reprojection(depth.repeat_interleave(count, dim=0), motions.flatten(0, 1), focal)
    return sample_at(sources.flatten(0, 1), places).unflatten(0, sources.shape[:2])


class Compared(NamedTuple):
    """How well the target is explained, pixel by pixel; each [B, S, S]."""

    error: Tensor
    """What the loss averages: the least error of all candidates."""
    warped: Tensor
    """Error of the warped sources."""
    still: Tensor
    """Error of the sources as they are."""
    kept: Tensor
    """bool: a warped source explains the pixel better than an unmoved one."""


def compare(
    target: Tensor,
    warped: Tensor,
    sources: Tensor,
    noise: Tensor,
    *,
    mask: Tensor | None = None,
    over_sources: str = "minimum",
) -> Compared:
    """Per-pixel reprojection errors with minimum and auto-mask (section 3.2).

    target: [B, 3, S, S]; warped, sources: [B, N, 3, S, S], all in [0, 1]; noise: [B, N, S, S],
    added to the errors of unmoved sources. mask: bool [] or None for true; where it holds, a pixel
    that an unmoved source wins counts with that source's error and has no gradient.
    """
    count = sources.shape[1]
    repeated = target[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
    moved = photometric_error(repeated, warped.flatten(0, 1)).unflatten(0, (-1, count))[:, :, 0]
    still = photometric_error(repeated, sources.flatten(0, 1)).unflatten(0, (-1, count))[:, :, 0]
    if over_sources == "mean":
        moved, still, noise = (x.mean(dim=1, keepdim=True) for x in (moved, still, noise))
    # the index of one winner: a tie must not share its gradient
    best = moved.min(dim=1).values
    unmoved = still.min(dim=1).values
    rival = (still + noise).min(dim=1).values
    kept = best < rival
    counted = kept if mask is None else kept | ~mask
    error = torch.where(counted, best, rival.detach())
    return Compared(error, best, unmoved, kept)
