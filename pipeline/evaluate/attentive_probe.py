"""How much does a frozen encoder's map say, to a head that may look where it wants?

One learned query attends to all places of the last map, and a linear layer reads what it finds
(V-JEPA, arXiv 2404.08471, section 4 and appendix D). Features of masked prediction are spread over
the places, and an average of them says less than they know.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from marey.models.encoders.decay import decay_groups
from marey.models.encoders.encoder import Encoder

DECAY = 0.01
"""Weight decay (appendix D)."""
HEAD_WIDTH = 64
"""Width of one attention head, where it divides the encoder's."""


class AttentivePool(nn.Module):
    """Cross attention of one query over places, and an MLP: float [N, L, D] -> [N, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = max(1, width // HEAD_WIDTH)
        heads = heads if width % heads == 0 else 1
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, 1, width), std=0.02))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, places: Tensor) -> Tensor:
        query = self.query.expand(len(places), -1, -1)
        seen = self.norm(places)
        found = query + self.attention(query, seen, seen, need_weights=False)[0]
        return (found + self.mlp(found))[:, 0]


class AttentiveProbe(nn.Module):
    """A frozen encoder, attention over its last map, and a linear head that starts at zero."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.pool = AttentivePool(encoder.feature_dim)
        self.norm = nn.LayerNorm(encoder.feature_dim)
        self.head = nn.Linear(encoder.feature_dim, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Self:
        """The encoder stays in evaluation mode: its statistics are frozen too."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (or clips), as the encoder takes them -> logits float [N, C]."""
        with torch.no_grad():
            places = self.encoder.features(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.pool(places.float())))

    def optimizer(self, rate: float) -> torch.optim.Optimizer:
        """AdamW over the probe alone (appendix D)."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(decay_groups(trained, DECAY, lr=rate), lr=rate)
