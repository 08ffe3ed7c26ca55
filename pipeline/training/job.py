"""What a training process is asked to do, and the networks that it starts from."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from marey.configs.errors import MareyError
from marey.configs.schema import RunConfig
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus, Method, find_method
from marey.pipeline.stream.plan import Plan


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a training process needs, except its samples."""

    config: RunConfig
    plan: Plan
    run: str
    provenance: dict[str, Any]
    classes: int = 0
    """Classes that the data have labels of."""
    members: tuple[tuple[str, int], ...] = ()
    """The corpora of a mixture: a short name of each, and the number of its first event."""

    @property
    def corpus(self) -> Corpus:
        """What the method is told of the data."""
        return Corpus(places=self.plan.samples_per_epoch, classes=self.classes)

    @property
    def samples(self) -> int:
        """Samples that the whole run trains on, if none is refused."""
        trainer = self.config.trainer
        return trainer.steps * trainer.batch_size if trainer.steps else self.plan.total

    def corpus_of(self, event: int) -> str:
        """The name of the corpus of a mixture that an event is of."""
        starts = [start for _, start in self.members]
        return self.members[bisect_right(starts, event) - 1][0]

    def shares(self, events: list[int]) -> dict[str, float]:
        """The share of each corpus of a mixture in samples of these events, as metrics name it."""
        of = [self.corpus_of(event) for event in events]
        return {f"share/{name}": of.count(name) / len(of) for name, _ in self.members}

    def epoch_of(self) -> list[str]:
        """What an epoch has of each corpus of a mixture, a line each."""
        starts = [start for _, start in self.members]
        member = np.searchsorted(starts, self.plan.events, side="right") - 1
        lines = []
        for number, (name, _) in enumerate(self.members):
            own = member == number
            samples = int(self.plan.counts[own].sum())
            once = int(self.plan.counts[own & (self.plan.visit == 0)].sum())
            share, times = samples / self.plan.samples_per_epoch, samples / max(1, once)
            lines.append(f"{name}: {samples} samples per epoch ({share:.1%}), {times:.3g} passes")
        return lines

    def total_steps(self, step: int = 0, trained: int = 0) -> int:
        """Optimiser steps of the whole run, if those to come are like those so far.

        step: steps done; trained: samples that they had. They are fewer than whole batches where
        an elastic run has a number of workers that its batch does not divide among.
        """
        trainer = self.config.trainer
        samples, round_size = self.samples, trainer.batch_size // trainer.accumulate
        if round_size > trainer.workers and samples % trainer.batch_size == 1 < samples:
            samples -= 1  # it joins the step before it (see `in_step`)
        if not step:
            return -(-samples // trainer.batch_size)
        return max(step, -(-step * samples // trained))


def build_method(config: RunConfig, *, fetch: bool = True) -> Method:
    """Encoder and method with the weights of the run's seed. fetch: see `Encoder`."""
    torch.manual_seed(config.trainer.seed)
    return find_method(config.name)(Encoder(config.encoder, fetch=fetch), config.method)


def synchronised(method: Method) -> Method:
    """The method with batch statistics of all processes, unless it needs each one's own."""
    if method.local_batch_norm:
        return method
    return cast(Method, nn.SyncBatchNorm.convert_sync_batchnorm(method))


def training_device(wanted: str) -> torch.device:
    """Where this process trains, of `trainer.device`. Raises MareyError where there is no GPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MareyError("trainer.device=cuda, but torch sees no CUDA device (`marey doctor`)")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
