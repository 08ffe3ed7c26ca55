"""Has a person (Ctrl-C) or a scheduler (SIGTERM) asked this work to stop?

The first such signal ends a command at once, by a KeyboardInterrupt, but where work has said that
it ends in order when it is asked (`gently`): then it finds out by `asked`. The second ends it in
any case. Processes of Ray that work for a command hear of it through the cluster (`tell`, `hear`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from marey.configs.errors import MareyError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HEAR_S = 0.5
"""How often a process of Ray looks whether its command was asked to stop."""
_asked = 0
_gently: list[str] = []
"""What work that ends in order says when it is asked to, innermost last."""


class StoppedError(MareyError):
    """Work that was asked to stop has ended in order; it can go on."""

    @property
    def exit_code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """128 and the number of the signal, as shells have it."""
        return exit_code()


def asked() -> int:
    """The number of the signal that asked this process to stop; 0 while none has."""
    return _asked


def exit_code() -> int:
    """That of a command that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_asked or signal.SIGINT)


@contextmanager
def answering() -> Iterator[None]:
    """Answer signals, in the main thread of a command; a signal that is ignored stays ignored."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked = 0
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _answer)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(number: int, frame: FrameType | None) -> None:
    global _asked
    first, _asked = not _asked, _asked or number
    if not (first and _gently):
        raise KeyboardInterrupt
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    # print may be what was interrupted
    os.write(2, f"\n{name}: {_gently[-1]}; a second one ends it at once\n".encode())


@contextmanager
def gently(said: str) -> Iterator[None]:
    """The work inside looks at `asked` and ends in order; `said` is what it does then."""
    _gently.append(said)
    try:
        yield
    finally:
        _gently.pop()


@contextmanager
def answers_kept() -> Iterator[None]:
    """Signals are answered as before after what is called inside: starting Ray sets its own.

    Raises KeyboardInterrupt where Ray's ended the process by SystemExit.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        _asked = _asked or signal.SIGTERM
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGTERM, before)


def tell(number: int) -> None:
    """Tell the processes of this Ray job that it was asked to stop; 0: that it was not."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(_key(), str(number).encode())


def hear() -> None:
    """Hear, in a process of a Ray job, when its command was asked to stop."""
    import ray

    if not ray.is_initialized():
        return
    key = _key()

    def listen() -> None:
        global _asked
        from ray.experimental import internal_kv

        pause = threading.Event()
        while not _asked:
            try:
                _asked = int(internal_kv._internal_kv_get(key) or 0)
            except Exception:  # the cluster ends, or is out of reach for now: the next look says
                pause.wait(HEAR_S)
            pause.wait(HEAR_S)

    threading.Thread(target=listen, name="stopping", daemon=True).start()


def _key() -> bytes:
    import ray

    return f"marey:stop:{ray.get_runtime_context().get_job_id()}".encode()
