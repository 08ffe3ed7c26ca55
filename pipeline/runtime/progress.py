"""How long work is shown: one line with count, rate and time left, redrawn or logged."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

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
        first update says."""
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

    def update(self, done: int, total: int, **shown: Any) -> None:
        """Set how much is done; `shown` are further figures."""
        if self._start is None:
            self._start, self._began = done, time.monotonic()
            self._bar.initial = self._bar.n = self._bar.last_print_n = done
        if self._terminal:
            self._bar.total = total
            self._bar.set_postfix({k: _short(v) for k, v in shown.items()}, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._logged < self.LOG_SECONDS and done < total:
            return
        self._logged = now
        rate = (done - self._start) / max(1e-9, now - self._began)
        left = f", {_clock((total - done) / rate)} left" if rate > 0 and done < total else ""
        extra = "".join(f", {name} {_short(value)}" for name, value in shown.items())
        print(
            f"{self._what}: {done}/{total} {self._unit}, {rate:.3g}/s{left}{extra}",
            file=sys.stderr,
            flush=True,
        )

    def note(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the last state standing."""
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
