"""What embeddings show: figures against a baseline, a map, and what each frame finds elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from marey.configs.errors import InputError, MareyError
from marey.pipeline.data.source import Source
from marey.pipeline.embedding.embeddings import Embeddings, load_embeddings
from marey.pipeline.evaluate.run import run_eval
from marey.pipeline.report.answer import answer
from marey.pipeline.report.choose import paired_events
from marey.pipeline.report.maps import map_section, matrix_section
from marey.pipeline.report.matches import across_views_section, elsewhere_section
from marey.pipeline.report.page import Section, number, table, tiles
from marey.pipeline.report.pictures import Fetch, open_fetch
from marey.pipeline.report.thumbnails import source_of


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the table of figures."""

    protocol: str
    figure: str
    title: str
    meaning: str
    higher_is_better: bool | None
    """None where neither is better by itself."""
    chance: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()


_ROWS = (
    _Row(
        "alignment", "alignment_error", "alignment error",
        "how far in time the nearest frame of the other view is, as a share of the event",
        False, "alignment_chance",
    ),
    _Row(
        "retrieval", "hit@1", "same moment found",
        "the nearest frame of the other view is within 0.2 s",
        True, "chance@1", (("task", "temporal"),),
    ),
    _Row(
        "alignment", "kendall_tau", "Kendall's tau",
        "nearest frames in another video keep the order of time", True,
    ),
    _Row(
        "alignment", "phase_error", "phase error",
        "the nearest frame of another event shows another phase, mean over phases",
        False, "phase_error_chance",
    ),
    _Row(
        "knn", "accuracy", "kNN accuracy",
        "the 20 nearest frames of other events tell the label", True, "accuracy_chance",
    ),
    _Row("geometry", "rankme", "RankMe", "effective number of dimensions in use", None),
    _Row(
        "geometry", "mean_cosine", "mean cosine",
        "of frames of two videos; near 1 all point the same way", None,
    ),
)  # fmt: skip


def embedding_sections(
    location: str,
    *,
    baseline: str | None = None,
    labels: str | None = None,
    fetch: Fetch | None = None,
) -> tuple[str, str, list[Section]]:
    """Title, subtitle and sections of a folder of embeddings, beside a baseline where given."""
    trained = load_embeddings(location)
    sides = [("trained", trained)]
    if baseline is not None:
        sides.append(("untrained", matched(load_embeddings(baseline), trained)))
    if fetch is None:
        fetch = _own_fetch(trained)
    first, figures = _figures(location, baseline, labels)
    sections = [Section("Figures", first + _headline(trained) + figures)]
    timed = len(np.unique(trained.video_id)) < len(trained)
    sections.append(map_section(sides, timed, _source(trained)))
    paired = timed and paired_events(trained)
    if paired:
        sections.append(matrix_section(sides, paired))
        sections.append(across_views_section(sides, paired, fetch))
    sections.append(elsewhere_section(sides, fetch, timed))
    name = PurePosixPath(location.rstrip("/")).name
    encoder = trained.meta.get("encoder", "")
    subtitle = f"{len(trained):,} frames" + (f" by the encoder {encoder}" if encoder else "")
    return f"Embeddings: {name}", subtitle, [s for s in sections if s.body]


def _source(embeddings: Embeddings) -> Source | None:
    """What was embedded; None where it is gone."""
    try:
        return source_of(embeddings, None)
    except MareyError:
        return None


def _own_fetch(embeddings: Embeddings) -> Fetch | None:
    data = embeddings.meta.get("data")
    if not data:
        return None
    try:
        return open_fetch(str(data))
    except MareyError:
        return None


def matched(baseline: Embeddings, trained: Embeddings) -> Embeddings:
    """The baseline's rows in the order of the trained ones. Raises InputError where some lack."""
    place = {key: i for i, key in enumerate(zip(baseline.video_id, baseline.frame, strict=True))}
    wanted = list(zip(trained.video_id, trained.frame, strict=True))
    absent = [key for key in wanted if key not in place]
    if absent:
        raise InputError(
            f"the baseline lacks {len(absent)} of {len(wanted)} frames "
            f"(e.g. frame {absent[0][1]} of {absent[0][0]}): embed the same index at the same rate"
        )
    return baseline.take(np.array([place[key] for key in wanted]))


def _headline(embeddings: Embeddings) -> str:
    videos = len(np.unique(embeddings.video_id))
    events = len(np.unique(embeddings.event))
    digest = str(embeddings.meta.get("encoder_sha256") or "")[:8]
    return tiles(
        [
            (number(len(embeddings)), "frames", ""),
            (number(videos), "videos", f"{events} events"),
            (number(embeddings.features.shape[1]), "dimensions", ""),
            (digest or "unknown", "encoder", "start of its SHA-256" if digest else ""),
        ]
    )


def _figures(location: str, baseline: str | None, labels: str | None) -> tuple[str, str]:
    """The answer in a sentence, and a table of the figures that these embeddings allow."""
    results: dict[str, dict[str, Any]] = {}
    lines = []
    for row in _ROWS:
        if row.protocol not in results:
            results[row.protocol] = _try(row, location, baseline, labels)
        result = results[row.protocol]
        figures, other = result["figures"], result.get("baseline", {})
        if row.figure not in figures:
            continue
        cells = [row.title, f"<b>{number(figures[row.figure])}</b>"]
        if baseline is not None:
            cells.append(number(other[row.figure]))
        cells += [
            number(figures[row.chance]) if row.chance in figures else "",
            {True: "higher", False: "lower", None: ""}[row.higher_is_better],
            row.meaning,
        ]
        lines.append(cells)
    header = ["", "trained", *(["untrained"] if baseline else []), "chance", "better is", "meaning"]
    if not lines:
        return "", ""
    return _answer(results, baseline is not None), table(header, lines, raw=frozenset([1]))


def _answer(results: dict[str, dict[str, Any]], compared: bool) -> str:
    """In one sentence: is the first figure that has a chance level better than that, and than the
    untrained encoder; and what to do next."""
    for row in _ROWS:
        figures = results[row.protocol]["figures"]
        if row.chance not in figures or row.figure not in figures:
            continue
        before = results[row.protocol]["baseline"][row.figure] if compared else None
        return answer(
            row.title, figures[row.figure], figures[row.chance], before,
            higher_is_better=bool(row.higher_is_better),
        )  # fmt: skip
    return ""


def _try(row: _Row, location: str, baseline: str | None, labels: str | None) -> dict[str, Any]:
    """The protocol's result, or no figures where these embeddings do not allow it."""
    settings = dict(row.settings)
    try:
        return run_eval(row.protocol, location, labels=labels, baseline=baseline, **settings)
    except MareyError:
        return {"figures": {}}
