"""What each frame finds: the same moment from another camera, and the nearest frames elsewhere."""

from __future__ import annotations

import numpy as np

from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.alignment import nearest
from marey.pipeline.evaluate.knn import unit_rows
from marey.pipeline.report.choose import PairedEvent, rows_of, spread
from marey.pipeline.report.page import Section, note, picture, table
from marey.pipeline.report.pictures import Fetch, try_fetch

_MATCHES = 8
"""Rows of pictures across views."""


def across_views_section(
    sides: list[tuple[str, Embeddings]],
    paired: list[PairedEvent],
    fetch: Fetch | None,
) -> Section:
    """For a frame of one view: the true moment and what each side finds in the other view."""
    trained = sides[0][1]
    rng = np.random.default_rng(0)
    events = spread(paired, _MATCHES)
    lines = []
    for index in range(_MATCHES):
        event, first, second = events[index % len(events)]
        rows, columns = rows_of(trained, event, first), rows_of(trained, event, second)
        query = int(rows[int((index + 0.5) / _MATCHES * len(rows))])
        time_s = float(trained.time_s[query])
        true = int(columns[np.abs(trained.time_s[columns] - time_s).argmin()])
        cells = [
            _picture_of(trained, query, fetch, f"{time_s:.2f} s"),
            _picture_of(trained, true, fetch, f"{trained.time_s[true]:.2f} s"),
        ]
        for _, embeddings in sides:
            features = embeddings.features
            found = int(columns[nearest(features[[query]], features[columns], rng)[0]])
            off = float(trained.time_s[found]) - time_s
            near = abs(off) <= 0.05 * float(np.ptp(trained.time_s[rows])) + 1e-6
            mark = f'<span class="{"good" if near else "bad"}">{off:+.2f} s</span>'
            cells.append(_picture_of(trained, found, fetch, "") + mark)
        lines.append([event, *cells])
    header = ["event", "query", "same moment, other view", *(f"found, {name}" for name, _ in sides)]
    body = f'<div class="pictures">{table(header, lines, raw=frozenset(range(1, 9)))}</div>'
    return Section(
        "The same moment from the other view",
        body + note("Green: within 5 % of the event's length of the true moment."),
        "For a frame of one view, the nearest frame of the other view of the same event.",
    )


def _picture_of(embeddings: Embeddings, row: int, fetch: Fetch | None, text: str) -> str:
    """A frame with text under it; the text alone where the frame cannot be had."""
    video, time_s = str(embeddings.video_id[row]), float(embeddings.time_s[row])
    image = try_fetch(fetch, video, time_s)
    about = f"{embeddings.event[row]}, view {embeddings.view[row]}, {time_s:.2f} s"
    return (picture(image, about) if image is not None else "") + text


def elsewhere_section(
    sides: list[tuple[str, Embeddings]], fetch: Fetch | None, timed: bool
) -> Section:
    """The nearest frames in other events, for a few queries."""
    trained = sides[0][1]
    events = np.unique(trained.event)
    if fetch is None or len(events) < 2:
        return Section("Nearest frames elsewhere", "")
    unit = unit_rows(trained.features)
    lines = []
    for index, event in enumerate(spread(events.tolist(), 6)):
        own = np.flatnonzero(trained.event == event)
        query = int(own[int((index + 0.5) / 6 * len(own))])
        similarity = unit @ unit[query]
        similarity[own] = -np.inf
        cells = [_picture_of(trained, query, fetch, _about(trained, query, timed))]
        used: set[str] = set()
        for row in np.argsort(-similarity, kind="stable"):
            # one frame a video, or neighbours in time would fill the row
            if str(trained.video_id[row]) in used or not np.isfinite(similarity[row]):
                continue
            used.add(str(trained.video_id[row]))
            cells.append(_picture_of(trained, int(row), fetch, _about(trained, int(row), timed)))
            if len(used) == 5:
                break
        lines.append(cells)
    columns = max(len(cells) for cells in lines)
    header = ("query", "1st", "2nd", "3rd", "4th", "5th")[:columns]
    lines = [cells + [""] * (columns - len(cells)) for cells in lines]
    body = f'<div class="pictures">{table(header, lines, raw=frozenset(range(6)))}</div>'
    what = "frames of other events, one a video" if timed else "images"
    return Section("Nearest frames elsewhere", body, f"A frame and its nearest {what}.")


def _about(embeddings: Embeddings, row: int, timed: bool) -> str:
    if timed:
        return f"{embeddings.event[row]}, {float(embeddings.time_s[row]):.1f} s"
    return "" if embeddings.label is None else f"label {embeddings.label[row]}"
