"""How embeddings lie: on a plane by time, by event or by label, and one view against another."""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.knn import unit_rows
from marey.pipeline.report.charts import (
    CATEGORIES,
    heat_image,
    scatter_map,
    time_colours,
    time_gradient,
)
from marey.pipeline.report.choose import PairedEvent, rows_of, spread
from marey.pipeline.report.page import Section, figure, grid, picture

_MAP_FRAMES = 900
"""Frames drawn on a map."""


def _share_of_event(embeddings: Embeddings) -> NDArray[np.float64]:
    """Each frame's time as a share of its event, [n] in [0, 1]."""
    share = np.zeros(len(embeddings))
    for event in np.unique(embeddings.event):
        rows = embeddings.event == event
        time_s = embeddings.time_s[rows]
        share[rows] = (time_s - time_s.min()) / max(float(np.ptp(time_s)), 1e-9)
    return share


def project(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], str]:
    """Features [n, D] on a plane, float64 [n, 2], and the name of the method that put them there.

    t-SNE where there are enough frames for it, else the first two principal components.
    """
    count, width = features.shape
    if count < 50 or width < 3:
        flat = PCA(n_components=min(2, width, count)).fit_transform(features.astype(np.float64))
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))), "PCA"
    reduced = features.astype(np.float64)
    if width > 50:
        reduced = PCA(n_components=min(50, count), random_state=0).fit_transform(reduced)
    perplexity = min(30.0, count / 4)
    # its threads spin while they wait, which takes minutes on a machine that is busy otherwise
    with threadpool_limits(1, user_api="openmp"):
        placed = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return np.asarray(placed, np.float64), f"t-SNE, perplexity {perplexity:.0f}"


def map_section(sides: list[tuple[str, Embeddings]], timed: bool) -> Section:
    """Each side's frames on a plane, coloured by time and event, or by label where not `timed`."""
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
        f"{len(chosen):,} frames, {method}. Neighbours on the map are neighbours in the "
        f"embedding; {reading}"
    )
    return Section("Map", legend + grid([*charts, *classed], smallest=240), intro)


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
    charts = []
    for name, embeddings in sides:
        for event, first, second in spread(paired, 3):
            unit = unit_rows(embeddings.features)
            rows, columns = rows_of(embeddings, event, first), rows_of(embeddings, event, second)
            image = heat_image(unit[rows] @ unit[columns].T)
            text = f"{event}, {name}: view {first} downwards, view {second} across"
            charts.append(figure(picture(image, text), text))
    return Section(
        "Two views of one event",
        grid(charts, smallest=300),
        "Cosine between every moment of one view and every moment of the other; bright is alike. "
        "An embedding that knows the moment whatever the camera shows one bright diagonal.",
    )
