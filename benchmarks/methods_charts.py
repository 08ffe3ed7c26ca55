"""What do the results and the curves of `benchmarks.methods` look like? Small SVG files."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.methods_results import (
    HELD_OUT,
    Arm,
    Result,
    chance_levels,
    less_is_better,
    probe_lines,
    training_lines,
)
from benchmarks.methods_table import spread
from marey.pipeline.report.charts import Curve, line_chart, svg, thinned, ticks
from marey.pipeline.report.page import number
from marey.pipeline.report.standalone import standalone
from marey.pipeline.training.record import UNTRAINED

MOST_POINTS = 200
"""Points of one curve, so that its file stays a few KiB."""
PROBED = ("alignment_error", "knn_accuracy")
"""What is drawn of a run's probe: the first of these that it has."""

_NAMES, _BARS, _VALUES, _GAP = 128, 150, 96, 14
_TOP, _ROW, _AXIS = 26, 20, 34


@dataclass(frozen=True, slots=True)
class Bar:
    """One preset's figure in every seed, where it started, and what chance would have."""

    name: str
    values: Sequence[float | None]
    untrained: Sequence[float | None]
    chance: float | None


def plot(rows: dict[str, list[Result]], levels: Mapping[str, float]) -> str:
    """An SVG document: a bar a preset for each figure, its untrained value and chance as lines.

    levels: chance by figure, for results that do not hold it. Figures that are metrics of the
    presets' own (`HELD_OUT`) have a chart for each metric.
    """
    figures = next(iter(rows.values()))[0]["figures"]
    if HELD_OUT in figures:
        metrics = dict.fromkeys(results[0]["metric"] for results in rows.values())
        charts = []
        for metric in metrics:
            those = {n: results for n, results in rows.items() if results[0]["metric"] == metric}
            charts.append(bar_columns({metric: _bars(those, HELD_OUT, levels)}))
        return standalone(charts)
    columns = {name: _bars(rows, name, levels) for name in figures}
    measured = {
        name: bars for name, bars in columns.items() if any(_known(bar.values) for bar in bars)
    }
    return standalone([bar_columns(measured)])


def _bars(rows: dict[str, list[Result]], name: str, levels: Mapping[str, float]) -> list[Bar]:
    return [
        Bar(
            preset,
            [result["figures"][name] for result in results],
            [result[UNTRAINED][name] for result in results],
            results[0]["chance"].get(name, levels.get(name)),
        )
        for preset, results in rows.items()
    ]


def bar_columns(columns: Mapping[str, Sequence[Bar]]) -> str:
    """Charts side by side with the same bars in each: their names stand once, at the left."""
    bars = next(iter(columns.values()))
    step = _BARS + _VALUES + _GAP
    bottom = _TOP + _ROW * len(bars)
    parts = [
        f'<text x="{_NAMES - 8}" y="{_TOP + _ROW * row + 14}" text-anchor="end">'
        f"{escape(bar.name)}</text>"
        for row, bar in enumerate(bars)
    ]
    for place, (title, those) in enumerate(columns.items()):
        parts += _bar_column(title, those, _NAMES + place * step, bottom)
    parts += _legend(bottom + _AXIS + 4)
    return svg(_NAMES + len(columns) * step - _GAP, bottom + _AXIS + 16, parts, ", ".join(columns))


def _bar_column(title: str, bars: Sequence[Bar], left: int, bottom: int) -> list[str]:
    """One chart: axis, bars from 0, and over each its marks."""
    seen = [0.0, *(v for bar in bars for v in [*_known(bar.values), *_known(bar.untrained)])]
    seen += [bar.chance for bar in bars if bar.chance is not None]
    low, high = min(seen), max(seen)
    high = high if high > low else low + 1.0

    def px(value: float) -> float:
        return left + (value - low) / (high - low) * _BARS

    better = "less is better" if less_is_better(title) else "more is better"
    parts = [
        f'<text class="title" x="{left}" y="13">{escape(title)}'
        f'<tspan style="font-weight:400;font-size:11px;fill:var(--soft)"> {better}</tspan></text>'
    ]
    for value in ticks(low, high, 3):
        x = px(value)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" stroke="var(--grid)"/>'
            f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{number(value)}</text>'
        )
    for row, bar in enumerate(bars):
        y = _TOP + _ROW * row
        values = _known(bar.values)
        if not values:
            continue
        mean, start = statistics.mean(values), px(0.0)
        x, width = min(start, px(mean)), max(abs(px(mean) - start), 1.0)
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="12" rx="1.5" '
            'fill="var(--c0)" fill-opacity=".5"/>'
        )
        if len(values) > 1:
            deviation = statistics.stdev(values)
            ends = [px(min(max(v, low), high)) for v in (mean - deviation, mean + deviation)]
            parts.append(
                f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y + 10}" y2="{y + 10}" '
                'stroke="var(--ink)"/>'
            )
        if untrained := _known(bar.untrained):
            parts.append(_mark(px(statistics.mean(untrained)), y, _UNTRAINED))
        if bar.chance is not None:
            parts.append(_mark(px(bar.chance), y, _CHANCE))
        parts.append(
            f'<text class="end" x="{left + _BARS + 7}" y="{y + 14}">{spread(values)}</text>'
        )
    return parts


_UNTRAINED = 'stroke="var(--c1)" stroke-width="2"'
_CHANCE = 'stroke="var(--chance)" stroke-width="1.5" stroke-dasharray="4 3"'


def _mark(x: float, y: float, style: str) -> str:
    """A line across one row; rows of one level join to one line."""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + _ROW}" {style}/>'


def _legend(y: int) -> list[str]:
    parts, x = [], _NAMES
    for text, style in (("untrained", _UNTRAINED), ("chance", _CHANCE)):
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{y - 10}" y2="{y + 4}" {style}/>'
            f'<text x="{x + 7}" y="{y + 1}">{text}</text>'
        )
        x += 80
    return parts


def write_curves(arms: Sequence[Arm], folder: Path) -> list[Path]:
    """One SVG a preset: its pretext metric over steps beside chance, and its probe if it had one.

    Curves of several seeds are their mean. Returns the files, `FOLDER/PRESET.svg`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for preset in dict.fromkeys(arm.preset for arm in arms):
        runs = [arm.run for arm in arms if arm.preset == preset]
        levels = chance_levels(runs[0])
        training = [training_lines(run) for run in runs]
        metric = next((name for name in levels if name in training[0][-1]), "loss")
        charts = [_curve(f"{preset}: {_words(metric)}", training, metric, levels.get(metric))]
        probes = [probe_lines(run) for run in runs]
        probed = next((name for name in PROBED if all(p and name in p[-1] for p in probes)), None)
        if probed:
            charts.append(_curve(f"probe: {_words(probed)}", probes, probed, levels.get(probed)))
        path = folder / f"{preset}.svg"
        path.write_text(standalone(charts, across=2))
        written.append(path)
    return written


def _curve(
    title: str, runs: Sequence[list[dict[str, Any]]], metric: str, chance: float | None
) -> str:
    lines = [[line for line in run if line.get(metric) is not None] for run in runs]
    steps = [np.array([line["step"] for line in run], dtype=np.float64) for run in lines]
    values = [np.array([line[metric] for line in run], dtype=np.float64) for run in lines]
    # seeds are logged at the same steps, unless one was resumed
    mean = np.mean([np.interp(steps[0], x, y) for x, y in zip(steps, values, strict=True)], axis=0)
    return line_chart(title, [Curve(metric, *thinned(steps[0], mean, MOST_POINTS))], chance=chance)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
