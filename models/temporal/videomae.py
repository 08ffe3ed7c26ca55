"""VideoMAE: reconstruct nine tenths of a clip from the other tubes.

    L = mean over masked cubes of  mean (x^ - y)^2

x^ are the decoder's pixels, y those of the clip, each cube normalised by itself. See
docs/methods/masked_clips.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.masking import tube_mask
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.clip_inputs import clip_grid, clip_transformer
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import spread
from marey.models.encoders.transformer import PatchDecoder
from marey.models.method import Method, register
from marey.models.objectives.content_free import filled_from_around
from marey.models.objectives.reconstruction import reconstruction


class VideoMAEConfig(MethodConfig):
    """Masked autoencoder of clips."""

    sampling: ClipsSampling = ClipsSampling(num_frames=16, spacing_s=0.13)
    """Which clips are drawn: 16 frames, four apart at 30 fps (section 4.1)."""
    mask_ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of the places that are hidden, at all times alike (section 3.3)."""
    decoder_width: int = Field(default=384, ge=16, le=4096)
    """Width of the decoder, half of the encoder's (section 4.2)."""
    decoder_depth: int = Field(default=4, ge=1, le=64)
    """Blocks of the decoder (section 4.2)."""
    decoder_heads: int = Field(default=6, ge=1, le=64)
    """Attention heads of the decoder; they divide its width."""
    norm_pix: bool = True
    """Predict each patch's pixels less their mean and over their deviation."""
    norm_channels: bool = False
    """Take these of each colour channel of a patch by itself (released code), not of all three."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.5, 1.0), flip=0.5)
    """One crop and flip for a whole clip."""


@register
class VideoMAE(Method):
    """Masked autoencoder of clips; its encoder is a `video_vit_...`, or `tiny_video_vit`.

    Batch: `frames` uint8 [B, C x T, H, W, 3], C clips of T frames.
    """

    name = "videomae"
    paper = (
        "Tong, Song, Wang, Wang, VideoMAE: Masked Autoencoders are Data-Efficient Learners for "
        "Self-Supervised Video Pre-Training, NeurIPS 2022, arXiv 2203.12602"
    )
    Config = VideoMAEConfig
    config: VideoMAEConfig
    sees_clips = True

    def __init__(self, encoder: Encoder, config: VideoMAEConfig) -> None:
        super().__init__(encoder, config)
        self.grid = clip_grid(encoder, config.sampling, self.name)
        trunk = clip_transformer(encoder, self.name)
        self.decoder = PatchDecoder(
            encoder.feature_dim,
            config.decoder_width,
            config.decoder_depth,
            config.decoder_heads,
            values=trunk.values,
            positions=trunk.positions,
        )

    @property
    def chance(self) -> Mapping[str, float]:
        """The error of interpolation and that of a blind answer, as shares of themselves."""
        return {"error_over_fill": 1.0, "relative_error": 1.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `clips`, float32 [B, C, 3, T, S, S], `mask`, bool [B, C, L], True where hidden, and
        `keep`, int64 [B, C, K], the visible patches, in place of `frames`."""
        length = self.config.sampling.num_frames
        clips = self.clips(batch["frames"].unflatten(1, (-1, length)), self.config.augment)
        times, rows, columns = self.grid
        drawn = tube_mask(
            clips.shape[0] * clips.shape[1], times, rows * columns, self.config.mask_ratio
        )
        mask, keep = (
            part.unflatten(0, clips.shape[:2]).to(clips.device, non_blocking=True) for part in drawn
        )
        return replace_frames(batch, clips=clips, mask=mask, keep=keep)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clips, mask, keep = (batch[name].flatten(0, 1) for name in ("clips", "mask", "keep"))
        trunk = clip_transformer(self.encoder, self.name)
        positions = trunk.places(clips.shape[2:], clips.device)
        predicted = self.decoder(trunk.visible(clips, keep), keep, positions)
        return reconstruction(
            predicted,
            trunk.cut(clips),
            mask,
            norm_pix=self.config.norm_pix,
            norm_channels=self.config.norm_channels,
            squared=True,
            filled=trunk.cut(self.filled(clips, mask)),
        )

    @torch.no_grad()
    def filled(self, clips: Tensor, mask: Tensor) -> Tensor:
        """The clips with their hidden patches diffused into, frame by frame, from what is visible
        around them: float32 [N, 3, T, S, S]. mask: bool [N, L]."""
        frames = clips.transpose(1, 2)
        times = self.grid[0]
        hidden = mask.unflatten(1, self.grid)
        hidden = hidden.repeat_interleave(frames.shape[1] // times, dim=1)
        pixels = spread(hidden.flatten(0, 1), *clips.shape[3:])[:, None]
        filled = filled_from_around(frames.flatten(0, 1), pixels)
        return filled.unflatten(0, frames.shape[:2]).transpose(1, 2)
