"""How far is the work on a folder of results? A file in it says so, while it goes on and after.

`status.json` is written every few seconds by the process that holds the folder, so that any machine
that can read the folder can ask (`marey status`). What a killed process has written last stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from marey.pipeline.runtime import telling
from marey.pipeline.runtime.storage import Folder, is_remote

STATUS = "status.json"
EVERY_S, REMOTE_EVERY_S = 2.0, 15.0
"""How often the file is written: a request each time on an object store."""
RATE_S = 60.0
"""The rate is that of the last so many seconds."""


class _Report:
    """The state of one piece of work, as it is written."""

    def __init__(self, folder: Folder, kind: str, about: Mapping[str, Any]) -> None:
        self._folder = folder
        self.values: dict[str, Any] = {
            "kind": kind, **about, "command": telling.command_line(), "host": socket.gethostname(),
            "pid": os.getpid(), "started": time.time(), "state": "running",
            "every_s": REMOTE_EVERY_S if is_remote(folder.location) else EVERY_S,
        }  # fmt: skip
        self._seen: list[tuple[float, float]] = []
        self._best = 0.0
        self._lock = threading.Lock()

    def set(self, values: Mapping[str, Any]) -> None:
        """Further values; of `done` the rate is made, leaving out what was done before."""
        with self._lock:
            self.values |= values
            if "done" in values:
                now = time.monotonic()
                self._seen.append((now, float(values["done"])))
                while len(self._seen) > 2 and self._seen[1][0] < now - RATE_S:
                    self._seen.pop(0)

    def write(self) -> None:
        """Write it down; where that fails, the next time does."""
        with self._lock:
            content = {**self.values, **self._pace(), "updated": time.time()}
            content["doing"] = telling.doing()
        with contextlib.suppress(Exception):
            self._folder.write(STATUS, json.dumps(content, indent=1, default=str).encode())

    def _pace(self) -> dict[str, float]:
        if len(self._seen) < 2:
            return {}
        (began, first), (at, done) = self._seen[0], self._seen[-1]
        if done <= first or at <= began:
            return {}
        rate = (done - first) / (at - began)
        if at - began > RATE_S / 2:  # a moment says nothing of what is usual
            self._best = max(self._best, rate)
        left = (self.values.get("total", done) - done) / rate
        pace = {"rate": round(rate, 4), "left_s": round(max(0.0, left), 1)}
        return pace | ({"best_rate": round(self._best, 4)} if self._best else {})


_reports: list[_Report] = []


@contextmanager
def reported(folder: Folder, kind: str, *, stays: bool = True, **about: Any) -> Iterator[None]:
    """Keep the status of a folder that this process holds true, while the work inside goes on.

    kind: what is made, as "training"; stays: whether the file does when all went well; about:
    further values.
    """
    report = _Report(folder, kind, about)
    over = threading.Event()

    def keep() -> None:
        while not over.wait(report.values["every_s"]):
            report.write()

    report.write()
    thread = threading.Thread(target=keep, name="status", daemon=True)
    thread.start()
    _reports.append(report)
    ended: dict[str, Any] = {"state": "finished"}
    try:
        yield
    except BaseException as error:
        said = " ".join(str(error).split())[:500]
        stopped = isinstance(error, KeyboardInterrupt)
        ended = {"state": "stopped" if stopped else "failed", "error": said}
        raise
    finally:
        _reports.remove(report)
        over.set()
        thread.join()
        if report.values["state"] == "running":
            report.set(ended)
        report.write()
        if report.values["state"] == "finished" and not stays:
            folder.remove(STATUS)


def report(**values: Any) -> None:
    """Say how far the innermost reported work is: `done` of `total` `unit`s, and other values."""
    if _reports:
        _reports[-1].set(values)


def read_status(folder: Folder) -> dict[str, Any] | None:
    """What the file of a folder says; None where there is none, or it is being replaced."""
    if not folder.exists(STATUS):
        return None
    with contextlib.suppress(ValueError):
        status = json.loads(folder.read(STATUS))
        return status if isinstance(status, dict) and "updated" in status else None
    return None
