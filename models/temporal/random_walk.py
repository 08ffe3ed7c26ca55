"""Contrastive random walk: a walk over patches, there and back in time, ends where it began.

    A_t = softmax(q_t q_t+1^T / tau),   B_t = softmax(q_t+1 q_t^T / tau)
    W(s, e) = A_s .. A_e-1 B_e-1 .. B_s,   L = mean over s, e of  -mean_n log W(s, e)_nn

q_t are the unit embeddings of the patches of frame t; a part of the edges is dropped. See
docs/methods/random_walk.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.method import Method, register
from marey.models.objectives.arithmetic import full_precision

FLOOR = 1e-20
"""Added to a walk's chance of coming back, whose logarithm is taken."""
DROPPED = -1e9
"""Logit of a dropped edge: finite, so that a node without edges walks anywhere instead of NaN."""


class RandomWalkConfig(MethodConfig):
    """Space-time correspondence as a contrastive random walk."""

    sampling: ClipsSampling = ClipsSampling(num_frames=4, spacing_s=0.2)
    """Clips to walk along; four frames in the paper."""
    grid: int = Field(default=7, ge=2, le=32)
    """Patches along each side of a frame; grid x grid are the nodes of a time."""
    patch: float = Field(default=0.25, gt=0, le=1)
    """Side of a patch over that of the frame (64 of 256 pixels in the paper)."""
    shift: float = Field(default=0.1, ge=0, le=0.5)
    """Each patch is moved at random by up to this share of its side, so that the grid that frames
    share tells nothing."""
    edge_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Chance that an edge of the walk is cut (section 3.3)."""
    temperature: float = Field(default=0.05, gt=0, le=10)
    """Temperature of a transition (0.07 in the paper; the released code needs 0.01 to 0.05)."""
    min_span: int = Field(default=2, ge=1, le=64)
    """Fewest steps that a walk goes forward before it turns back."""
    hidden: tuple[int, ...] = ()
    """Widths of hidden layers between the representation and the space of the walk."""
    projection_dim: int = Field(default=128, ge=2, le=8192)
    """Width of that space."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.5, 1.0), flip=0.5)
    """One crop and flip for a clip."""

    @model_validator(mode="after")
    def _fits(self) -> RandomWalkConfig:
        if self.sampling.num_frames <= self.min_span:
            raise ValueError(
                f"a walk of min_span {self.min_span} steps needs {self.min_span + 1} frames; "
                f"sampling.num_frames is {self.sampling.num_frames}"
            )
        return self

    @property
    def nodes(self) -> int:
        """Patches of a frame."""
        return self.grid**2


@register
class RandomWalk(Method):
    """Contrastive random walk; what is exported is the representation of a whole frame.

    Patches are cut out and embedded one by one, so that neither the border of the frame nor the
    padding of convolutions tells a node where it lies.

    Batch: `frames` uint8 [B, F, H, W, 3], the clips of a sample one after another; `instance`
    int64 [B].
    """

    name = "random_walk"
    paper = (
        "Jabri, Owens, Efros, Space-Time Correspondence as a Contrastive Random Walk, "
        "NeurIPS 2020, arXiv 2006.14613"
    )
    Config = RandomWalkConfig
    config: RandomWalkConfig

    def __init__(self, encoder: Encoder, config: RandomWalkConfig) -> None:
        super().__init__(encoder, config)
        self.projector = mlp(encoder.out_dim, *config.hidden, config.projection_dim, norm=True)

    @property
    def chance(self) -> Mapping[str, float]:
        """A walk that ends anywhere: one in as many times as there are nodes at its beginning."""
        return {"walk_accuracy": 1 / self.config.nodes}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts `patches`, float32 [B, clips, T, nodes, 3, p, p], and `dropped`, bool [B, clips,
        2 (T - 1), nodes, nodes], in place of `frames`."""
        config = self.config
        length, nodes = config.sampling.num_frames, config.nodes
        images = self.images(batch["frames"], config.augment, shared=length)
        patches = cut_patches(images.flatten(0, 1), config.grid, config.patch, config.shift)
        patches = patches.unflatten(0, (len(images), -1, length))
        edges = (*patches.shape[:2], 2 * (length - 1), nodes, nodes)
        dropped = (torch.rand(edges) < config.edge_dropout).to(images.device, non_blocking=True)
        return replace_frames(batch, patches=patches, dropped=dropped)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        patches = batch["patches"]
        shape = patches.shape[:4]
        embedded = self.projector(self.encoder(patches.flatten(0, 3)))
        nodes = functional.normalize(embedded.float(), dim=1).unflatten(0, shape).flatten(0, 1)
        dropped = batch["dropped"].flatten(0, 1)
        cycles = walk_cycles(nodes, self.config.temperature, self.config.min_span, dropped)
        returns = torch.stack(list(cycles.values()))
        longest = cycles[0, shape[2] - 1]
        home = torch.arange(shape[3], device=nodes.device)
        return {
            "loss": cycle_loss(returns),
            "walk_accuracy": (longest.argmax(dim=-1) == home).float().mean(),
            "return_chance": longest.detach().diagonal(dim1=-2, dim2=-1).mean(),
            "embedding_std": nodes.detach().flatten(0, 2).std(dim=0).mean(),
        }


def walk_cycles(
    nodes: Tensor, temperature: float, min_span: int = 1, dropped: Tensor | None = None
) -> dict[tuple[int, int], Tensor]:
    """Transition matrices of all walks from a time to a later one and back (equations 2 to 4).

    nodes: unit vectors [M, T, N, D]; dropped: bool [M, 2 (T - 1), N, N], edges that are cut, those
    of the T - 1 steps forward and then of the steps back. Returns for every (start, turn) at least
    `min_span` apart the matrix [M, N, N], at least float32, whose rows sum to 1.
    """
    length = nodes.shape[1]
    with torch.autocast(nodes.device.type, enabled=False):
        nodes = full_precision(nodes)
        similarity = nodes[:, :-1] @ nodes[:, 1:].transpose(-1, -2) / temperature
        logits = torch.cat([similarity, similarity.transpose(-1, -2)], dim=1)
        if dropped is not None:
            logits = logits.masked_fill(dropped, DROPPED)
        forward, back = logits.softmax(dim=-1).chunk(2, dim=1)
        cycles = {}
        for turn in range(min_span, length):
            walk = torch.eye(nodes.shape[2], dtype=nodes.dtype, device=nodes.device)
            for start in range(turn - 1, -1, -1):
                walk = forward[:, start] @ walk @ back[:, start]
                if turn - start >= min_span:
                    cycles[start, turn] = walk
        return cycles


def cycle_loss(returns: Tensor) -> Tensor:
    """Mean negative log chance of ending where the walk began: scalar. returns: [..., N, N]."""
    return -(returns.diagonal(dim1=-2, dim2=-1) + FLOOR).log().mean()


def cut_patches(images: Tensor, grid: int, share: float, shift: float) -> Tensor:
    """A grid of overlapping square patches, each shifted by its own draw: [N, grid^2, 3, p, p].

    images: [N, 3, S, S]; share: side of a patch over S; shift: largest shift over the patch's
    side, in whole pixels. The image is mirrored at its border, so that patches may reach over it.
    """
    count, _, side, _ = images.shape
    size = max(1, round(side * share))
    reach = min(int(size * shift), side - 1)
    corner = torch.linspace(0, side - size, grid).round().long()
    corners = torch.cartesian_prod(corner, corner)
    corners = corners + torch.randint(0, 2 * reach + 1, (count, grid**2, 2))
    corners = corners.to(images.device, non_blocking=True)
    around = functional.pad(images, [reach] * 4, mode="reflect") if reach else images
    inside = torch.arange(size, device=images.device)
    rows, columns = (corners[..., axis, None] + inside for axis in (0, 1))
    number = torch.arange(count, device=images.device)[:, None, None, None]
    cut = around.permute(0, 2, 3, 1)[number, rows[..., :, None], columns[..., None, :]]
    return cut.permute(0, 1, 4, 2, 3)
