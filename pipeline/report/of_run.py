"""What a training run shows: did it learn, did it wait, what did it see, how was it set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.configs.load import flat
from marey.pipeline.report.charts import Curve, line_chart
from marey.pipeline.report.page import (
    Section,
    details,
    duration,
    figure,
    grid,
    long_table,
    note,
    number,
    picture,
    table,
    tiles,
)
from marey.pipeline.report.sample_strips import sample_strips
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.record import (
    METRICS,
    NOT_SAMPLED,
    PICTURES,
    SAMPLES,
    SUMMARY,
    UNTRAINED,
    read_arrays,
    read_metrics,
    warnings_in,
)

_TIMES = ("time_copy", "time_augment", "time_forward", "time_backward", "time_update")
"""Shares of the time that the parts of a step took."""
_NOT_METRICS = frozenset(
    ["step", "total", "epoch", "time_s", "probe", "data_wait", "samples_per_s", *_TIMES]
)
_SHOWN_SAMPLES = 6


def run_sections(location: str) -> tuple[str, str, list[Section]]:
    """Title, subtitle and sections of a run folder. Raises InputError when it has no metrics."""
    run = Folder(location)
    if not run.exists(METRICS):
        raise InputError(f"{location}: no {METRICS}, so it is no run folder")
    lines = read_metrics(run)
    config = yaml.safe_load(run.read("config.yaml")) if run.exists("config.yaml") else {}
    chance = json.loads(run.read("chance.json")) if run.exists("chance.json") else {}
    training = [line for line in lines if "loss" in line]
    probes = [line for line in lines if "probe" in line]
    if not training:
        raise InputError(f"{location}: the run has not logged a step yet")
    settings = config.get("config", config)
    title = f"{settings.get('name', 'run')}: {PurePosixPath(location.rstrip('/')).name}"
    data = config.get("provenance", {}).get("data", "")
    last = training[-1]
    subtitle = (
        f"Step {last['step']:,} of {last.get('total', last['step']):,}, {duration(last['time_s'])}"
    )
    sections = [Section("Result", _headline(training, probes, chance))]
    if warnings := warnings_in(lines):
        sections.append(Section("Warnings", "".join(map(note, warnings))))
    if refused := _refused(run):
        sections.append(
            Section(
                "Refused",
                refused,
                "What gave no sample, and why; everything else was trained on.",
            )
        )
    if probes:
        sections.append(
            Section(
                "Probe",
                _curves([{"step": p["step"], **p["probe"]} for p in probes], chance, dots=True),
                "The encoder on held-out data, in eval mode, as training went on. The dashed line "
                "is what random matching scores.",
            )
        )
    sections.append(
        Section(
            "Training",
            _curves(training, chance),
            "Means over the steps since the line before. The dashed line is the level of chance.",
        )
    )
    sections.append(Section("Speed", _speed(training)))
    pictures = read_arrays(run, PICTURES)
    if pictures:
        sections.append(
            Section(
                "Pictures",
                _pictures(pictures, read_arrays(run, f"{UNTRAINED}/{PICTURES}")),
                "What the method makes of the run's first samples, before the first step and at "
                "the last look.",
            )
        )
    samples = read_arrays(run, SAMPLES)
    if samples:
        kind = settings.get("method", {}).get("sampling", {}).get("kind", "")
        sections.append(
            Section(
                "Samples",
                sample_strips(samples, kind, range(1, _SHOWN_SAMPLES + 1)),
                "The first samples of the run, as the trainer got them, before augmentation.",
            )
        )
    rows = [(name, str(value)) for name, value in flat(config).items()]
    sections.append(Section("Settings", details(f"{len(rows)} settings", table(("", ""), rows))))
    return title, f"{subtitle}, on {data}" if data else subtitle, sections


def _refused(run: Folder) -> str:
    """Events that the sampler refused, then samples that could not be read; "" for neither."""
    events = json.loads(run.read(NOT_SAMPLED)) if run.exists(NOT_SAMPLED) else {}
    samples = json.loads(run.read(SUMMARY))["refused"] if run.exists(SUMMARY) else {}
    rows = [("event", why, number(count)) for why, count in events.items()]
    rows += [("sample", why, number(count)) for why, count in samples.items()]
    place = f"{NOT_SAMPLED} and {SUMMARY}"
    return long_table(("what", "reason", "count"), rows, place) if rows else ""


def _headline(
    training: list[dict[str, Any]], probes: list[dict[str, Any]], chance: Mapping[str, float]
) -> str:
    last = training[-1]
    values = [(number(last["loss"]), "loss", f"from {number(training[0]['loss'])}")]
    if probes:
        first, final = probes[0]["probe"], probes[-1]["probe"]
        for name, value in final.items():
            if name in chance or name.endswith(("error", "accuracy")):
                remark = f"from {number(first.get(name, float('nan')))}"
                if name in chance:
                    remark += f", chance {number(chance[name])}"
                values.append((number(value), f"probe {_words(name)}", remark))
    rates = _later([line["samples_per_s"] for line in training if "samples_per_s" in line])
    if rates:
        values.append((number(float(np.mean(rates))), "samples/s", "after the start"))
    waits = _later([line["data_wait"] for line in training if "data_wait" in line])
    if waits:
        values.append(
            (f"{100 * float(np.mean(waits)):.1f} %", "waiting for data", "after the start")
        )
    values.append((duration(last["time_s"]), "time", f"{last['step']:,} steps"))
    return tiles(values)


def _later(values: list[float]) -> list[float]:
    """All but the first value, which holds the start of the pipeline."""
    return values[1:] or values


def _curves(lines: list[dict[str, Any]], chance: Mapping[str, float], *, dots: bool = False) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    # what can be read against chance comes first, then the loss
    names.sort(key=lambda name: (name not in chance, name != "loss"))
    charts = []
    for name in names:
        if name in _NOT_METRICS:
            continue
        rows = [line for line in lines if isinstance(line.get(name), int | float)]
        x = np.array([line["step"] for line in rows], dtype=np.float64)
        y = np.array([line[name] for line in rows], dtype=np.float64)
        # a metric that never moves (a count of refusals at 0) says nothing as a curve
        if len(y) == 0 or (len(y) > 2 and np.ptp(y) == 0 and name not in chance):
            continue
        chart = line_chart(_words(name), [Curve(name, x, y)], chance=chance.get(name), dots=dots)
        if chart:
            charts.append(figure(chart))
    return grid(charts)


def _speed(training: list[dict[str, Any]]) -> str:
    charts = []
    for name, title, unit, scale in (
        ("samples_per_s", "samples per second", "", 1.0),
        ("data_wait", "share of time waiting for data", "%", 100.0),
    ):
        rows = [line for line in training if name in line]
        if rows:
            x = np.array([line["step"] for line in rows], dtype=np.float64)
            y = np.array([line[name] for line in rows], dtype=np.float64) * scale
            charts.append(figure(line_chart(title, [Curve(name, x, y)], unit=unit, floor=0.0)))
    rows = [line for line in training if all(name in line for name in _TIMES)]
    if rows:
        x = np.array([line["step"] for line in rows], dtype=np.float64)
        parts = [
            Curve(name.removeprefix("time_"), x, np.array([100.0 * line[name] for line in rows]))
            for name in _TIMES
        ]
        chart = line_chart("share of time by part of a step", parts, unit="%", floor=0.0)
        charts.append(figure(chart))
    return grid(charts) + note(
        "The first value holds the start: workers, decoders and the first batch."
    )


def _pictures(pictures: dict[str, NDArray[Any]], before: dict[str, NDArray[Any]]) -> str:
    """A strip a sample: each picture, beside it that of step 0 where it looks different."""
    count = min(_SHOWN_SAMPLES, *(len(images) for images in pictures.values()))
    strips = []
    for index in range(count):
        cells = []
        for name, images in pictures.items():
            old = before.get(name)
            if old is not None and not np.array_equal(old[index], images[index]):
                cells.append(f"<div>{picture(old[index], name)}{escape(name)}, untrained</div>")
            cells.append(f"<div>{picture(images[index], name)}{escape(name)}</div>")
        strips.append(f'<div class="strip" style="--cell:128px">{"".join(cells)}</div>')
    return figure("".join(strips), wide=True)


def _words(name: str) -> str:
    return name.replace("_", " ")
