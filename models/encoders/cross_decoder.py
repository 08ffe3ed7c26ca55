"""A decoder whose patches look at those of another picture (SiamMAE, CropMAE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.errors import SettingError
from marey.models.encoders.sines import Positions, patch_sines
from marey.models.encoders.transformer import EPSILON, fill_places, start


class Attention(nn.Module):
    """Tokens look at other tokens, or at each other: [N, L, D], [N, M, D] -> [N, L, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.asks = nn.Linear(width, width)
        self.answers = nn.Linear(width, 2 * width)
        self.outwards = nn.Linear(width, width)

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        query = self.asks(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.answers(others).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.outwards(seen.transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """A look at the other picture, an MLP, a look at the own one; a layer norm behind each.

    The order of CropMAE's released code, github.com/alexandre-eymael/CropMAE @ 5d0dab2,
    models/components/DecoderBlock.py, without its dropout.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.own = Attention(width, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(width, EPSILON) for _ in range(3))

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        """tokens: [N, L, width]; others: [N, M, width]."""
        tokens = self.norms[0](tokens + self.cross(tokens, others))
        tokens = self.norms[1](tokens + self.mlp(tokens))
        return self.norms[2](tokens + self.own(tokens, tokens))


class CrossDecoder(nn.Module):
    """Predicts every patch of one picture from those that were visible and from another picture."""

    def __init__(
        self,
        before: int,
        width: int,
        depth: int,
        heads: int,
        *,
        hidden: int,
        values: int,
        positions: Positions = "standard",
    ) -> None:
        """before: width of the encoder's tokens; hidden: of the MLPs; values: of what is predicted
        for each patch. Raises SettingError if the heads do not divide the width."""
        super().__init__()
        if width % heads:
            raise SettingError(f"{heads} attention heads do not divide a width of {width}")
        self.positions: Positions = positions
        self.project = nn.Linear(before, width)
        self.unseen = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.unseen, std=0.02)
        self.blocks = nn.ModuleList(CrossBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.predict = nn.Linear(width, values)
        start(self)

    def forward(self, tokens: Tensor, keep: Tensor, others: Tensor, places: Tensor) -> Tensor:
        """[N, L, values] from tokens [N, K, before] of the patches `keep`, int64 [N, K], and tokens
        [N, M, before] of the other picture; places: [L, A], where the patches are."""
        whole = fill_places(self.project(tokens), keep, self.unseen, len(places))
        whole = whole + patch_sines(self.positions, places, whole.shape[2])
        known = self.project(others)
        for block in self.blocks:
            whole = block(whole, known)
        return self.predict(self.norm(whole))
