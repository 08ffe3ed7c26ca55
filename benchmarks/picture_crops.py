"""How often is the nearest other crop one of the same picture? For methods that compare crops.

All methods are asked about the same crops of held-out pictures, those that the preset `simclr`
makes, and so are colour histograms, the colours of 4x4 cells, and the oracle of the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.methods_results import HELD_OUT
from benchmarks.picture_oracles import directions
from marey.configs.load import read_preset, run_config
from marey.models.augmentation.augment import augment_frames
from marey.models.method import methods
from marey.pipeline.embedding.encoder_files import load_encoder
from marey.pipeline.training.record import UNTRAINED

RECIPE = "simclr"
"""The preset whose crops all methods are asked about."""
AMONG = 16
"""Pictures among whose crops the nearest is looked for."""


@dataclass(frozen=True, slots=True)
class Crops:
    """first, second: float32 [N, 3, S, S] in [0, 1], two crops of every picture."""

    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, folder: Path, count: int) -> Crops:
        """Crops of the first pictures of a folder."""
        files = sorted(folder.glob("*.png"))[:count]
        pictures = [cv2.imread(str(file), cv2.IMREAD_COLOR_RGB) for file in files]
        frames = torch.from_numpy(np.stack([one for one in pictures if one is not None]))
        config = run_config(read_preset(RECIPE), methods()[RECIPE].Config)
        recipe = config.method.augment  # pyright: ignore
        torch.manual_seed(0)
        size = config.encoder.image_size
        return cls(*(augment_frames(frames, size, recipe) for _ in range(2)))

    def ceiling(self) -> float:
        """What directions read from the crops tell."""
        return retrieval(directions(self.first), directions(self.second))

    def figures(self, trained: str, untrained: str) -> dict[str, Any]:
        """Chance, ceiling, the figure of two exported encoders, and those of colours alone."""
        found = {HELD_OUT: self._of_encoder(trained), UNTRAINED: self._of_encoder(untrained)}
        colours = {"histogram": histogram, "cells": cells}
        plain = {name: retrieval(of(self.first), of(self.second)) for name, of in colours.items()}
        return {"chance": 1 / AMONG, "ceiling": self.ceiling(), **found, "plain": plain}

    @torch.no_grad()
    def _of_encoder(self, location: str) -> float:
        encoder, _ = load_encoder(location)
        encoder.eval()
        size = encoder.config.image_size
        embedded = []
        for crops in (self.first, self.second):
            if crops.shape[-1] != size:
                crops = functional.interpolate(crops, (size, size), mode="bilinear")
            embedded.append(encoder(encoder.normalize(crops)))
        return retrieval(*embedded)


def retrieval(first: Tensor, second: Tensor) -> float:
    """How often, among the second crops of `AMONG` pictures, the nearest is of the first one's.

    first, second: [N, D], compared by cosine about their mean.
    """
    mean = torch.cat([first, second]).mean(dim=0)
    here, there = (
        functional.normalize(crops - mean, dim=1)[: len(crops) // AMONG * AMONG].unflatten(
            0, (-1, AMONG)
        )
        for crops in (first, second)
    )
    nearest = (here @ there.transpose(1, 2)).argmax(dim=2)
    return float((nearest == torch.arange(AMONG)).float().mean())


def histogram(images: Tensor) -> Tensor:
    """Of colours, 4 bins a channel: float32 [N, 64]. images: float [N, 3, S, S] in [0, 1]."""
    bins = (images.clamp(0, 0.999) * 4).long()
    number = (bins[:, 0] * 4 + bins[:, 1]) * 4 + bins[:, 2]
    return functional.one_hot(number.flatten(1), 64).float().mean(dim=1).sqrt()


def cells(images: Tensor) -> Tensor:
    """The colours of 4x4 cells: float32 [N, 48]."""
    return functional.adaptive_avg_pool2d(images, 4).flatten(1)
