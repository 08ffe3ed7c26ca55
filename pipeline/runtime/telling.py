"""What is a command doing now? Said when it takes a moment, and again while it lasts.

Whoever does the work says what it is (`now`); a thread of the command prints it. In a process of
Ray it travels to the command (`runtime.messages`). Where nobody tells, as in a call from Python,
nothing is printed.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

FIRST_S = 1.0
"""What lasts less than this is not said."""
SILENCE_S = 4.0
"""After so long without a word what is done is said again; in a log, after twice as long each time,
up to `LOG_SILENCE_S`."""
LOG_SILENCE_S = 60.0
REFRESH_S = 1.0
"""How often a bar on a terminal is drawn again where nothing moves it."""
BEAT_S = 0.25


class _Teller:
    """The voice of one command."""

    def __init__(self, words: Sequence[str]) -> None:
        self.line = shlex.join(["marey", *words])
        self._command, self._doing, self._said = words[0], "", ""
        self._since = self._last = time.monotonic()
        self._pause_s = SILENCE_S
        self._bar: tqdm | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="telling", daemon=True)
        self._thread.start()

    @property
    def doing(self) -> str:
        """What is done now."""
        return self._doing

    def now(self, doing: str) -> None:
        with self._lock:
            self._doing, self._since = doing, time.monotonic()

    def moves(self, far: str, printed: bool) -> None:
        """How far the work is; printed: whether a person has just read that."""
        with self._lock:
            self._doing = self._said = far
            self._since = time.monotonic()
            if printed:
                self._last, self._pause_s = self._since, SILENCE_S

    def draws(self, bar: tqdm | None) -> None:
        """A bar on the terminal shows the work from now on; None: no longer."""
        with self._lock:
            self._bar = bar
            self._last = time.monotonic()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with self._lock, contextlib.suppress(ValueError):  # the stream was closed
                self._look(time.monotonic())

    def _look(self, now: float) -> None:
        lasts = now - self._since
        new = self._doing != self._said
        if self._bar is not None and not (new and lasts > FIRST_S):
            if now - self._last > REFRESH_S:
                self._last = now
                self._bar.refresh()
            return
        due = lasts > FIRST_S if new else now - self._last > self._pause_s
        late = now - self._last > SILENCE_S and lasts > BEAT_S
        if not self._doing or not (due or (new and late)):
            return
        for_s = "" if new or lasts < FIRST_S else f", for {lasts:.0f} s"
        tqdm.write(f"{self._command}: {self._doing}{for_s}", file=sys.stderr)
        sys.stderr.flush()
        if not new and not sys.stderr.isatty():
            self._pause_s = min(2 * self._pause_s, LOG_SILENCE_S)
        elif new:
            self._pause_s = SILENCE_S
        self._said, self._last = self._doing, now


_teller: _Teller | None = None
_sender: Callable[[str], None] | None = None


@contextmanager
def telling(words: Sequence[str]) -> Iterator[None]:
    """Say inside what the command does. words: what was typed after `marey`."""
    global _teller
    _teller = _Teller(words)
    try:
        yield
    finally:
        _teller.end()
        _teller = None


def is_told() -> bool:
    """Whether a command of this process says what it does."""
    return _teller is not None


def command_line() -> str:
    """The command of this process as it was typed; "" where there is none."""
    return "" if _teller is None else _teller.line


def doing() -> str:
    """What the command of this process does now; "" where there is none."""
    return "" if _teller is None else _teller.doing


def now(doing: str) -> None:
    """Say what is done from now on, as "waiting for the first batch"."""
    if _teller is not None:
        _teller.now(doing)
    elif _sender is not None:
        _sender(doing)


def moves(far: str, printed: bool) -> None:
    """The work has moved, and is so far now; printed: whether a line said so."""
    if _teller is not None:
        _teller.moves(far, printed)


def draws(bar: tqdm | None) -> None:
    """A bar is drawn from now on, or no longer."""
    if _teller is not None:
        _teller.draws(bar)


def send_to(sender: Callable[[str], None]) -> None:
    """Let `now` hand what is done to another process, which says it."""
    global _sender
    _sender = sender
