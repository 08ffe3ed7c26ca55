"""What do processes of Ray tell the command that they work for? What they do, and warnings.

They travel through the cluster's key-value store: few, and short.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from marey.pipeline.runtime import telling

LOOK_S = 0.5
"""How often a command looks for messages."""
_log = logging.getLogger("marey")


class _Sender(logging.Handler):
    """Sends what is logged here to the command."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._prefix = _prefix()
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a warning."""
        self.send("warning", record.getMessage())

    def send(self, kind: str, text: str) -> None:
        from ray.experimental import internal_kv

        self._count += 1
        key = f"{time.time_ns():020d}:{os.getpid()}:{self._count}".encode()
        with contextlib.suppress(Exception):  # a message is no reason for work to fail
            internal_kv._internal_kv_put(
                self._prefix + key, json.dumps({"kind": kind, "text": text}).encode()
            )


def send_here() -> None:
    """Let this process of a Ray job hand what it does, and its warnings, to the command."""
    import ray

    known = any(isinstance(handler, _Sender) for handler in _log.handlers)
    if known or not ray.is_initialized():
        return
    sender = _Sender()
    _log.addHandler(sender)
    telling.send_to(lambda doing: sender.send("now", doing))


@contextmanager
def heard() -> Iterator[None]:
    """Say what processes of this Ray job send, while the work inside goes on."""
    from ray.experimental import internal_kv

    prefix = _prefix()
    over = threading.Event()
    told: set[str] = set()

    def look() -> None:
        for key in sorted(internal_kv._internal_kv_list(prefix)):
            content = internal_kv._internal_kv_get(key)
            internal_kv._internal_kv_del(key)
            if not content:
                continue
            message = json.loads(content)
            if message["kind"] == "now":
                telling.now(message["text"])
            elif message["text"] not in told:  # a pause is one, in however many processes
                told.add(message["text"])
                _log.warning(message["text"])

    def listen() -> None:
        while not over.wait(LOOK_S):
            with contextlib.suppress(Exception):  # out of reach for now: the next look says
                look()

    thread = threading.Thread(target=listen, name="messages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(Exception):
            look()


def _prefix() -> bytes:
    import ray

    return f"marey:say:{ray.get_runtime_context().get_job_id()}:".encode()
