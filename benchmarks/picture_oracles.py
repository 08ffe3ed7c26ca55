"""What can be known of a world's pictures from their pixels, after a preset's own augmentation?

An oracle of `board` looks among pictures of the training part, many times augmented, for those
that agree best with what it sees up to brightness and contrast, and answers as is right for them.
That of `stripes` goes on with the rows that it sees, that of `textures` reads directions from the
spectrum. Scores are ceilings, as in `world_oracles.py`: a share above 1 says that the network reads
better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.world_oracles import Score
from marey.models.batch import Batch
from marey.models.context.colorization import best_constant, soft_bins
from marey.models.context.context_encoder import region_error
from marey.models.encoders.patchify import normalize_patches, patchify, spread
from marey.models.method import Method
from marey.models.objectives.content_free import filled_from_around
from marey.models.objectives.reconstruction import reconstruction

Seen = Iterable[Batch]
"""Augmented batches of the training part."""
Answer = Callable[[Method, Batch], Score]
NEAREST = 5
"""Pictures whose colours are averaged."""


def agreement(seen: Tensor, known: Tensor) -> Tensor:
    """How well each picture agrees with each known one up to brightness and contrast: their
    correlation, float32 [N, M].

    seen: float [N, D]; known: [M, D].
    """
    left, right = (
        functional.normalize(pictures - pictures.mean(dim=1, keepdim=True), dim=1)
        for pictures in (seen, known)
    )
    return left @ right.T


def turned(method: Method, training: Seen) -> Answer:
    """Rotation: the turn whose pictures agree best."""
    upright = torch.cat([batch["images"].flatten(0, 1)[:, 0].flatten(1) for batch in training])

    def answer(method: Method, batch: Batch) -> Score:
        images = batch["images"].flatten(0, 1)  # [N, 4, 3, S, S]
        fits = torch.stack(
            [
                agreement(torch.rot90(images, -turn, (3, 4)).flatten(0, 1).flatten(1), upright)
                .amax(dim=1)
                .unflatten(0, images.shape[:2])
                for turn in range(4)
            ],
            dim=2,
        )  # [N, turn of the copy, turn taken back]
        hits = fits.argmax(dim=2) == torch.arange(4)
        return float(hits.float().mean()), float(hits.numel())

    return answer


def _places(tiles: Tensor, known: Tensor) -> Tensor:
    """How well each tile agrees with the best of each place: [N, P, 3, s, s] twice -> [N, P, P]."""
    fits = [
        agreement(tiles.flatten(0, 1).flatten(1), known[:, place].flatten(1)).amax(dim=1)
        for place in range(known.shape[1])
    ]
    return torch.stack(fits, dim=1).unflatten(0, tiles.shape[:2])


def _grey(pieces: Tensor) -> Tensor:
    """[B, F, P, 3, s, s] -> [B F, P, 1, s, s]."""
    return pieces.flatten(0, 1).mean(dim=2, keepdim=True)


def shuffled(method: Method, training: Seen) -> Answer:
    """Jigsaw: the permutation whose tiles agree best with those of their places."""
    known = torch.cat([_grey(batch["tiles"]) for batch in training])

    def answer(method: Method, batch: Batch) -> Score:
        tiles = _grey(batch["tiles"])
        fits = _places(tiles, known)
        table: Tensor = method.permutations  # pyright: ignore
        truth = batch["permutation"].flatten(0, 1)  # [N, puzzles]
        # slot i of a puzzle shows tile table[truth][i]; an answer says which place that one is from
        shown = fits[
            torch.arange(len(fits))[:, None, None], table[truth]
        ]  # [N, puzzles, slot, place]
        places = table.expand(*truth.shape, *table.shape)
        score = shown[:, :, None].expand(*truth.shape, *table.shape, -1)
        score = score.gather(4, places[..., None])[..., 0].sum(dim=3)
        counted = batch["solvable"].flatten()[:, None].expand_as(truth)
        hits = (score.argmax(dim=2) == truth) & counted
        return float(hits.sum() / counted.sum().clamp_min(1)), float(counted.sum())

    return answer


def beside(method: Method, training: Seen) -> Answer:
    """Relative position: that of the two places with which the patches agree best."""
    known = torch.cat([_grey(batch["patches"]) for batch in training])

    def answer(method: Method, batch: Batch) -> Score:
        patches = _grey(batch["patches"])
        fits = _places(patches, known)
        pairs: Tensor = method.pairs  # pyright: ignore
        label: Tensor = method.label  # pyright: ignore
        first, second = fits[:, pairs[:, 0]], fits[:, pairs[:, 1]]  # [N, Q, P]
        score = torch.stack(
            [first[..., here] + second[..., there] for here, there in pairs.tolist()], dim=2
        )
        textured = batch["textured"].flatten(0, 1)
        counted = textured[:, pairs].all(dim=2)
        hits = (label[score.argmax(dim=2)] == label) & counted
        return float(hits.sum() / counted.sum().clamp_min(1)), float(counted.sum())

    return answer


def colored(method: Method, training: Seen) -> Answer:
    """Colorization: the colours of the pictures whose lightness agrees best."""
    batches = list(training)
    known = torch.cat([batch["lightness"].flatten(0, 1)[:, 0].flatten(1) for batch in batches])
    colors = torch.cat([batch["colors"].flatten(0, 1) for batch in batches])

    def answer(method: Method, batch: Batch) -> Score:
        config: Any = method.config
        centres: Tensor = method.centres  # pyright: ignore
        seen = batch["lightness"].flatten(0, 1)[:, 0].flatten(1)
        near = agreement(seen, known).topk(NEAREST, dim=1).indices
        taken = colors[near].permute(0, 3, 4, 1, 2).flatten(0, 2)  # [N s s, NEAREST, 2]
        truth = batch["colors"].flatten(0, 1).permute(0, 2, 3, 1).flatten(0, 2)
        bins, shares = soft_bins(truth, centres, config.neighbours, config.soft_sigma)
        answered = torch.full((len(truth), len(centres)), 1e-4)
        guess, guessed = soft_bins(
            taken.flatten(0, 1), centres, config.neighbours, config.soft_sigma
        )
        rows = torch.arange(len(truth)).repeat_interleave(NEAREST)[:, None].expand_as(guess)
        answered.index_put_((rows, guess), guessed / NEAREST, accumulate=True)
        logs = (answered / answered.sum(dim=1, keepdim=True)).log()
        weight = method.weights[bins[:, 0]]  # pyright: ignore
        terms = -weight * (shares * logs.gather(1, bins)).sum(dim=1)
        constant = best_constant(bins, shares, weight, len(centres))
        return float(constant - terms.mean()), float(len(seen))

    return answer


def painted(images: Tensor, hidden: Tensor) -> Tensor:
    """Stripes: hidden pixels as the visible ones of their row; rows of which nothing is visible as
    interpolation has them. float32 [N, 3, S, S].

    images: float [N, 3, S, S]; hidden: bool [N, 1, S, S].
    """
    seen = (~hidden).float()
    count = seen.sum(dim=3, keepdim=True)
    rows = (images * seen).sum(dim=3, keepdim=True) / count.clamp_min(1)
    rows = filled_from_around(rows, count == 0)
    return torch.where(hidden, rows.expand_as(images), images)


def painted_cells(method: Method, batch: Batch) -> Score:
    """Masked pixels and MAE: what painting leaves of the error of smooth interpolation."""
    images, mask = batch["images"].flatten(0, 1), batch["mask"].flatten(0, 1)
    config: Any = method.config
    cells = round(mask[0].numel() ** 0.5)
    patch = images.shape[-1] // cells
    hidden = spread(mask.reshape(-1, cells, cells), *images.shape[2:])[:, None]
    answer = patchify(painted(images, hidden), patch)
    found = reconstruction(
        normalize_patches(answer) if config.norm_pix else answer,
        patchify(images, patch),
        mask.flatten(1),
        norm_pix=config.norm_pix,
        squared=method.name == "mae",
        filled=patchify(filled_from_around(images, hidden), patch),
    )
    return float(found["error_over_fill"]), float(len(images))


def painted_pairs(method: Method, batch: Batch) -> Score:
    """SiamMAE and CropMAE: what painting from the visible patches of the second picture leaves of
    the error of a blind answer. The first picture can tell more."""
    images, mask = batch["second"].flatten(0, 1), batch["mask"].flatten(0, 1)
    cells = round(mask.shape[1] ** 0.5)
    patch = images.shape[-1] // cells
    hidden = spread(mask.unflatten(1, (cells, cells)), *images.shape[2:])[:, None]
    answer = normalize_patches(patchify(painted(images, hidden), patch))
    found = reconstruction(answer, patchify(images, patch), mask, norm_pix=True, squared=True)
    return float(found["relative_error"]), float(len(images))


def painted_holes(method: Method, batch: Batch) -> Score:
    """Context encoder: what painting explains beyond smooth interpolation."""
    images, region = batch["images"].flatten(0, 1), batch["region"].flatten(0, 1)
    answers = (
        painted(images, region),
        filled_from_around(images, region),
        torch.zeros_like(images),
    )
    errors = [region_error(answer, images, region, region).sum() for answer in answers]
    return float((errors[1] - errors[0]) / errors[2].clamp_min(1e-6)), float(len(images))


def painted_words(method: Method, batch: Batch) -> Score:
    """Masked tokens: the words of what painting puts into the hidden patches."""
    images, mask = batch["images"].flatten(0, 1), batch["mask"].flatten(0, 1)
    side: int = method.config.grid  # pyright: ignore
    hidden = spread(mask.unflatten(1, (side, side)), *images.shape[2:])[:, None]
    patches = patchify(painted(images, hidden), images.shape[-1] // side)
    words = method.tokenizer(patches)  # pyright: ignore
    selected = batch["selected"].flatten(0, 1)
    right = (words == batch["tokens"].flatten(0, 1))[selected]
    return float(right.float().mean()), float(len(images))


def directions(images: Tensor) -> Tensor:
    """Of textures: how strong each direction is, whichever way it is mirrored: float32 [N, 60].

    images: float [N, 3, S, S].
    """
    grey = images.mean(dim=1)
    side = grey.shape[-1]
    window = torch.hann_window(side, periodic=False)
    grey = (grey - grey.mean(dim=(1, 2), keepdim=True)) * window * window[:, None]
    power = torch.fft.fft2(grey, s=(2 * side, 2 * side)).abs().square()
    line = torch.fft.fftfreq(2 * side) * side
    y, x = torch.meshgrid(line, line, indexing="ij")
    away = (x.square() + y.square()).sqrt()
    angle = torch.atan2(y, x).abs()
    angle = torch.minimum(angle, torch.pi - angle)  # mirrored and turned by half a turn alike
    middle = (torch.arange(60) + 0.5) / 60 * torch.pi / 2
    share = torch.exp(-0.5 * ((angle[..., None] - middle) / 0.06).square())
    share = share * ((away > 1.5) & (away < 0.45 * side))[..., None]
    found = power.flatten(1) @ share.flatten(0, 1)
    found = found / found.sum(dim=1, keepdim=True).clamp_min(1e-9)
    return found.sqrt()
