"""What is counted of the work, for Prometheus: through Ray's metrics, where a process is Ray's.

Every node of a Ray cluster offers them beside Ray's own (docs/running.md). Elsewhere counting costs
nothing and does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

COUNTERS = {
    "marey_frames_decoded": "Frames that were decoded and given on.",
    "marey_units_read": "Units of work that were read to their end.",
    "marey_refused": "Samples or frames that were refused, or left open, by reason.",
    "marey_rows_written": "Rows of embeddings or shards that were written.",
    "marey_samples_trained": "Samples that were trained on.",
    "marey_restarts": "Processes that were started in place of lost ones, by their stage.",
}
GAUGES = {
    "marey_step": "Optimiser steps done.",
    "marey_steps_total": "Optimiser steps of the whole run.",
    "marey_loss": "The loss, mean since the last line of metrics.",
    "marey_samples_per_s": "Samples per second of all training processes.",
    "marey_data_wait_share": "Share of the time in which the trainer waited for data.",
    "marey_shuffle_buffer_samples": "Samples that wait in a trainer's shuffle buffer.",
}
_KEYS = {"marey_refused": ("reason",), "marey_restarts": ("stage",)}
AGAIN_S = 5.0
"""Ray forgets a gauge that was not set for 20 s: while work is counted, all are set again."""
_made: dict[str, Any] | None = None
_shown: dict[str, float] = {}
_again = 0.0
"""When gauges are to be set again, by the monotonic clock."""


def export_here() -> None:
    """Export what this process counts, if it is one of Ray's."""
    global _made
    import ray

    if _made is None and ray.is_initialized():
        from ray.util.metrics import Counter, Gauge

        _made = {
            name: Counter(name, text, tag_keys=_KEYS.get(name, ()))
            for name, text in COUNTERS.items()
        }
        _made |= {name: Gauge(name, text) for name, text in GAUGES.items()}


def count(name: str, number: float = 1, **tags: str) -> None:
    """Add to a counter."""
    global _again
    if _made is None:
        return
    if number > 0:
        _made[name].inc(number, tags or None)
    if time.monotonic() >= _again:
        _again = time.monotonic() + AGAIN_S
        for gauge, value in _shown.items():
            _made[gauge].set(value)


def show(name: str, value: float) -> None:
    """Set a gauge."""
    if _made is not None:
        _shown[name] = value
        _made[name].set(value)


def count_rows(rows: Mapping[str, np.ndarray]) -> None:
    """Count what a stage gives: frames, refusals, rows written."""
    if _made is None:
        return
    frames = rows.get("frames")
    if frames is not None and frames.dtype != object and frames.ndim >= 4:
        # [n, (F,) H, W, 3]: rows without frames are of refused samples
        count("marey_frames_decoded", int(np.prod(frames.shape[:-3])))
    for column in ("refused", "open"):
        if column in rows:
            _count_reasons(map(str, rows[column]))
    if "rows" in rows:
        count("marey_rows_written", float(np.sum(rows["rows"])))


def _count_reasons(reasons: Iterable[str]) -> None:
    for reason in reasons:
        if reason:
            # what stands behind a colon names a file: a series each would be too many
            count("marey_refused", reason=reason.partition(":")[0][:60])
