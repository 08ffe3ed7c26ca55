"""What can be known of a world's clips from their pixels, for tasks that predict what is hidden?

As in `world_oracles.py`, of methods that reconstruct or predict parts of clips, and of those that
find the same place again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.picture_oracles import painted
from benchmarks.world_oracles import Score, read_angles, turn, white
from marey.models.batch import Batch
from marey.models.context.masked_frames import nearest_visible
from marey.models.encoders.patchify import normalize_patches, spread
from marey.models.method import Method
from marey.models.objectives.arithmetic import masked_mean
from marey.models.objectives.prediction import contrast_predictions, negatives_of
from marey.models.objectives.reconstruction import patch_errors, reconstruction
from marey.models.temporal.random_walk import walk_cycles
from marey.models.temporal.v_jepa import RANGES
from marey.pipeline.synthetic.worlds import TURNS_PER_S


def painted_clips(clips: Tensor, mask: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Stripes: clips [N, 3, T, S, S] whose hidden patches, bool [N, L], are painted frame by frame
    with what their rows show."""
    frames = clips.transpose(1, 2)
    hidden = mask.unflatten(1, grid)
    hidden = hidden.repeat_interleave(frames.shape[1] // grid[0], dim=1)
    pixels = spread(hidden.flatten(0, 1), *clips.shape[3:])[:, None]
    return painted(frames.flatten(0, 1), pixels).unflatten(0, frames.shape[:2]).transpose(1, 2)


def painted_tubes(method: Method, batch: Batch) -> Score:
    """VideoMAE: what painting leaves of the error of smooth interpolation."""
    clips, mask = batch["clips"].flatten(0, 1), batch["mask"].flatten(0, 1)
    cut: Any = method.encoder.trunk.cut  # pyright: ignore
    found = reconstruction(
        normalize_patches(cut(painted_clips(clips, mask, method.grid))),  # pyright: ignore
        cut(clips),
        mask,
        norm_pix=True,
        squared=True,
        filled=cut(method.filled(clips, mask)),  # pyright: ignore
    )
    return float(found["error_over_fill"]), float(len(clips))


def painted_features(method: Method, batch: Batch) -> Score:
    """V-JEPA: the features that the target encoder has of the painted clip."""
    clips = batch["clips"].flatten(0, 1)
    target: Tensor = method._targets(clips)  # pyright: ignore
    blind = target.mean(dim=(0, 1), keepdim=True)
    errors = []
    for name in RANGES:
        mask = batch[f"mask_{name}"].flatten(0, 1)
        known = painted_clips(clips, mask, method.grid)  # pyright: ignore
        features: Tensor = method._targets(known)  # pyright: ignore
        errors.append([
            masked_mean(patch_errors(answer, target, squared=False), mask)
            for answer in (features, blind)
        ])  # fmt: skip
    left, whole = torch.tensor(errors).sum(dim=0)
    return float(left / whole), float(len(clips))


def words_of_angles(method: Method, batch: Batch) -> Score:
    """Masked frames of a clock: the commonest word among the visible frames of the whole batch
    whose hand stands nearest to where the visible frames of the clip say that the hidden one's is;
    how much more often it is right than the nearest visible frame's word."""
    tokens, selected, time_s = batch["tokens"], batch["selected"], batch["time_s"]
    angle = read_angles(batch["images"], method.encoder)
    neighbour = nearest_visible(time_s, selected)
    known = angle.gather(1, neighbour) + 2 * torch.pi * TURNS_PER_S * (
        time_s - time_s.gather(1, neighbour)
    )
    apart = turn(known.flatten()[:, None], angle.flatten()[None, :]).abs()
    apart = apart.masked_fill(selected.flatten()[None, :], torch.inf)
    near = tokens.flatten()[apart.topk(VOTES, largest=False).indices]
    word = near.mode(dim=1).values.view_as(tokens)
    copied = tokens.gather(1, neighbour)
    gain = (word == tokens).float() - (copied == tokens).float()
    return float(gain[selected].mean()), float(selected.sum())


def next_cells(method: Method, batch: Batch) -> Score:
    """Dense CPC of a clock, which is known for ever once it is seen: what the hand in a cell tells
    of its time among those of the other predicted blocks, in nats, at the best temperature.

    The hand alone, since colours are augmented frame by frame, and nobody knows them beforehand.
    """
    config: Any = method.config
    images = batch["images"].unflatten(1, (config.sampling.clips * config.blocks, -1))
    hand = white(images[:, :, -1].flatten(0, 1), method.encoder)[:, None]
    cells = functional.adaptive_avg_pool2d(hand, config.grid * CELL)
    cells = functional.unfold(cells, CELL, stride=CELL).transpose(1, 2)
    cells = cells.unflatten(0, (-1, config.blocks))[:, -config.predicted :].flatten(0, 2)
    # the product of a row and a candidate orders them by their distance
    one, half = torch.ones(len(cells), 1), cells.square().sum(dim=1, keepdim=True) / 2
    rows, candidates = torch.cat([cells, one], dim=1), torch.cat([cells, -half], dim=1)
    origins = method._origins(batch)  # pyright: ignore
    textured = method._textured(batch["images"])  # pyright: ignore
    found = [
        contrast_predictions(
            rows, candidates, torch.arange(len(rows)),
            negatives_of(batch, origins, origins, config), temperature, wanted=textured,
            same_cell=origins.cell[:, None] == origins.cell,
        )["time_information"]
        for temperature in TEMPERATURES
    ]  # fmt: skip
    return float(max(found)), float(textured.sum())


def walked_pixels(method: Method, batch: Batch) -> Score:
    """Random walk: how many walks over the patches' own pixels come home, at the best
    temperature, with the edges cut that the preset cuts."""
    patches = batch["patches"]
    length, dropped = patches.shape[2], batch["dropped"].flatten(0, 1)
    pixels = functional.adaptive_avg_pool2d(patches.flatten(0, 3), 6).flatten(1)
    pixels = pixels - pixels.mean(dim=0)
    nodes = functional.normalize(pixels, dim=1).unflatten(0, patches.shape[:4]).flatten(0, 1)
    home = torch.arange(nodes.shape[2])
    found = []
    for temperature in TEMPERATURES:
        cycles = walk_cycles(nodes, temperature, method.config.min_span, dropped)  # pyright: ignore
        longest = cycles[0, length - 1]
        found.append((longest.argmax(dim=-1) == home).float().mean())
    return float(max(found)), float(len(nodes))


CELL = 6
"""Pixels on each side of a cell that are compared."""
VOTES = 5
"""Frames that vote for a word."""
TEMPERATURES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
