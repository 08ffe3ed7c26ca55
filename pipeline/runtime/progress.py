"""How long work is shown: one line with count, rate and time left, redrawn or logged."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

from marey.pipeline.runtime import telling
from marey.pipeline.runtime.json_lines import JsonLines

T = TypeVar("T")
_shown: ContextVar[bool] = ContextVar("shown", default=False)
"""Whether `each` shows what it goes through: a command does, a call from elsewhere is silent."""


class Progress:
    """A bar on a terminal; elsewhere a line now and then, so that logs stay readable."""

    LOG_SECONDS = 10.0
    DRAW_SECONDS = 0.1
    """How often `each` draws: its items may be a million."""

    def __init__(self, what: str, unit: str, total: int = 0, start: int | None = None) -> None:
        """start: what was done before this work, which its rate does not count; unset, what the
        first update says: then the rate leaves out what came before that."""
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=what,
            unit=unit,
            total=total or None,
            initial=start or 0,
            file=sys.stderr,
            disable=not self._terminal,
            dynamic_ncols=True,
            smoothing=0.1,
        )
        self._what, self._unit = what, unit
        self._start, self._began = start, time.monotonic()
        self._logged = self._began - self.LOG_SECONDS + 1
        if self._terminal:
            telling.draws(self._bar)

    def update(self, done: int, total: int, **shown: Any) -> None:
        """Set how much is done; `shown` are further figures."""
        if self._start is None:
            self._start, self._began = done, time.monotonic()
            self._bar.initial = self._bar.n = self._bar.last_print_n = done
            if self._terminal:  # its rate and its time leave out what came before
                self._bar.start_t = self._bar.last_print_t = time.time()
        told = f"{done}/{total} {self._unit}"
        if self._terminal:
            telling.moves(told, printed=False)
            self._bar.total = total
            self._bar.set_postfix({k: _short(v) for k, v in shown.items()}, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._logged < self.LOG_SECONDS and done < total:
            telling.moves(told, printed=False)
            return
        self._logged = now
        rate = (done - self._start) / max(1e-9, now - self._began)
        speed = f", {rate:.3g} {self._unit}/s" if rate > 0 else ""
        left = f", {_clock((total - done) / rate)} left" if rate > 0 and done < total else ""
        extra = "".join(f", {name} {_short(value)}" for name, value in shown.items())
        line = f"{self._what}: {told}{speed}{left}{extra}"
        if isinstance(sys.stderr, JsonLines):
            fields = {"done": done, "total": total, "unit": self._unit, "rate": rate, **shown}
            sys.stderr.event(line, fields)
        else:
            print(line, file=sys.stderr, flush=True)
        telling.moves(told, printed=True)

    def note(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the last state standing."""
        if self._terminal:
            telling.draws(None)
        self._bar.close()


@contextmanager
def showing() -> Iterator[None]:
    """Let `each` show its progress inside."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)


def each(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Go through items, as many as `total` (unset: as they are), shown where a command asks for it.

    For loops deep in an evaluation; what is over within seconds leaves nothing in a log.
    """
    if not _shown.get():
        yield from items
        return
    count = len(items) if total is None and isinstance(items, Sized) else total or 0
    bar, drawn = Progress(what, unit, count, 0), time.monotonic()
    try:
        for done, item in enumerate(items):
            if time.monotonic() > drawn + Progress.DRAW_SECONDS:
                drawn = time.monotonic()
                bar.update(done, max(count, done + 1))
            yield item
    finally:
        bar.close()


def minutes(seconds: float) -> str:
    """How much video that is."""
    return f"{seconds / 60:.3g} minutes of video"


def training_words(line: Mapping[str, Any]) -> dict[str, str]:
    """What a line of a run's metrics says to a person, in plain words with units."""
    shown = {}
    if "loss" in line:
        shown["loss"] = f"{line['loss']:.4g}"
    if "samples_per_s" in line:
        shown["samples"] = f"{line['samples_per_s']:.3g}/s"
    if "data_wait" in line:
        shown["waiting for data"] = f"{line['data_wait']:.1%}".replace("%", " %")
    return shown


LISTED = 20


def print_first(lines: Sequence[str], place: str) -> None:
    """The first of many lines, how many more there are, and where."""
    for line in lines[:LISTED]:
        print(line, file=sys.stderr)
    if len(lines) > LISTED:
        print(f"and {len(lines) - LISTED} more, in {place}", file=sys.stderr)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
