"""CPC on images: patches above predict which patches lie below them.

    z = encoder(patch),   c = context(z of rows up to r)
    L = mean over k of
        -log  exp(z_r+k W_k c_r) / ( exp(z_r+k W_k c_r) + sum over n in N of exp(z_n W_k c_r) )

N are the other patches of the image and those of other images. See docs/methods/cpc_patches.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import FramesSampling
from marey.models.augmentation.augment import AugmentConfig, augment_frames
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.norms import has_batch_norm
from marey.models.method import Method, register
from marey.models.objectives.distributed import gather_rows, own_rows
from marey.models.objectives.fingerprints import dhash
from marey.models.objectives.info_nce import (
    NearDuplicates,
    Terms,
    frame_ids,
    info_nce,
    negative_mask,
    summary,
)


class CPCPatchesConfig(MethodConfig):
    """Contrastive predictive coding of patches, versions 1 and 2."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are cut into patches."""
    patch: int = Field(default=64, ge=4, le=512)
    """Side of a patch in pixels, of an image of `encoder.image_size` (64 of 256; 80 of 260 in
    version 2)."""
    stride: int = Field(default=32, ge=1, le=512)
    """Distance from patch to patch (32; 36 in version 2). Only patches that share no pixel are
    predicted: rows r + k with k at least patch / stride."""
    farthest: int | None = Field(default=None, ge=1, le=64)
    """Rows ahead that are predicted at most; unset: all."""
    directions: Literal["down", "all"] = "down"
    """Predict downwards only (version 1), or in all four directions, each with a context network
    of its own (version 2)."""
    context_layers: int = Field(default=5, ge=1, le=50)
    """Layers of the context network; each sees one row more."""
    context_dim: int = Field(default=256, ge=8, le=8192)
    """Width of its bottleneck."""
    target_dim: int = Field(default=64, ge=2, le=8192)
    """Width of the space in which predictions and patches are compared."""
    prediction_scale: float = Field(default=0.1, gt=0, le=10)
    """Factor of the predictions (version 2, appendix)."""
    alike: NearDuplicates = NearDuplicates()
    """Near-duplicate frames, whose patches are no negatives of each other; those of the very same
    frame are."""
    min_negatives: int = Field(default=1, ge=1)
    """Predictions left with fewer negatives than this are skipped."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.5, 1.0), flip=0.5, grayscale=0.25)
    """How each image is augmented before it is cut."""
    augment_patches: AugmentConfig = AugmentConfig()
    """How each patch is augmented alone (version 2)."""
    drop_channels: float = Field(default=0.0, ge=0, le=1)
    """Chance that a patch keeps one of its colour channels only, shown in all three (version 2)."""


@register
class CPCPatches(Method):
    """Contrastive prediction on a grid of patches; what is exported embeds patches, or images.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own; `time_s` float32
    [B, F]; `instance` int64 [B].

    The encoder must not use batch norm: `encoder.norm: layer`. Statistics over a batch that holds
    an image's context and its targets tell which of them belong together.
    """

    name = "cpc_patches"
    paper = (
        "van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive Coding, "
        "2018, arXiv 1807.03748 (version 2: Henaff et al., ICML 2020, arXiv 1905.09272)"
    )
    Config = CPCPatchesConfig
    config: CPCPatchesConfig

    def __init__(self, encoder: Encoder, config: CPCPatchesConfig) -> None:
        super().__init__(encoder, config)
        if has_batch_norm(encoder):
            raise SettingError(
                "cpc_patches: batch norm would tell which patches are of one image: set "
                "encoder.norm=layer, or take a backbone without batch norm"
            )
        self.grid = grid_side(encoder.config.image_size, config.patch, config.stride)
        nearest = math.ceil(config.patch / config.stride)
        last = min(self.grid - 1, config.farthest or self.grid)
        self.ahead = range(nearest, last + 1)
        if not self.ahead:
            raise SettingError(
                f"cpc_patches: patches of {config.patch} px every {config.stride} px share pixels "
                f"up to {nearest - 1} rows apart, but predictions reach only {last}: make "
                "encoder.image_size larger, or method.patch smaller"
            )
        width, turns = encoder.out_dim, 1 if config.directions == "down" else 4
        self.contexts = nn.ModuleList(
            RowContext(width, config.context_dim, config.context_layers) for _ in range(turns)
        )
        self.predictions = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, config.target_dim, 1, bias=False) for _ in self.ahead)
            for _ in range(turns)
        )
        self.target = nn.Conv2d(width, config.target_dim, 1, bias=False)

    @property
    def chance(self) -> Mapping[str, float]:
        """Predictions that say nothing: log(candidates) nats of loss, 0 of information."""
        return {"information": 0.0}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `patches`, float32 [B, F, G, G, 3, P, P], and `dhash`, int64 [B, F], in place of
        `frames`."""
        config, frames = self.config, batch["frames"]
        size = self.encoder.config.image_size
        images = augment_frames(frames.flatten(0, 1), size, config.augment)
        grid = cut_grid(images, config.patch, config.stride)
        patches = grid.flatten(0, 2)
        if config.augment_patches != AugmentConfig():
            pixels = (patches * 255).round().byte().permute(0, 2, 3, 1)
            patches = augment_frames(pixels, config.patch, config.augment_patches)
        if config.drop_channels:
            patches = keep_one_channel(patches, config.drop_channels)
        patches = self.encoder.normalize(patches)
        shape = (*frames.shape[:2], *grid.shape[1:3])
        return replace_frames(
            batch, patches=patches.unflatten(0, shape), dhash=dhash(batch["frames"])
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        patches = batch["patches"].flatten(0, 1)
        embedded = self.encoder(patches.flatten(0, 2)).unflatten(0, patches.shape[:3])
        embedded = embedded.permute(0, 3, 1, 2)
        targets = gather_rows(self.target(embedded).float().flatten(2).transpose(1, 2))
        frames, own = frame_ids(batch), own_rows(patches)
        negative = negative_mask(frames, frames.gathered(), self.config.alike)
        # the other patches of an image are negatives too
        negative = negative.scatter(1, own[:, None], True)
        terms = []
        for turn, (context, predictions) in enumerate(
            zip(self.contexts, self.predictions, strict=True)
        ):
            seen = context(embedded.rot90(turn, (2, 3)))
            for ahead, prediction in zip(self.ahead, predictions, strict=True):  # pyright: ignore
                guess = prediction(seen[:, :, : self.grid - ahead])
                guess = self.config.prediction_scale * guess.float()
                label = target_numbers(own, self.grid, ahead, turn)
                terms.append(
                    patch_terms(guess, targets, label, negative, self.config.min_negatives)
                )
        metrics = summary(*terms)
        return metrics | {"loss": metrics["loss"] / len(terms)}


class RowContext(nn.Module):
    """What the rows above and at a place hold: masked convolutions with shortcuts.

    Input and output: [N, C, G, G]. Row r of the output sees rows up to r, as many back as there
    are layers (version 2, appendix).
    """

    def __init__(self, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, hidden, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)),
                nn.ZeroPad2d((0, 0, 1, 0)),
                nn.Conv2d(hidden, hidden, (2, 1)),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, width, 1),
            )
            for _ in range(layers)
        )

    def forward(self, embedded: Tensor) -> Tensor:
        for layer in self.layers:
            embedded = embedded + layer(embedded)
        return functional.relu(embedded)


def grid_side(image: int, patch: int, stride: int) -> int:
    """Patches along a side. Raises SettingError where they do not fill the image."""
    if patch > image or (image - patch) % stride:
        raise SettingError(
            f"cpc_patches: patches of {patch} px every {stride} px do not fill an image of "
            f"{image} px: image_size must be patch + n x stride"
        )
    return (image - patch) // stride + 1


def cut_grid(images: Tensor, patch: int, stride: int) -> Tensor:
    """float [N, 3, S, S] -> [N, G, G, 3, patch, patch], row by row."""
    windows = images.unfold(2, patch, stride).unfold(3, patch, stride)
    return windows.permute(0, 2, 3, 1, 4, 5)


def keep_one_channel(patches: Tensor, chance: float) -> Tensor:
    """Show one channel, drawn for each patch, in all three, with this chance: [N, 3, P, P]."""
    count = len(patches)
    kept = torch.randint(3, (count, 1, 1, 1)).to(patches.device)
    chosen = (torch.rand(count) < chance).to(patches.device)
    single = patches.take_along_dim(kept, dim=1)
    return torch.where(chosen[:, None, None, None], single, patches)


def target_numbers(images: Tensor, grid: int, ahead: int, turn: int = 0) -> Tensor:
    """Which of all patches lies `ahead` rows below each context: int64 [N, grid - ahead, grid].

    images: int64 [N], the images' numbers among those of all ranks; patches count image by image,
    row by row. The grid is turned by `turn` quarters against the clock, as `rot90` does.
    """
    place = torch.arange(grid * grid, device=images.device).view(grid, grid).rot90(turn, (0, 1))
    return images[:, None, None] * grid * grid + place[ahead:]


def patch_terms(
    guess: Tensor, targets: Tensor, label: Tensor, negative: Tensor, min_negatives: int = 1
) -> Terms:
    """InfoNCE of each prediction over the patches of all images that may be negatives.

    guess: [N, D, r, c], predictions; targets: [M, P, D], the P patches of M images; label: int64
    [N, r, c], the positives among M P; negative: bool [N, M], images whose patches are candidates.
    """
    with torch.autocast(guess.device.type, enabled=False):
        rows = guess.flatten(2).transpose(1, 2)
        scores = torch.einsum("nrd,mpd->nrmp", rows, targets)
    columns = negative[:, None, :, None].expand_as(scores).flatten(2).flatten(0, 1)
    positive = label.flatten()
    columns = columns.scatter(1, positive[:, None], False)
    return info_nce(scores.flatten(2).flatten(0, 1), positive, columns, min_negatives)
