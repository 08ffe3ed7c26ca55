"""What can be known of a world's samples from their pixels, after a preset's own augmentation?

An oracle reads the angle of the hand from the pixels that the network gets, and answers the
method's question from the angles. Its score is the ceiling: where it is low, the preset's guards
have hidden the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method
from marey.models.objectives.prediction import (
    Origins,
    PredictionConfig,
    block_origins,
    contrast_predictions,
    negatives_of,
)
from marey.pipeline.synthetic.worlds import TURNS_PER_S

Score = tuple[float, float]
"""A figure, and how many samples it speaks of."""


def read_angles(images: Tensor, encoder: Encoder) -> Tensor:
    """The hand's angle, float32 [...], radians clockwise from the upright; see `read_hands`."""
    return read_hands(images, encoder)[0]


def read_hands(images: Tensor, encoder: Encoder) -> tuple[Tensor, Tensor]:
    """The hand's angle and how far right its middle is, in pixels; float32 [...] both.

    images: float [..., 3, S, S], as the network gets them.

    What is white in all channels is the hand; its axis is that of its second moments, and its disc
    is at the end where the pixels are many.
    """
    shape, side = images.shape[:-3], images.shape[-1]
    weight = white(images, encoder).flatten(1)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-6)
    line = torch.arange(side, dtype=torch.float32)
    y, x = (axis.flatten() for axis in torch.meshgrid(line, line, indexing="ij"))
    middle = weight @ x
    x, y = x - middle[:, None], y - (weight @ y)[:, None]
    xx, yy, xy = ((weight * product).sum(dim=1) for product in (x * x, y * y, x * y))
    axis = 0.5 * torch.atan2(2 * xy, xx - yy)
    along = x * axis.cos()[:, None] + y * axis.sin()[:, None]
    # the long thin end, the pivot's, has the sign of the third moment
    tip = torch.where((weight * along**3).sum(dim=1) > 0, -1.0, 1.0)
    angle = torch.atan2(tip * axis.cos(), -tip * axis.sin())
    return angle.view(shape), middle.view(shape)


def read_tips(images: Tensor, encoder: Encoder) -> Tensor:
    """Where the hand's disc is, in pixels: float32 [..., 2]. It tells where the pivot is cut off.

    The disc is the place around which most is white.
    """
    shape, side = images.shape[:-3], images.shape[-1]
    around = 2 * (side // 16) + 1
    mass = functional.avg_pool2d(white(images, encoder)[:, None], around, 1, around // 2)[:, 0]
    weight = (20 * mass / mass.amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)).flatten(1)
    weight = weight.softmax(dim=1).unflatten(1, (side, side))
    line = torch.arange(side, dtype=torch.float32)
    return torch.stack([weight.sum(1) @ line, weight.sum(2) @ line], dim=1).view(*shape, 2)


def white(images: Tensor, encoder: Encoder) -> Tensor:
    """How much each pixel is of the hand, 0 to 1: float32 [N, S, S]."""
    pixels = images.reshape(-1, *images.shape[-3:]) * encoder.std + encoder.mean
    value = pixels.amin(dim=1).flatten(1)
    dim = value.median(dim=1, keepdim=True).values
    bright = value.topk(max(1, value.shape[1] // 200), dim=1).values[:, -1:]
    white = ((value - dim) / (bright - dim).clamp_min(1e-3) * 2 - 1).clamp(0, 1)
    return white.view(-1, *images.shape[-2:])


def turn(before: Tensor, after: Tensor) -> Tensor:
    """How far the hand turned clockwise, in (-pi, pi]."""
    return torch.remainder(after - before + math.pi, 2 * math.pi) - math.pi


def _share(right: Tensor, counted: Tensor) -> Score:
    return float((right & counted).sum() / counted.sum().clamp_min(1)), float(counted.sum())


def _angles_of_clips(method: Method, clips: Tensor) -> Tensor:
    """[..., 3, T, S, S] -> [..., T]."""
    return read_angles(clips.transpose(-4, -3), method.encoder)


def arrow(method: Method, batch: Batch) -> Score:
    """The hand goes to where it points, unless the clip runs backwards."""
    angle, middle = read_hands(batch["clips"].transpose(-4, -3), method.encoder)
    facing = angle.sin()
    ahead = middle.diff(dim=1) * (facing[:, 1:] + facing[:, :-1])
    return _share((ahead.sum(dim=1) < 0) == (batch["label"] == 1), batch["usable"])


def sort(method: Method, batch: Batch) -> Score:
    """The order with the shortest way from place to place of the hand's disc."""
    tip = read_tips(batch["images"], method.encoder)
    table: Tensor = method.orders  # pyright: ignore
    in_time = tip[:, table.argsort(dim=1)]  # [B, K, n, 2]: the pieces in the order of class k
    way = in_time.diff(dim=2).norm(dim=3).sum(dim=2)
    return _share(way.argmin(dim=1) == batch["label"], batch["usable"])


def clip_order(method: Method, batch: Batch) -> Score:
    """The order in which the next clip begins where the last one's pace leads."""
    sampling = method.config.sampling  # pyright: ignore
    angle = _angles_of_clips(method, batch["clips"])
    pace = turn(angle[..., :-1], angle[..., 1:]).flatten(1).median(dim=1).values
    hop = pace * sampling.gap_s / sampling.spacing_s
    table: Tensor = method.orders  # pyright: ignore
    in_time = angle[:, table.argsort(dim=1)]  # [B, K, n, T]
    jump = turn(in_time[:, :, :-1, -1], in_time[:, :, 1:, 0])
    missed = turn(hop[:, None, None].expand_as(jump), jump).abs().sum(dim=2)
    return _share(missed.argmin(dim=1) == batch["label"], batch["usable"])


def odd_one_out(method: Method, batch: Batch) -> Score:
    """The clip whose hand turns least evenly."""
    angle = _angles_of_clips(method, batch["clips"])
    uneven = turn(angle[..., :-1], angle[..., 1:]).std(dim=2)
    return _share(uneven.argmax(dim=1) == batch["label"], batch["usable"])


def speed(method: Method, batch: Batch) -> Score:
    """Fast is what turns by more than one and a half times the world's pace."""
    angle = _angles_of_clips(method, batch["clips"])
    pace = turn(angle[..., :-1], angle[..., 1:]).median(dim=2).values
    normal = 2 * math.pi * TURNS_PER_S * method.encoder.config.clip_step_s
    fast = pace.abs() > 1.5 * normal
    right = torch.stack([~fast[:, 0], fast[:, 1]], dim=1)
    return _share(right, batch["usable"][:, None].expand(-1, 2))


def between(method: Method, batch: Batch) -> Score:
    """A tuple is in order where the middle angle lies between the others; balanced accuracy."""
    away = read_angles(batch["images"], method.encoder).abs()
    low, high = away[:, [0, 2]].amin(dim=1), away[:, [0, 2]].amax(dim=1)
    ordered = (away[:, 1] > low) & (away[:, 1] < high)
    kinds = [batch["counted"] & (batch["label"] == kind) for kind in (0, 1)]
    shares = [_share(ordered == bool(kind), counted)[0] for kind, counted in enumerate(kinds)]
    return sum(shares) / 2, float(batch["counted"].sum())


def next_angle(method: Method, batch: Batch) -> Score:
    """The hand goes on turning at the pace of the frames seen: what that knows of time, in nats,
    at the temperature that suits it best."""
    config: PredictionConfig = method.config  # pyright: ignore
    angle = read_angles(batch["images"], method.encoder).unflatten(1, (config.sampling.clips, -1))
    angle = angle.flatten(0, 1)  # [clips, blocks], of blocks of one frame
    pace = turn(angle[:, :-1], angle[:, 1:])
    seen, ahead = torch.tensor(config.predictions).T  # pyright: ignore
    known = torch.stack([pace[:, :last].median(dim=1).values for last in seen], dim=1)
    guessed = (angle[:, seen] + ahead * known).flatten()
    origins = block_origins(batch, config)
    wanted = (torch.arange(len(angle))[:, None] * config.blocks + seen + ahead).flatten()
    rows = Origins(*(key[wanted] for key in origins))
    found = [
        contrast_predictions(
            torch.stack([guessed.cos(), guessed.sin()], dim=1),
            torch.stack([angle.flatten().cos(), angle.flatten().sin()], dim=1),
            wanted,
            negatives_of(batch, rows, origins, config),
            temperature,
        )["time_information"]
        for temperature in (0.003, 0.01, 0.03, 0.1)
    ]
    return float(max(found)), float(len(angle))


def predicted(method: Method, batch: Batch) -> Score:
    """The hand goes on turning as from the frame before last to the last: the error of where that
    puts its tip, as a share of the error of the mean place."""
    angle = read_angles(batch["images"].flatten(0, 1), method.encoder)  # [clips, frames]
    guessed = angle[:, 1:-1] + turn(angle[:, :-2], angle[:, 1:-1])
    places = [torch.stack([a.cos(), a.sin()], dim=2) for a in (guessed, angle[:, 2:])]
    error = (places[0] - places[1]).square().mean()
    spread = (places[1] - places[1].flatten(0, 1).mean(dim=0)).square().mean()
    return float(error / spread), float(len(angle))


def known_time(method: Method, batch: Batch) -> Score:
    """ST-DIM: which of two frames of one video came just before, by how far the hand turned."""
    pairs, times_s = (batch[name].flatten(0, 1) for name in ("images", "time_s"))
    angle = read_angles(pairs, method.encoder).unflatten(0, (-1, 2))
    time_s = times_s.unflatten(0, (-1, 2))
    due = angle[:, 1] - 2 * math.pi * TURNS_PER_S * (time_s[:, 1] - time_s[:, 0])
    missed = turn(angle[:, 0][None, :], due[:, None]).abs()  # [R, C]
    own = missed.diagonal()[:, None]
    instance = batch["instance"].repeat_interleave(len(angle) // len(batch["instance"]))
    apart = (time_s[:, 1][:, None] - time_s[:, 1]).abs()
    rival = (instance[:, None] == instance) & (apart > method.config.near_s + 1e-4)  # pyright: ignore
    won = (own < missed).float() + 0.5 * (own == missed).float()
    return float(won[rival].mean()), float(rival.sum())


class AngleEncoder(nn.Module):
    """In place of a method's encoder: the angle from the upright, as an embedding.

    The method's own metrics of such embeddings are then the ceiling.
    """

    def __init__(self, encoder: Encoder, scale: float) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.config: EncoderConfig = encoder.config

    def forward(self, images: Tensor) -> Tensor:
        """float [N, 3, S, S], or clips, of which the last frame counts -> float [N, 2]."""
        last = images[:, :, -1] if images.ndim == 5 else images
        away = read_angles(last, self.encoder).abs()
        if self.config.unit_norm:
            return torch.stack([away.cos(), away.sin()], dim=1)
        return self.scale * torch.stack([away, torch.zeros_like(away)], dim=1)


def embedded(metric: str, scale: float = 1.0) -> Callable[[Method, Batch], Score]:
    """The method's own `metric` of angles as embeddings."""

    def score(method: Method, batch: Batch) -> Score:
        encoder = method.encoder
        method.encoder = AngleEncoder(encoder, scale)  # pyright: ignore
        try:
            found = method(batch)
        finally:
            method.encoder = encoder
        return float(found[metric]), float(len(batch["instance"]))

    return score
