"""How embeddings lie: on a plane by time, by event or by label, and one view against another."""

from __future__ import annotations

import json
import math
from html import escape

import numpy as np
from numpy.typing import NDArray

from marey.pipeline.data.source import Source
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.knn import unit_rows
from marey.pipeline.report.charts import (
    CATEGORIES,
    scatter_map,
    time_colours,
    time_gradient,
)
from marey.pipeline.report.choose import PairedEvent, rows_of, spread
from marey.pipeline.report.heat import heat_map, heat_range
from marey.pipeline.report.page import Section, figure, grid, picture
from marey.pipeline.report.projection import project
from marey.pipeline.report.thumbnails import sheet

_MAP_FRAMES = 900
"""Frames drawn on a map."""
_THUMBNAIL = 64
"""Longer side in pixels of what pointing at a frame shows."""


def _share_of_event(embeddings: Embeddings) -> NDArray[np.float64]:
    """Each frame's time as a share of its event, [n] in [0, 1]."""
    share = np.zeros(len(embeddings))
    for event in np.unique(embeddings.event):
        rows = embeddings.event == event
        time_s = embeddings.time_s[rows]
        share[rows] = (time_s - time_s.min()) / max(float(np.ptp(time_s)), 1e-9)
    return share


def map_section(
    sides: list[tuple[str, Embeddings]], timed: bool, source: Source | None = None
) -> Section:
    """Each side's frames on a plane, coloured by time and event, or by label where not `timed`.

    source: what was embedded: pointing at a frame then shows it.
    """
    trained = sides[0][1]
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(trained))[:_MAP_FRAMES])
    share = _share_of_event(trained)[chosen]
    by_class, classes = _class_colours(trained, chosen, timed)
    charts, classed, method = [], [], ""
    for name, embeddings in sides:
        points, method = project(unit_rows(embeddings.features[chosen]))
        if timed:
            charts.append(figure(scatter_map(f"{name}, by time", points, time_colours(share))))
        if not timed or classes:
            what = "by event" if timed else "by label" if classes else "all frames"
            classed.append(figure(scatter_map(f"{name}, {what}", points, by_class)))
    if timed:
        scale = f'<i style="background:{time_gradient()}"></i>'
        legend = f'<div class="legend">start of the event{scale}end</div>'
        reading = "where it follows the state, colours run smoothly and events mix."
    else:
        dots = "".join(
            f'<i class="dot" style="background:{colour}"></i>{escape(name)}'
            for name, colour in classes
        )
        legend = f'<div class="legend many">{dots}</div>' if classes else ""
        reading = "where it follows the label, colours gather."
    intro = (
        f"{_count(len(chosen), len(trained))}, {method}. Point at one to see it. Neighbours on the "
        f"map are neighbours in the embedding; {reading}"
    )
    body = legend + grid([*charts, *classed], smallest=300)
    return Section("Map", body + _frames(trained.take(chosen), source), intro)


def _frames(embeddings: Embeddings, source: Source | None) -> str:
    """What pointing at a map shows of its frames: their texts, and a sheet with their pictures."""
    texts = []
    for row in range(len(embeddings)):
        label = None if embeddings.label is None else embeddings.label[row]
        about = f"{embeddings.video_id[row]}, {float(embeddings.time_s[row]):.2f} s"
        texts.append(about + ("" if label is None else f", label {label}"))
    shown, across = "", math.ceil(math.sqrt(len(embeddings)))
    if source is not None:
        image = sheet(embeddings, source, across, _THUMBNAIL)
        shown = picture(image, "the frames of the maps, shown one by one where they are pointed at")
    return (
        f'<div id="frames" hidden data-side="{_THUMBNAIL}" data-across="{across}" '
        f"data-texts='{escape(json.dumps(texts))}'>{shown}</div>"
    )


def _count(drawn: int, there: int) -> str:
    """How many frames a map shows, and of how many."""
    return f"{drawn:,} frames" + (f" of {there:,}, drawn evenly" if drawn < there else "")


def _class_colours(
    embeddings: Embeddings, chosen: NDArray[np.int64], timed: bool
) -> tuple[list[str], list[tuple[str, str]]]:
    """A colour for each chosen frame by event (or label), and the legend."""
    values = embeddings.event if timed else embeddings.label
    if values is None:
        return ["var(--c0)"] * len(chosen), []
    names = sorted({str(value) for value in values})
    colour = {name: CATEGORIES[i % len(CATEGORIES)] for i, name in enumerate(names)}
    legend = [(name, colour[name]) for name in names[: len(CATEGORIES)]]
    return [colour[str(values[i])] for i in chosen], legend


def matrix_section(sides: list[tuple[str, Embeddings]], paired: list[PairedEvent]) -> Section:
    """Cosine of every moment of one view with every moment of the other, for a few events."""
    found = []
    for name, embeddings in sides:
        unit = unit_rows(embeddings.features)
        for event, first, second in spread(paired, 3):
            rows, columns = rows_of(embeddings, event, first), rows_of(embeddings, event, second)
            times_s = embeddings.time_s[rows], embeddings.time_s[columns]
            cosines = unit[rows] @ unit[columns].T
            found.append((f"{event}, {name}", cosines, times_s, (first, second)))
    scale = heat_range([cosines for _, cosines, _, _ in found])
    charts = [
        figure(heat_map(title, cosines, times_s, views, scale))
        for title, cosines, times_s, views in found
    ]
    return Section(
        "Two views of one event",
        grid(charts, smallest=300),
        "Cosine between every moment of one view and every moment of the other; bright is alike, "
        "on one scale for all. An embedding that knows the moment whatever the camera shows one "
        "bright diagonal.",
    )
