"""Which word of a fitted vocabulary a feature is: k-means tokens, flat or hierarchical.

Two parts: `fit` and `encode`, pure functions of features, and `Tokenizer`, which a method holds and
which is fitted in the first steps on what the method sees.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from marey.configs.errors import InputError, SettingError
from marey.models.objectives.distributed import gather_rows, world_size

ITERATIONS = 25
"""Rounds of Lloyd's algorithm at most."""
DISTANCES = 2**24
"""Distances that are held at once: 128 MiB."""


class Codebook(NamedTuple):
    """Centres of a tree of k-means clusterings with B branches and a depth of `len(centres)`."""

    centres: tuple[Tensor, ...]
    """Of level l: float32 [B ** l, B, D], the centres that divide each node of that level."""
    children: tuple[Tensor, ...]
    """Of level l: int64 [B ** l], how many of a node's centres exist (the first ones)."""

    @property
    def size(self) -> int:
        """Leaves, B ** depth: tokens are below this."""
        return self.centres[-1].shape[0] * self.centres[-1].shape[1]

    def digest(self) -> bytes:
        """SHA-256 of all centres: two vocabularies with one digest mean the same."""
        content = hashlib.sha256()
        for centres in self.centres:
            content.update(centres.cpu().contiguous().numpy().tobytes())
        return content.digest()


def fit(features: Tensor, branching: int, levels: int = 1, seed: int = 0) -> Codebook:
    """Cluster features [n, D] into `branching ** levels` tokens, the same for the same seed.

    Equal features count once, and their order does not matter, so that the words do not depend on
    how samples lie on ranks. A node with fewer features than branches has as many centres as
    features. Runs on the CPU in float64, so that every machine gets the same centres. (VideoBERT,
    arXiv 1904.01766, section 4.2: 12 branches, 4 levels.)

    Raises InputError for no features, or for values that are not finite.
    """
    if not len(features) or not torch.isfinite(features).all():
        raise InputError(
            f"a vocabulary needs finite features, at least one; got {tuple(features.shape)}"
        )
    points = features.detach().cpu().unique(dim=0).double()
    generator = torch.Generator().manual_seed(seed)
    node = torch.zeros(len(points), dtype=torch.long)
    centres, children = [], []
    for level in range(levels):
        count = branching**level
        found = torch.zeros(count, branching, points.shape[1])
        alive = torch.zeros(count, dtype=torch.long)
        if level:
            # a node whose points have all gone to its siblings has itself as its only centre
            found[:, 0] = centres[-1].flatten(0, 1)
            present = torch.arange(branching) < children[-1][:, None]
            alive = present.flatten().long()
        after = torch.zeros_like(node)
        for number in node.unique().tolist():
            inside = (node == number).nonzero()[:, 0]
            own, assigned = kmeans(points[inside], branching, generator)
            found[number, : len(own)] = own.float()
            alive[number] = len(own)
            after[inside] = number * branching + assigned
        centres.append(found)
        children.append(alive)
        node = after
    return Codebook(tuple(centres), tuple(children))


def encode(codebook: Codebook, features: Tensor) -> Tensor:
    """The leaf of every feature, int64 [n]: from the root down, always to the nearest centre.

    features: [n, D]. Each row's token depends on that row only. Distances are in float32 whatever
    the autocast state: half precision would give one row in ten, and even centres, other words.
    """
    features = features.float()
    node = torch.zeros(len(features), dtype=torch.long, device=features.device)
    with torch.autocast(features.device.type, enabled=False):
        for centres, children in zip(codebook.centres, codebook.children, strict=True):
            branching = centres.shape[1]
            if len(centres) == 1:
                # one product of matrices, rather than a copy of all centres for every row
                squares = centres[0].square().sum(1) - 2 * features @ centres[0].T
            else:
                own = centres[node]
                squares = own.square().sum(2) - 2 * (own @ features[:, :, None])[..., 0]
            absent = torch.arange(branching, device=node.device) >= children[node][:, None]
            node = node * branching + squares.masked_fill(absent, torch.inf).argmin(dim=1)
    return node


def leaves(codebook: Codebook) -> tuple[Tensor, Tensor]:
    """The tokens that exist, int64 [k], and their centres, float32 [k, D]."""
    alive = torch.ones(1, dtype=torch.bool, device=codebook.centres[0].device)
    for centres, children in zip(codebook.centres, codebook.children, strict=True):
        present = torch.arange(centres.shape[1], device=alive.device) < children[:, None]
        alive = (present & alive[:, None]).flatten()
    return alive.nonzero()[:, 0], codebook.centres[-1].flatten(0, 1)[alive]


def kmeans(points: Tensor, clusters: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres [k, D] and the cluster of every point [n]; k is less than `clusters` only where
    fewer points are distinct.

    points: float64 [n, D], on the CPU. Seeded far apart (k-means++). A cluster that loses its
    points begins again at the largest cluster's farthest one.
    """
    centres = _far_apart(points, clusters, generator)
    assigned = torch.full((len(points),), -1)
    for _ in range(ITERATIONS):
        nearest = _refilled(_nearest(points, centres), points, centres)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        sums = torch.zeros_like(centres).index_add_(0, assigned, points)
        centres = sums / torch.bincount(assigned, minlength=len(centres))[:, None]
    # the cells of these very centres, so that every centre of a node below lies in its parent's
    return centres, _nearest(points, centres)


def _far_apart(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    first = torch.randint(len(points), (1,), generator=generator)
    chosen = [first]
    nearest = _squares(points, points[first])[:, 0]
    floor = 1e-12 * points.square().sum(1).max()
    while len(chosen) < clusters and (nearest > floor).any():
        weights = torch.where(nearest > floor, nearest, torch.zeros_like(nearest))
        chosen.append(torch.multinomial(weights, 1, generator=generator))
        nearest = torch.minimum(nearest, _squares(points, points[chosen[-1]])[:, 0])
    return points[torch.cat(chosen)]


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of every point, int64 [n], without all distances in memory at once."""
    rows = max(1, DISTANCES // len(centres))
    return torch.cat([_squares(part, centres).argmin(dim=1) for part in points.split(rows)])


def _refilled(assigned: Tensor, points: Tensor, centres: Tensor) -> Tensor:
    """Every empty cluster takes the largest cluster's farthest point."""
    counts = torch.bincount(assigned, minlength=len(centres))
    for empty in (counts == 0).nonzero()[:, 0].tolist():
        largest = int(counts.argmax())
        inside = (assigned == largest).nonzero()[:, 0]
        farthest = inside[_squares(points[inside], centres[largest, None])[:, 0].argmax()]
        assigned[farthest] = empty
        counts[largest] -= 1
        counts[empty] += 1
    return assigned


def _squares(points: Tensor, centres: Tensor) -> Tensor:
    squares = points.square().sum(1)[:, None] + centres.square().sum(1)[None, :]
    return (squares - 2 * points @ centres.T).clamp_min(0)


class Tokenizer(nn.Module):
    """A vocabulary that is fitted during a run's first steps and then never changes.

    In each of the first `fit_steps` calls of `learn`, features of all ranks are added to a
    reservoir; at the first, second, fourth, eighth ... call and at the last the vocabulary is
    fitted anew on all of it. Checkpoints hold vocabulary, digest and, until the last fit, the
    reservoir. That is a frozen parameter, since DDP would send a buffer before each step.
    """

    reservoir: Tensor
    """float32 [capacity, D], the first `held` rows are filled; without rows once all is fitted."""
    held: Tensor
    learned: Tensor
    digest: Tensor

    def __init__(
        self,
        dim: int,
        branching: int,
        levels: int = 1,
        *,
        capacity: int = 16_384,
        fit_steps: int = 1,
        seed: int = 0,
    ) -> None:
        """dim: of the features; capacity: features that the vocabulary is fitted on at most.

        Raises SettingError where a step's share of the capacity would be less than one feature.
        """
        super().__init__()
        if capacity < fit_steps:
            raise SettingError(
                f"a vocabulary fitted on {capacity} features cannot take some in each of "
                f"{fit_steps} steps: lower the steps or raise the features"
            )
        self.branching, self.levels = branching, levels
        self.fit_steps, self.seed = fit_steps, seed
        self.capacity = capacity
        self.reservoir = nn.Parameter(torch.zeros(capacity, dim), requires_grad=False)
        self.register_buffer("held", torch.tensor(0))
        self.register_buffer("learned", torch.tensor(0))
        self.register_buffer("digest", torch.zeros(32, dtype=torch.uint8))
        for level in range(levels):
            count = branching**level
            self.register_buffer(f"centres{level}", torch.zeros(count, branching, dim))
            self.register_buffer(f"children{level}", torch.zeros(count, dtype=torch.long))

    @property
    def size(self) -> int:
        """Words of the vocabulary."""
        return self.branching**self.levels

    @property
    def codebook(self) -> Codebook:
        """The vocabulary as it stands."""
        return Codebook(
            tuple(self.get_buffer(f"centres{level}") for level in range(self.levels)),
            tuple(self.get_buffer(f"children{level}") for level in range(self.levels)),
        )

    @torch.no_grad()
    def learn(self, features: Tensor) -> None:
        """Fit on these features [n, D] too, if this is one of the first `fit_steps` calls.

        Every rank must call it, with equally many rows; all get the same vocabulary. Which rows
        are kept where there are too many is drawn from torch's default generator.
        """
        if not len(self.reservoir):  # given up after the last fit
            return
        room = max(1, self.capacity // self.fit_steps // world_size())
        if len(features) > room:
            features = features[torch.randperm(len(features))[:room].to(features.device)]
        held = int(self.held)
        rows = gather_rows(features.float().contiguous())[: self.capacity - held]
        self.reservoir[held : held + len(rows)] = rows
        self.held += len(rows)
        self.learned += 1
        learned, last = int(self.learned), int(self.learned) == self.fit_steps
        if not last and learned & (learned - 1):
            return
        fitted = fit(self.reservoir[: held + len(rows)], self.branching, self.levels, self.seed)
        for level in range(self.levels):
            self.get_buffer(f"centres{level}").copy_(fitted.centres[level])
            self.get_buffer(f"children{level}").copy_(fitted.children[level])
        self.digest.copy_(torch.frombuffer(bytearray(fitted.digest()), dtype=torch.uint8))
        if last:
            self.reservoir.data = self.reservoir.new_empty(0, self.reservoir.shape[1])

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: Any, **named: Any
    ) -> None:
        saved = state_dict.get(prefix + "reservoir")
        if saved is not None and saved.ndim == 2:  # with rows before the last fit, without after it
            self.reservoir.data = self.reservoir.new_zeros(len(saved), self.reservoir.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """Tokens, int64 [...], of features [..., D]."""
        return encode(self.codebook, features.flatten(0, -2)).view(features.shape[:-1])

    def mark(self) -> Tensor:
        """Four digits of the digest, as a metric: a curve shows whether the vocabulary changed."""
        return (self.digest[0].long() * 256 + self.digest[1]) % 10_000


def token_counts(tokens: Tensor, size: int, counted: Tensor | None = None) -> Tensor:
    """How often each of `size` tokens stands in int64 [...], or where `counted` is true: [size].

    Unlike `torch.bincount` it lets the host go on without waiting for a GPU.
    """
    ones = torch.ones_like(tokens) if counted is None else counted.long()
    return tokens.new_zeros(size).scatter_add(0, tokens.flatten(), ones.flatten())


def normalized_entropy(tokens: Tensor, size: int) -> Tensor:
    """Entropy of the tokens' frequencies over log `size`: 1 where all are equally frequent."""
    share = token_counts(tokens, size).float() / max(1, tokens.numel())
    return -(share * share.clamp_min(1e-12).log()).sum() / max(1e-12, torch.tensor(size).log())
