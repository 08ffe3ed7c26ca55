"""Metrics between two lines of the log: means over samples and processes, and where time went."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """Sums of metrics, and what time was spent on, since the last line of metrics."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._notes: dict[str, list[Tensor]] = {}
        self._samples = 0
        self._rounds = 0
        self._bad: Tensor | None = None
        self._spent: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._started = time.perf_counter()
        self.first_bad = -1
        """The round since the last line, from 0, whose loss was the first that is not finite in
        this process; -1 where all were. Known after `take`."""

    def add(self, values: dict[str, Tensor], samples: int) -> None:
        """Add one round's values, without waiting for the device."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums.get(name, 0) + value * samples
        if "loss" in values:
            loss = values["loss"].detach()
            before = loss.new_full((), -1.0) if self._bad is None else self._bad
            found = (before < 0) & ~torch.isfinite(loss)
            self._bad = torch.where(found, torch.full_like(before, self._rounds), before)
        self._samples += samples
        self._rounds += 1

    def note(self, name: str, value: Tensor) -> None:
        """A number of the whole step, the same in every process, without waiting for it."""
        self._notes.setdefault(name, []).append(value.detach().float())

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._spent["wait"] += time.perf_counter() - start

    @contextlib.contextmanager
    def timing(self, name: str, device: torch.device) -> Iterator[None]:
        """Time spent inside counts as `name`: the device's own, where that is a GPU."""
        if device.type != "cuda" or not torch.cuda.is_available():
            start = time.perf_counter()
            yield
            self._spent[name] += time.perf_counter() - start
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._events.append((name, begin, end))

    def take(self, world: int) -> dict[str, float]:
        """Means over samples and processes since the last call, samples/s, and the share of time
        that went where: `data_wait`, and `time_...` by the names of `timing`."""
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] for name in names]) / self._samples
        bad = -1.0 if self._bad is None else float(self._bad)
        elapsed = time.perf_counter() - self._started
        if world > 1:
            dist.all_reduce(means)
            means /= world
        values = dict(zip(names, means.tolist(), strict=True))
        for name, notes in self._notes.items():
            values[name] = float(torch.stack(notes).mean())
        values["samples_per_s"] = self._samples * world / elapsed
        values["data_wait"] = self._spent.pop("wait", 0.0) / elapsed
        for name, begin, end in self._events:
            end.synchronize()
            self._spent[name] += begin.elapsed_time(end) / 1000
        for name, spent in self._spent.items():
            values[f"time_{name}"] = spent / elapsed
        self._clear()
        self.first_bad = int(bad)
        return values
