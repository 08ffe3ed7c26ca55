"""Colorization: which colours has a picture of which the lightness alone is seen?

    L = - mean over places of  v(q*)  sum_q Z_q log softmax(decoder(f(L)))_q

Z are soft-encoded colour bins, q* the largest, v the weight of rare colours. See
docs/methods/colorization.md.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig, augment_frames
from marey.models.augmentation.color import rgb_to_lab
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.dense_heads import map_side, require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.map_decoder import MapDecoder
from marey.models.method import Method, Progress, register
from marey.models.objectives.color_bins import annealed_mean, bin_weights, gamut_bins, soft_bins
from marey.models.objectives.distributed import gather_rows, mean_over_ranks


class ColorizationConfig(MethodConfig):
    """Colourful image colorization."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are coloured."""
    stride: int = Field(default=4, ge=1, le=32)
    """Pixels of the input on each side of one predicted colour; video holds colour at half
    resolution, so that 4 and more are safe."""
    bin_step: float = Field(default=10.0, ge=2, le=50)
    """Spacing of the colour bins in the ab plane; 10 gives 309 bins within sRGB (313 in the paper's
    list)."""
    neighbours: int = Field(default=5, ge=1, le=50)
    """Bins that share one colour (section 2.2; released code: 10)."""
    soft_sigma: float = Field(default=5.0, gt=0, le=50)
    """Deviation of the Gaussian that shares a colour among bins (section 2.2)."""
    rebalance: float = Field(default=0.5, ge=0, le=1)
    """Share lambda of the uniform distribution in the weights: 1 weighs all colours alike, 0 each
    by the inverse of how common it is in the corpus (section 2.2)."""
    prior_sigma: float = Field(default=5.0, ge=0, le=50)
    """Deviation of the Gaussian that smooths how common colours are; 0 leaves them as counted."""
    min_chroma: float = Field(default=5.0, ge=0, le=100)
    """Frames in which neither |a| nor |b| exceeds this anywhere are left out."""
    temperature: float = Field(default=0.38, gt=0, le=1)
    """Of the annealed mean that turns a distribution into a colour (section 2.3)."""
    width: int = Field(default=256, ge=8, le=2048)
    """Channels of the decoder's first layer."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.3, 1.0), flip=0.5)
    """How the crop is drawn; its colours are the target and stay as they are."""


@register
class Colorization(Method):
    """Classification of every patch's colour from lightness.

    The trunk sees lightness in all three channels, so that the encoder that is exported takes RGB
    like any other; it has learned from grey pictures, and sees colour for the first time then.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own.
    """

    name = "colorization"
    paper = "Zhang, Isola, Efros, Colorful Image Colorization, ECCV 2016, arXiv 1603.08511"
    Config = ColorizationConfig
    config: ColorizationConfig
    centres: Tensor
    counts: Tensor
    pending: Tensor
    weights: Tensor

    def __init__(self, encoder: Encoder, config: ColorizationConfig) -> None:
        super().__init__(encoder, config)
        side = max(1, encoder.config.image_size // config.stride)
        # in the checkpoint, since a class means nothing without its bin
        self.register_buffer("centres", gamut_bins(config.bin_step))
        bins = len(self.centres)
        require_map(encoder, self.name)
        small = map_side(encoder)
        self.decoder = MapDecoder(encoder.feature_dim, small, side, config.width, bins)
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.float64))
        self.register_buffer("pending", torch.zeros(bins, dtype=torch.float64))
        self.register_buffer("weights", torch.ones(bins))

    @property
    def chance(self) -> dict[str, float]:
        """Nats gained over the best answer that is the same for every pixel."""
        return {"information": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`: `lightness`, float32 [B, F, 3, S, S], the encoder's input;
        `colors`, float32 [B, F, 2, s, s], mean a and b of every patch; `colored`, bool [B, F]."""
        frames = batch["frames"]
        size, shape = self.encoder.config.image_size, frames.shape[:2]
        lab = rgb_to_lab(augment_frames(frames.flatten(0, 1), size, self.config.augment))
        gray = (lab[:, :1] / 100).expand(-1, 3, -1, -1)
        colors = functional.adaptive_avg_pool2d(lab[:, 1:], self.decoder.side)
        colored = lab[:, 1:].abs().flatten(1).amax(dim=1) > self.config.min_chroma
        return replace_frames(
            batch,
            lightness=self.encoder.normalize(gray).unflatten(0, shape),
            colors=colors.unflatten(0, shape),
            colored=colored.unflatten(0, shape),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        colored = batch["colored"].flatten()
        logits = self.decoder(self.encoder.features(batch["lightness"].flatten(0, 1)))
        # pixels one after another: [N s s, Q]
        logits = logits.permute(0, 2, 3, 1).flatten(0, 2).float()
        colors = batch["colors"].flatten(0, 1).permute(0, 2, 3, 1).flatten(0, 2)
        bins, shares = soft_bins(
            colors, self.centres, self.config.neighbours, self.config.soft_sigma
        )
        weight = self.weights[bins[:, 0]]
        terms = weight * soft_cross_entropy(logits, bins, shares)
        by_image = terms.unflatten(0, (len(colored), -1)).mean(dim=1)
        loss = mean_over_ranks(by_image, colored)
        counted = colored.repeat_interleave(len(terms) // len(colored))
        if self.training:
            self._count(bins[:, 0], counted)
        constant = best_constant(bins, shares, weight * counted, len(self.centres))
        decoded = annealed_mean(logits.detach(), self.centres, self.config.temperature)
        error = (decoded - colors).square().sum(dim=1).sqrt()
        return {
            "loss": loss,
            "information": constant - loss.detach(),
            "top1": mean_over_ranks((logits.argmax(dim=1) == bins[:, 0]).float(), counted),
            "color_error": mean_over_ranks(error, counted),
            "weight": mean_over_ranks(weight, counted),
            "valid": colored.float().mean(),
        }

    @torch.no_grad()
    def _count(self, nearest: Tensor, counted: Tensor) -> None:
        found = torch.zeros_like(self.pending).index_add_(0, nearest, counted.double())
        self.pending += gather_rows(found[None]).sum(dim=0)

    def after_step(self, progress: Progress) -> None:
        """Colours of the step join those counted before; the weights follow."""
        self.counts += self.pending
        self.pending.zero_()
        config = self.config
        weights = bin_weights(self.counts, self.centres, config.rebalance, config.prior_sigma)
        self.weights.copy_(weights)


def soft_cross_entropy(logits: Tensor, bins: Tensor, shares: Tensor) -> Tensor:
    """Cross entropy against soft targets, [N]. logits: [N, Q]; bins, shares: [N, k]."""
    return -(shares * logits.log_softmax(dim=1).gather(1, bins)).sum(dim=1)


def best_constant(bins: Tensor, shares: Tensor, weight: Tensor, count: int) -> Tensor:
    """The weighted loss of the best single distribution for all pixels: a scalar, no gradient.

    bins, shares: [N, k]; weight: [N]. It is the entropy of the weighted mean target, times the
    mean weight.
    """
    target = torch.zeros(count, device=shares.device, dtype=shares.dtype)
    target.index_add_(0, bins.flatten(), (weight[:, None] * shares).flatten().to(shares))
    total = target.sum()
    pixels = (weight > 0).sum().clamp_min(1)
    return -torch.special.xlogy(target, target / total.clamp_min(1e-12)).sum() / pixels
