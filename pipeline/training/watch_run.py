"""What is seen of a run while it goes on: new lines of its metrics, and its status."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from marey.pipeline.runtime.status_file import report, reported
from marey.pipeline.runtime.storage import Folder, is_remote
from marey.pipeline.training.prepared import Prepared
from marey.pipeline.training.record import (
    REFUSED_SAMPLES,
    REMOTE_WRITE_S,
    SUMMARY,
    NewMetrics,
)

Watch = Callable[[list[dict[str, Any]]], None]
"""Called from time to time with the new lines of metrics."""


@contextmanager
def watching(folder: Folder, step: int, batch: int, watch: Watch | None) -> Iterator[None]:
    """Put new lines of metrics into the run's status and pass them to `watch`, from a thread."""
    seen = step
    over = threading.Event()
    metrics = NewMetrics(folder)
    pause_s = REMOTE_WRITE_S if is_remote(folder.location) else 1.0

    def look() -> None:
        nonlocal seen
        fresh = [line for line in metrics.take() if line["step"] > seen]
        if fresh:
            seen = fresh[-1]["step"]
            _report_lines(fresh, folder, batch)
            if watch is not None:
                watch(fresh)

    def poll() -> None:
        while not over.wait(pause_s):
            look()

    thread = threading.Thread(target=poll, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


@contextmanager
def report_run(prepared: Prepared, folder: Folder) -> Iterator[None]:
    """Keep the status of the run's folder; one that has no summary in the end was stopped."""
    job = prepared.job
    with reported(folder, "training", name=job.config.name, data=prepared.data):
        report(done=prepared.resumed_step, total=job.total_steps(), unit="steps")
        yield
        if not folder.exists(SUMMARY):
            report(state="stopped")


def _report_lines(lines: list[dict[str, Any]], folder: Folder, batch: int) -> None:
    """Put what new lines of metrics say into the status of the run."""
    values: dict[str, Any] = {"done": lines[-1]["step"], "total": lines[-1]["total"]}
    for line in lines:
        values |= {k: line[k] for k in ("loss", "samples_per_s", "data_wait") if k in line}
        if "refused" in line:
            values["refused"] = {"samples": int(line["refused"])} if line["refused"] else {}
            values["seen"] = line["step"] * batch + int(line["refused"])
    if values.get("refused") and folder.exists(REFUSED_SAMPLES):
        values["refused"] = _with_reasons(json.loads(folder.read(REFUSED_SAMPLES)), values)
    saved = folder.names("checkpoints", ".pt")
    report(**values, checkpoint=saved[-1] if saved else None)


def _with_reasons(known: dict[str, int], values: dict[str, Any]) -> dict[str, int]:
    """The refusals of the last checkpoint by reason, and how many came since."""
    since = values["refused"]["samples"] - sum(known.values())
    return known | ({"since the last checkpoint": since} if since > 0 else {})
