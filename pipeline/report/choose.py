"""Which frames a page shows: a few, evenly spread, in the order of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from marey.pipeline.embedding.embeddings import Embeddings

PairedEvent = tuple[str, str, str]
"""(event, first view, second view)."""
T = TypeVar("T")


def paired_events(embeddings: Embeddings) -> list[PairedEvent]:
    """The events that two views saw, with the first two of their views."""
    found = []
    for event in np.unique(embeddings.event):
        views = np.unique(embeddings.view[embeddings.event == event])
        if len(views) > 1:
            found.append((str(event), str(views[0]), str(views[1])))
    return found


def rows_of(embeddings: Embeddings, event: str, view: str) -> NDArray[np.int64]:
    """Rows of one view of an event, by time."""
    rows = np.flatnonzero((embeddings.event == event) & (embeddings.view == view))
    return rows[np.argsort(embeddings.time_s[rows], kind="stable")]


def spread(values: Sequence[T], count: int) -> list[T]:
    """At most `count` of the values, evenly spread from the first to the last."""
    index = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))
    return [values[i] for i in index]
