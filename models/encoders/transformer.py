"""Small transformers over patches: the trunks `tiny_vit` and `tiny_video_vit`, and decoders.

Positions are fixed sines and cosines, so that any subset of the patches can be encoded, on grids
of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.errors import SettingError
from marey.models.encoders.patchify import patchify, tubelets
from marey.models.encoders.trunk import Level, PatchTrunk, kept_stages

GRID = 8
"""Patches along each side of a picture."""
WIDTH, DEPTH, HEADS = 128, 4, 4
"""Of the tiny trunks: 0.8 million parameters."""
TUBELET = 2
"""Frames of a patch of a clip."""


def sincos(positions: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Sines and cosines of positions on one or several axes: float [..., A] -> [..., width].

    Every axis has an equal part of the width, half of it sines; what does not divide stays 0.
    Wavelengths run from 2 pi to 2 pi `longest` (Vaswani et al. 2017, section 3.5).
    """
    axes = positions.shape[-1]
    count = width // (2 * axes)
    places = torch.arange(count, device=positions.device, dtype=torch.float32) / count
    angles = positions.float()[..., None] * longest**-places
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return functional.pad(waves, (0, width - waves.shape[-1]))


def grid_positions(*sides: int, device: torch.device | None = None) -> Tensor:
    """Places of a grid, the last axis fastest: float32 [product of sides, A].

    The last two sides count in units of a standard grid of `GRID` places, so that a smaller crop
    spans the same range; an axis of time before them counts its own places.
    """
    axes = []
    for axis, side in enumerate(sides):
        places = torch.arange(side, device=device, dtype=torch.float32)
        in_space = axis >= len(sides) - 2
        axes.append((places + 0.5) * GRID / side - 0.5 if in_space else places)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


class Block(nn.Module):
    """Self-attention and an MLP of four times the width, each behind a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise SettingError(f"{heads} attention heads do not divide a width of {width}")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.inwards = nn.Linear(width, 3 * width)
        self.outwards = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """tokens: [N, L, width]; present: bool [N, L], the tokens that others may look at."""
        count, length, width = tokens.shape
        mixed = self.inwards(self.norm(tokens)).view(count, length, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        looks = None if present is None else present[:, None, None, :]
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=looks)
        tokens = tokens + self.outwards(seen.transpose(1, 2).reshape(count, length, width))
        return tokens + self.mlp(tokens)


class Blocks(nn.Module):
    """Several blocks and a last layer norm: [N, L, width] -> [N, L, width]."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        start(self)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """present: bool [N, L], the tokens that others may look at; at least one in each row."""
        for block in self.blocks:
            tokens = block(tokens, present)
        return self.norm(tokens)


def start(module: nn.Module) -> None:
    """Initial weights of linear layers: Xavier, without bias (MAE, appendix A.1)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class PatchTransformer(PatchTrunk):
    """A plain transformer over non-overlapping patches of images or clips.

    Input: float [N, 3, S, S] or [N, 3, T, S, S]; output: a map, [N, width, S / patch, S / patch]
    or [N, width, T / frames, S / patch, S / patch].
    """

    def __init__(
        self, patch: int, *, frames: int | None = None, depth: int = DEPTH, in_channels: int = 3
    ) -> None:
        """patch: side in pixels. frames: those of one patch of a clip; None for images."""
        super().__init__()
        self.patch = patch
        self.frames = frames
        self.levels = (Level(WIDTH, patch),)
        self.embed = nn.Linear(in_channels * patch**2 * (frames or 1), WIDTH)
        self.blocks = Blocks(WIDTH, depth, HEADS)
        start(self.embed)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        tokens = self.blocks(self._tokens(images))
        return [tokens.transpose(1, 2).unflatten(2, self.grid(images.shape[2:]))]

    def visible(self, images: Tensor, keep: Tensor, present: Tensor | None = None) -> Tensor:
        """Tokens of the kept patches, which see nothing else: [N, K, width].

        keep: int64 [N, K], numbers of patches, row by row, and of a clip through the places of its
        first time before those of the next; present: bool [N, K], False where a row is filled up.
        """
        return self.blocks(take(self._tokens(images), keep), present)

    @property
    def values(self) -> int:
        """Numbers in one patch."""
        return self.embed.in_features

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Patches along each axis of an image (H, W) or a clip (T, H, W)."""
        *times, height, width = shape
        return (
            *(time // (self.frames or 1) for time in times),
            height // self.patch,
            width // self.patch,
        )

    def cut(self, images: Tensor) -> Tensor:
        """The pixels of every patch: [N, L, values]."""
        if self.frames is None:
            return patchify(images, self.patch)
        return tubelets(images, self.frames, self.patch)

    def _tokens(self, images: Tensor) -> Tensor:
        positions = grid_positions(*self.grid(images.shape[2:]), device=images.device)
        return self.embed(self.cut(images)) + sincos(positions, WIDTH)


def tiny_vit(
    image_size: int, *, stages: int | None = None, in_channels: int = 3
) -> PatchTransformer:
    """The image trunk: patches an eighth of the image's side, `stages` blocks (all if unset).

    Raises SettingError for a size that eight does not divide, or too many stages.
    """
    depth = kept_stages("tiny_vit", stages, DEPTH)
    return PatchTransformer(_side("tiny_vit", image_size), depth=depth, in_channels=in_channels)


def tiny_video_vit(
    image_size: int, clip_frames: int, *, stages: int | None = None
) -> PatchTransformer:
    """The clip trunk: patches of two frames and an eighth of the side. Raises as `tiny_vit`."""
    name = "tiny_video_vit"
    if clip_frames % TUBELET:
        raise SettingError(
            f"backbone {name!r} takes patches of {TUBELET} frames: encoder.clip_frames must be a "
            f"multiple of that, not {clip_frames}"
        )
    depth = kept_stages(name, stages, DEPTH)
    return PatchTransformer(_side(name, image_size), frames=TUBELET, depth=depth)


def _side(name: str, image_size: int) -> int:
    if image_size % GRID:
        raise SettingError(
            f"backbone {name!r} has {GRID}x{GRID} patches: encoder.image_size must be a multiple "
            f"of {GRID}, not {image_size}"
        )
    return image_size // GRID


class PatchDecoder(nn.Module):
    """Predicts every patch from those that were visible (MAE's decoder, V-JEPA's predictor).

    Visible tokens are projected and put in their places, one learned vector in all others.
    """

    def __init__(self, before: int, width: int, depth: int, heads: int, values: int) -> None:
        """before: width of the encoder's tokens; values: of what is predicted for each patch.

        Raises SettingError if the heads do not divide the width.
        """
        super().__init__()
        self.project = nn.Linear(before, width)
        self.unseen = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.unseen, std=0.02)
        self.blocks = Blocks(width, depth, heads)
        self.predict = nn.Linear(width, values)
        start(self.project)
        start(self.predict)

    def forward(
        self, tokens: Tensor, keep: Tensor, positions: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """[N, L, values] from tokens [N, K, before] of the patches `keep`, int64 [N, K].

        positions: [L, A], where the patches are; present: bool [N, K], False where rows of `keep`
        are filled up.
        """
        length, count = len(positions), len(tokens)
        projected = self.project(tokens)
        # fillers are put behind the end, which is cut off
        places = keep if present is None else keep.masked_fill(~present, length)
        everywhere = self.unseen.to(projected.dtype).expand(count, length + 1, -1)
        places = places[..., None].expand_as(projected)
        whole = everywhere.scatter(1, places, projected)[:, :length]
        whole = whole + sincos(positions, self.unseen.shape[0])
        return self.predict(self.blocks(whole))


def take(tokens: Tensor, keep: Tensor) -> Tensor:
    """The tokens at these places: [N, L, D], int64 [N, K] -> [N, K, D]."""
    return tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))
