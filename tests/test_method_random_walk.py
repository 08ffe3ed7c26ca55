"""Does the random walk multiply what it should, tell no node where it is, and learn to return?"""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.random_walk import (
    RandomWalk,
    RandomWalkConfig,
    cut_patches,
    cycle_loss,
    walk_cycles,
)
from tests.every_method import moving_texture
from tests.learning import train


def _method(**settings: Any) -> RandomWalk:
    torch.manual_seed(0)
    sampling = {"num_frames": 4, "spacing_s": 0.2, **settings.pop("sampling", {})}
    tree = {"grid": 4, "patch": 0.4, "augment": {}, "projection_dim": 32, **settings}
    config = RandomWalkConfig.model_validate({"sampling": sampling, **tree})
    return RandomWalk(Encoder(EncoderConfig(stages=2, image_size=32)), config)


def _clips(generator: torch.Generator) -> Batch:
    rng = np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))
    return {"frames": moving_texture(4, 4, rng), "instance": torch.arange(4)}


def test_it_learns_to_walk_back() -> None:
    before = train(_method(edge_dropout=0.0), _clips, steps=4, lr=0.0)
    method = _method(edge_dropout=0.0)
    after = train(method, _clips, steps=40)
    assert method.chance["walk_accuracy"] == 1 / 16
    assert after["walk_accuracy"] > 0.65  # ten times chance; 0.47 before training
    assert after["return_chance"] > before["return_chance"] + 0.3


def _slow_walk(nodes: Tensor, start: int, turn: int, temperature: float) -> Tensor:
    """Chance of every path, step by step."""
    path = [*range(start, turn), *range(turn, start - 1, -1)]
    count = nodes.shape[1]
    chances = torch.zeros(count, count, dtype=torch.float64)
    for first in range(count):
        here = {first: 1.0}
        for now, then in itertools.pairwise(path):
            there = dict.fromkeys(range(count), 0.0)
            for node, chance in here.items():
                scores = [math.exp(nodes[now, node] @ nodes[then, k] / temperature)
                          for k in range(count)]  # fmt: skip
                for k, score in enumerate(scores):
                    there[k] += chance * score / sum(scores)
            here = there
        chances[first] = torch.tensor([here[k] for k in range(count)], dtype=chances.dtype)
    return chances


def test_walks_equal_a_slow_formulation() -> None:
    torch.manual_seed(0)
    nodes = functional.normalize(torch.randn(2, 4, 3, 5, dtype=torch.float64), dim=-1)
    cycles = walk_cycles(nodes, 0.3, min_span=1)
    assert set(cycles) == {(s, t) for s in range(4) for t in range(s + 1, 4)}
    for (start, turn), walk in cycles.items():
        torch.testing.assert_close(walk.sum(-1), torch.ones(2, 3, dtype=torch.float64))
        for clip in range(2):
            slow = _slow_walk(nodes[clip], start, turn, 0.3)
            torch.testing.assert_close(walk[clip], slow, rtol=1e-9, atol=1e-12)
    assert set(walk_cycles(nodes, 0.3, min_span=2)) == {(0, 2), (0, 3), (1, 3)}
    chances = torch.stack([_slow_walk(nodes[0], 0, 3, 0.3), _slow_walk(nodes[0], 1, 3, 0.3)])
    wanted = -sum(math.log(c[n, n]) for c in chances for n in range(3)) / 6
    assert cycle_loss(chances).item() == pytest.approx(wanted)


def test_closed_forms() -> None:
    apart = torch.eye(4).expand(1, 3, 4, 4)
    assert cycle_loss(walk_cycles(apart, 0.01)[0, 2]).item() == pytest.approx(0, abs=1e-6)
    alike = torch.ones(1, 3, 4, 4) / 2
    assert cycle_loss(walk_cycles(alike, 0.05)[0, 2]).item() == pytest.approx(math.log(4))
    # a node that goes elsewhere and comes back costs nothing: only ends count
    crossed = torch.stack([torch.eye(4), torch.eye(4).roll(1, 0), torch.eye(4)])[None]
    assert cycle_loss(walk_cycles(crossed, 0.01)[0, 2]).item() == pytest.approx(0, abs=1e-6)


def test_gradients() -> None:
    torch.manual_seed(0)
    nodes = torch.randn(1, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    dropped = torch.rand(1, 4, 3, 3) < 0.2
    assert torch.autograd.gradcheck(
        lambda q: cycle_loss(torch.stack(list(walk_cycles(q, 0.5, 1, dropped).values()))), (nodes,)
    )


def test_dropped_edges_are_never_walked_and_a_node_without_edges_is_finite() -> None:
    torch.manual_seed(0)
    nodes = functional.normalize(torch.randn(1, 2, 4, 5), dim=-1).requires_grad_()
    dropped = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    dropped[0, 0, 1] = True  # forwards, node 1 has no edge left
    dropped[0, 0, 0, 2] = dropped[0, 1, 2] = True
    dropped[0, 1, 2, 3] = False  # back, node 2 leads to 3 only
    walk = walk_cycles(nodes, 0.1, 1, dropped)[0, 1]
    forwards = (nodes[0, 0] @ nodes[0, 1].T / 0.1).masked_fill(dropped[0, 0], -1e9).softmax(-1)
    assert forwards[0, 2] == 0
    back = (nodes[0, 1] @ nodes[0, 0].T / 0.1).masked_fill(dropped[0, 1], -1e9).softmax(-1)
    torch.testing.assert_close(back[2], torch.tensor([0.0, 0, 0, 1]))
    torch.testing.assert_close(walk[0], forwards @ back)
    cycle_loss(walk).backward()
    assert torch.isfinite(nodes.grad).all()


def test_edges_are_dropped_at_their_rate_in_augment_alone() -> None:
    method = _method(edge_dropout=0.3)
    batch = method.augment(_clips(torch.Generator().manual_seed(0)))
    assert batch["dropped"].shape == (4, 1, 6, 16, 16)
    assert batch["dropped"].float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert not _method(edge_dropout=0).augment(_clips(torch.Generator()))["dropped"].any()


def test_patches_lie_on_a_grid_from_border_to_border() -> None:
    images = torch.arange(3 * 64 * 64, dtype=torch.float32).view(1, 3, 64, 64)
    patches = cut_patches(images, 7, 0.25, 0.0)
    assert patches.shape == (1, 49, 3, 16, 16)
    for node, (row, column) in enumerate((r, c) for r in range(7) for c in range(7)):
        top, left = 8 * row, 8 * column
        assert torch.equal(patches[0, node], images[0, :, top : top + 16, left : left + 16])


def test_shifted_patches_differ_from_frame_to_frame_and_mirror_the_border() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(64.0).expand(400, 3, 64, 64)
    patches = cut_patches(ramp, 7, 0.25, 0.2)
    starts = patches[:, 3, 0, 0, 0]  # the fourth patch of the first row begins at column 24
    assert set(starts.tolist()) == {21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0}
    counts = torch.bincount(starts.long())[21:]
    assert counts.min() > 0.6 * counts.float().mean()
    corner = patches[:, 0, 0, 0]
    assert (corner >= 0).all()
    assert (corner[:, 0].long().unique() == torch.arange(4)).all()  # 3, 2, 1 mirrored, 0 to 3


def test_no_node_knows_where_it_is() -> None:
    """Where the same picture repeats with the grid's spacing all nodes are one, also at the border:
    no padding and no position tells them apart, and a walk can only guess."""
    tile = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    frames = tile.repeat(4, 4, 1).expand(2, 4, 32, 32, 3)
    method = _method(grid=3, patch=0.5, shift=0.0, edge_dropout=0.0).eval()
    metrics = method(method.augment({"frames": frames, "instance": torch.arange(2)}))
    assert metrics["loss"].item() == pytest.approx(math.log(9), rel=1e-4)


def test_several_clips_of_a_sample_equal_as_many_samples() -> None:
    frames = _clips(torch.Generator().manual_seed(0))["frames"]
    plain = {"shift": 0.0, "edge_dropout": 0.0}
    one, two = _method(**plain).eval(), _method(sampling={"clips": 2}, **plain).eval()
    folded = frames.unflatten(0, (2, 2)).flatten(1, 2)
    torch.testing.assert_close(
        one(one.augment({"frames": frames}))["loss"], two(two.augment({"frames": folded}))["loss"]
    )


def test_a_clip_too_short_for_its_walks_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs 4 frames"):
        _method(min_span=3, sampling={"num_frames": 3})
