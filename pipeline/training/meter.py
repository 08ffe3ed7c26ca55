"""Metrics between two lines of the log: means over samples and processes, and where time went."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """Sums of metrics, and the time spent waiting for data, since the last line of metrics."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._samples = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    def add(self, values: dict[str, Tensor], samples: int) -> None:
        """Add one round's values, without waiting for the device."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums.get(name, 0) + value * samples
        self._samples += samples

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def take(self, world: int) -> dict[str, float]:
        """Means over samples and processes since the last call, samples/s, share of waiting."""
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] for name in names]) / self._samples
        elapsed = time.perf_counter() - self._started
        if world > 1:
            dist.all_reduce(means)
            means /= world
        values = dict(zip(names, means.tolist(), strict=True))
        values["samples_per_s"] = self._samples * world / elapsed
        values["data_wait"] = self._waited / elapsed
        self._clear()
        return values
