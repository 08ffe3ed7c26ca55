"""Plain transformers over patches: `tiny_vit`, `tiny_video_vit`, `video_vit_...`, and decoders.

Positions are fixed sines and cosines, or rotations of queries and keys, so that any subset of the
patches can be encoded, on grids of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from marey.configs.errors import SettingError
from marey.models.encoders.patchify import patchify, tubelets
from marey.models.encoders.sines import (
    GRID,
    Positions,
    patch_places,
    patch_sines,
    rotate,
    rotations,
)
from marey.models.encoders.trunk import Level, PatchTrunk, kept_stages

WIDTH, DEPTH, HEADS = 128, 4, 4
"""Of the tiny trunks: 0.8 million parameters."""
TUBELET = 2
"""Frames of a patch of a clip."""
PATCH = 16
"""Side in pixels of a patch of the published sizes."""
EPSILON = 1e-6
"""Of the layer norms of the published sizes (released code of MAE, VideoMAE, V-JEPA)."""


class Size(NamedTuple):
    """Width, number of blocks and of attention heads of a transformer, and width of its MLPs."""

    width: int
    depth: int
    heads: int
    hidden: int | None = None
    """Four times the width, if unset."""


SIZES = {
    "small": Size(384, 12, 6),
    "base": Size(768, 12, 12),
    "large": Size(1024, 24, 16),
    "huge": Size(1280, 32, 16),
    "giant": Size(1408, 40, 22, 6144),
}
"""ViT-S, B, L and H (Dosovitskiy et al., arXiv 2010.11929, table 1; S: DeiT, arXiv 2012.12877), and
g as V-JEPA 2 has it (github.com/facebookresearch/vjepa2 @ c2963a4, `vit_giant_xformers`)."""
VIDEO_VITS = tuple(f"video_vit_{size}" for size in SIZES)


class DropPath(nn.Module):
    """Leaves a sample's residual branch out with some chance (Huang et al., arXiv 1603.09382)."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, branch: Tensor) -> Tensor:
        """[N, ...]; what is kept is scaled up, so that the mean stays."""
        if not self.training or not self.drop_prob:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device)
        return branch * (kept >= self.drop_prob) / (1 - self.drop_prob)


class Block(nn.Module):
    """Self-attention and an MLP, of four times the width if not said, each behind a layer norm."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        epsilon: float = 1e-5,
        drop_path: float = 0.0,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        if width % heads:
            raise SettingError(f"{heads} attention heads do not divide a width of {width}")
        self.heads = heads
        self.norm = nn.LayerNorm(width, epsilon)
        self.inwards = nn.Linear(width, 3 * width)
        self.outwards = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, epsilon),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
        )
        self.drop = DropPath(drop_path)

    def forward(
        self,
        tokens: Tensor,
        present: Tensor | None = None,
        turns: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """tokens: [N, L, width]; present: bool [N, L], the tokens that others may look at; turns:
        of queries and keys, as `rotations` has them."""
        count, length, width = tokens.shape
        mixed = self.inwards(self.norm(tokens)).view(count, length, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        looks = None if present is None else present[:, None, None, :]
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=looks)
        mixed = self.outwards(seen.transpose(1, 2).reshape(count, length, width))
        tokens = tokens + self.drop(mixed)
        return tokens + self.drop(self.mlp(tokens))


class Blocks(nn.Module):
    """Several blocks and a last layer norm: [N, L, width] -> [N, L, width]."""

    recompute = False
    """Whether blocks keep only their input for the backward pass (activation checkpointing)."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        epsilon: float = 1e-5,
        drop_path: float = 0.0,
        hidden: int | None = None,
    ) -> None:
        """epsilon: of the layer norms; drop_path: chance of skipping the last block, which falls
        linearly to 0 at the first; hidden: width of the MLPs, if not four times the width."""
        super().__init__()
        chances = [drop_path * number / max(1, depth - 1) for number in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, epsilon=epsilon, drop_path=chance, hidden=hidden)
            for chance in chances
        )
        self.norm = nn.LayerNorm(width, epsilon)
        self.head_width = width // heads
        start(self)

    def forward(
        self, tokens: Tensor, present: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """present: bool [N, L], the tokens that others may look at; at least one in each row.
        places: float [N, L, A] or [L, A], by which queries and keys are turned."""
        turns = None if places is None else rotations(places, self.head_width)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, present, turns, use_reentrant=False)
            else:
                tokens = block(tokens, present, turns)
        return self.norm(tokens)


def start(module: nn.Module) -> None:
    """Initial weights of linear layers: Xavier, without bias (MAE, appendix A.1)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def start_small(module: nn.Module) -> None:
    """Initial weights of linear layers: normal of 0.02, cut off, and those that end the branches of
    block n divided by the root of 2 n (released code of V-JEPA 2)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
    for blocks in module.modules():
        if isinstance(blocks, Blocks):
            for number, block in enumerate(blocks.blocks, start=1):
                for name in ("outwards", "mlp.3"):
                    block.get_submodule(name).weight /= (2 * number) ** 0.5  # pyright: ignore


class PatchTransformer(PatchTrunk):
    """A plain transformer over non-overlapping patches of images or clips.

    Input: float [N, 3, S, S] or [N, 3, T, S, S]; output: a map, [N, width, S / patch, S / patch]
    or [N, width, T / frames, S / patch, S / patch].
    """

    def __init__(
        self,
        patch: int,
        *,
        frames: int | None = None,
        depth: int = DEPTH,
        in_channels: int = 3,
        size: Size | None = None,
        positions: Positions = "standard",
        drop_path: float = 0.0,
    ) -> None:
        """patch: side in pixels. frames: those of one patch of a clip; None for images. size: one
        of `SIZES`, with `depth` blocks; None for the tiny one."""
        super().__init__()
        width, _, heads, hidden = size or Size(WIDTH, DEPTH, HEADS)
        self.patch = patch
        self.frames = frames
        self.positions: Positions = positions
        self.levels = (Level(width, patch),)
        self.embed = nn.Linear(in_channels * patch**2 * (frames or 1), width)
        epsilon = EPSILON if size else 1e-5
        self.blocks = Blocks(
            width, depth, heads, epsilon=epsilon, drop_path=drop_path, hidden=hidden
        )
        start(self.embed)
        if positions == "rotary":
            start_small(self)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        turning = self._turning(images)
        tokens = self.blocks(self._tokens(images), places=turning)
        return [tokens.transpose(1, 2).unflatten(2, self.grid(images.shape[2:]))]

    def visible(self, images: Tensor, keep: Tensor, present: Tensor | None = None) -> Tensor:
        """Tokens of the kept patches, which see nothing else: [N, K, width].

        keep: int64 [N, K], numbers of patches, row by row, and of a clip through the places of its
        first time before those of the next; present: bool [N, K], False where a row is filled up.
        """
        turning = self._turning(images)
        kept = None if turning is None else turning[keep]
        return self.blocks(take(self._tokens(images), keep), present, kept)

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
        tokens = self.embed(self.cut(images))
        places = self.places(images.shape[2:], images.device)
        return tokens + patch_sines(self.positions, places, tokens.shape[2])

    def _turning(self, images: Tensor) -> Tensor | None:
        """Places that queries and keys are turned by, [L, A]; None where sines tell them."""
        if self.positions != "rotary":
            return None
        return self.places(images.shape[2:], images.device)

    def places(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Where the patches of an image (H, W) or a clip (T, H, W) are, as a decoder takes them."""
        return patch_places(self.positions, self.grid(shape), device)


def tiny_vit(
    image_size: int, *, stages: int | None = None, in_channels: int = 3
) -> PatchTransformer:
    """The image trunk: patches an eighth of the image's side, `stages` blocks (all if unset).

    Raises SettingError for a size that eight does not divide, or too many stages.
    """
    depth = kept_stages("tiny_vit", stages, DEPTH)
    return PatchTransformer(_side("tiny_vit", image_size), depth=depth, in_channels=in_channels)


def tiny_video_vit(
    image_size: int,
    clip_frames: int,
    *,
    stages: int | None = None,
    positions: Positions = "standard",
) -> PatchTransformer:
    """The clip trunk: patches of two frames and an eighth of the side. Raises as `tiny_vit`."""
    name = "tiny_video_vit"
    if clip_frames % TUBELET:
        raise SettingError(
            f"backbone {name!r} takes patches of {TUBELET} frames: encoder.clip_frames must be a "
            f"multiple of that, not {clip_frames}"
        )
    depth = kept_stages(name, stages, DEPTH)
    return PatchTransformer(
        _side(name, image_size), frames=TUBELET, depth=depth, positions=positions
    )


def video_vit(
    name: str,
    image_size: int,
    clip_frames: int,
    *,
    stages: int | None = None,
    positions: Positions = "axes",
    drop_path: float = 0.0,
) -> PatchTransformer:
    """A trunk of `VIDEO_VITS` over patches of 2 frames and 16x16 pixels, at any number of them.

    Raises SettingError for clips that such patches do not fill, or too many stages.
    """
    size = SIZES[name.removeprefix("video_vit_")]
    if clip_frames % TUBELET or image_size % PATCH:
        raise SettingError(
            f"backbone {name!r} takes patches of {TUBELET} frames and {PATCH}x{PATCH} pixels: "
            f"encoder.clip_frames ({clip_frames}) must be a multiple of {TUBELET} and "
            f"encoder.image_size ({image_size}) of {PATCH}"
        )
    depth = kept_stages(name, stages, size.depth)
    return PatchTransformer(
        PATCH, frames=TUBELET, depth=depth, size=size, positions=positions, drop_path=drop_path
    )


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

    def __init__(
        self,
        before: int,
        width: int,
        depth: int,
        heads: int,
        values: int,
        positions: Positions = "standard",
        vectors: int = 1,
    ) -> None:
        """before: width of the encoder's tokens; values: of what is predicted for each patch;
        positions: how patches are told apart, as in the encoder; vectors: learned ones for hidden
        patches, of which `forward` takes one (V-JEPA has one for each of its masks).

        Raises SettingError if the heads do not divide the width.
        """
        super().__init__()
        self.positions: Positions = positions
        self.project = nn.Linear(before, width)
        self.unseen = nn.Parameter(torch.zeros(*([vectors] if vectors > 1 else []), width))
        if positions != "rotary":
            nn.init.trunc_normal_(self.unseen, std=0.02)
        epsilon = 1e-5 if positions == "standard" else EPSILON
        self.blocks = Blocks(width, depth, heads, epsilon=epsilon)
        self.predict = nn.Linear(width, values)
        start(self.project)
        start(self.predict)
        if positions == "rotary":
            start_small(self)

    def forward(
        self,
        tokens: Tensor,
        keep: Tensor,
        positions: Tensor,
        present: Tensor | None = None,
        which: int = 0,
    ) -> Tensor:
        """[N, L, values] from tokens [N, K, before] of the patches `keep`, int64 [N, K].

        positions: [L, A], where the patches are; present: bool [N, K], False where rows of `keep`
        are filled up; which: of the vectors for hidden patches, counted round.
        """
        unseen = self.unseen if self.unseen.ndim == 1 else self.unseen[which % len(self.unseen)]
        whole = fill_places(self.project(tokens), keep, unseen, len(positions), present)
        whole = whole + patch_sines(self.positions, positions, whole.shape[2])
        turning = positions if self.positions == "rotary" else None
        return self.predict(self.blocks(whole, places=turning))


def take(tokens: Tensor, keep: Tensor) -> Tensor:
    """The tokens at these places: [N, L, D], int64 [N, K] -> [N, K, D]."""
    return tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))


def fill_places(
    tokens: Tensor, keep: Tensor, unseen: Tensor, length: int, present: Tensor | None = None
) -> Tensor:
    """Tokens, [N, K, D], in their places `keep`, int64 [N, K], and `unseen`, [D], in all others:
    [N, length, D]. present: bool [N, K], False where rows of `keep` are filled up."""
    # fillers are put behind the end, which is cut off
    places = keep if present is None else keep.masked_fill(~present, length)
    everywhere = unseen.to(tokens.dtype).expand(len(tokens), length + 1, -1)
    return everywhere.scatter(1, places[..., None].expand_as(tokens), tokens)[:, :length]
