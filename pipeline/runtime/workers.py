"""How is a function run on a million inputs, of which some crash or hang it? In replaced processes.

A process works on one input at a time, so it is known which input a crash or a hang belongs to, and
nothing but that input is touched by it: its process is replaced, all others go on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Generic, TypeVar

from marey.configs.errors import MareyError

Input = TypeVar("Input")
Output = TypeVar("Output")
TRIES = 2
"""How often an input may lose its process: a machine short of memory kills innocent ones."""
STARTS = 3
"""Processes in a row that may end while they start."""


@dataclass(frozen=True, slots=True)
class Lost:
    """An input without a result, and why."""

    reason: str


def run_in_processes(
    function: Callable[[Input], Output],
    inputs: Sequence[Input],
    *,
    workers: int,
    limit_s: float,
) -> Iterator[tuple[int, Output | Lost]]:
    """Give (place, result) of every input, in the order of completion.

    function: importable by name; what it takes and returns can be pickled.
    limit_s: seconds that one input may take. Its process is killed then, and the input is `Lost`;
        so is one at which `function` raises, and one that loses its process `TRIES` times.
    Raises MareyError if `STARTS` processes in a row end while they start.
    """
    failed_starts = 0
    todo = deque(range(len(inputs)))
    deaths: dict[int, int] = {}
    pool = [_Worker(function, limit_s) for _ in range(min(workers, len(inputs)))]
    try:
        while todo or any(worker.place is not None for worker in pool):
            for worker in pool:
                if worker.place is None and todo:
                    place = todo.popleft()
                    worker.give(place, inputs[place])
            busy = [worker for worker in pool if worker.place is not None]
            wait([worker.pipe for worker in busy], min(worker.left_s() for worker in busy))
            for number, worker in enumerate(pool):
                place = worker.place
                if place is None:
                    continue
                result = worker.take()
                if result is None:
                    continue
                if isinstance(result, _Gone):
                    worker.stop()
                    pool[number] = _Worker(function, limit_s)
                    if result.starting:
                        failed_starts += 1
                        if failed_starts == STARTS:
                            raise MareyError(
                                f"{STARTS} worker processes in a row ended while they started: "
                                "is this machine out of memory?"
                            )
                        todo.appendleft(place)
                        continue
                    if result.late:
                        yield place, Lost(f"took longer than {limit_s:g} s and was ended")
                        continue
                    deaths[place] = deaths.get(place, 0) + 1
                    if deaths[place] < TRIES:
                        todo.appendleft(place)
                    else:
                        yield place, Lost(f"its process crashed {TRIES} times")
                    continue
                failed_starts = 0
                yield place, result
    finally:
        for worker in pool:
            worker.stop()


@dataclass(frozen=True, slots=True)
class _Gone:
    """A process that ended, perhaps while it started, or (late) has to be ended."""

    late: bool = False
    starting: bool = False


class _Worker(Generic[Input, Output]):
    """One process and the place of the input that it works on."""

    def __init__(self, function: Callable[[Input], Output], limit_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _without_main_module(), _without_ctrl_c():
            self._process.start()
        theirs.close()
        self._limit_s = limit_s
        self._started = False
        self._deadline = float("inf")
        self.place: int | None = None

    def give(self, place: int, value: Input) -> None:
        """Start on an input; its time runs from when the process is up."""
        self.place = place
        self._deadline = time.monotonic() + self._limit_s if self._started else float("inf")
        with contextlib.suppress(OSError):  # it died while it was idle: `take` finds out
            self.pipe.send(value)

    def left_s(self) -> float:
        """Seconds until the input is late; a process that is starting may take a minute."""
        return max(0.0, min(self._deadline - time.monotonic(), 60.0))

    def take(self) -> Output | Lost | _Gone | None:
        """What has come of the input; None while it is worked on."""
        try:
            if not self.pipe.poll():
                return _Gone(late=True) if time.monotonic() > self._deadline else None
            message = self.pipe.recv()
        except (EOFError, OSError):
            return _Gone(starting=not self._started)
        if not self._started:
            self._started = True
            self._deadline = time.monotonic() + self._limit_s
            return None
        self.place = None
        return message

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Let processes that are started meanwhile not run this one's main module first.

    It is a user's script, mostly without a guard (`if __name__ == "__main__"`): every process would
    do the script's whole work again. What is run here is importable by name, so nobody needs it.
    """
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that are started meanwhile do not get Ctrl-C: this one ends them in order."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_starting = threading.Lock()


def _serve(pipe: Connection, function: Callable) -> None:
    """The process: inputs in, results out, until the pipe closes."""
    try:
        pipe.send("ready")
        while True:
            value = pipe.recv()
            try:
                result = function(value)
            except Exception as error:  # one input must not end the work on a million others
                result = Lost(f"{type(error).__name__}: {error}")
            pipe.send(result)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
