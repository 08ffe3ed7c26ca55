"""What came out of the runs of `benchmarks.methods`? One `result.json` a preset and seed.

Results written by earlier versions lack some fields; those are read from the run's folder.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.record import read_metrics

HELD_OUT = "held-out pretext"
Figures = dict[str, Any]
Result = dict[str, Any]
"""`figures`, `untrained` and `chance` by name, `metric` (what `HELD_OUT` is), and `training`'s."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One preset with one seed."""

    preset: str
    seed: int
    folder: Path

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "run"

    @property
    def result(self) -> Path:
        """Written last."""
        return self.folder / "result.json"

    def read(self) -> Result:
        """The result, whichever version wrote it."""
        result = json.loads(self.result.read_text())
        if not {"method", "batch_size"} <= result.keys():
            result |= settings(self.run)
        if HELD_OUT in result["figures"] and "metric" not in result:
            levels = chance_levels(self.run)
            result["metric"] = next(iter(levels), "loss")
            result["chance"] = {HELD_OUT: levels.get(result["metric"])}
        return {"chance": {}, **result}


def by_preset(arms: Iterable[Arm]) -> dict[str, list[Result]]:
    """The results of arms that have finished, best preset first.

    Presets are ranked by the mean of their first figure, and where that is a metric of their own
    (`HELD_OUT`) by its gain over chance.
    """
    found: dict[str, list[Result]] = {}
    for arm in arms:
        found.setdefault(arm.preset, []).append(arm.read())
    return dict(sorted(found.items(), key=lambda row: _loss(row[1])))


def _loss(results: list[Result]) -> float:
    """What is least for the best preset."""
    name = next(iter(results[0]["figures"]))
    value = statistics.mean(result["figures"][name] for result in results)
    if name == HELD_OUT:
        value -= results[0]["chance"][name] or 0.0
    return value if less_is_better(results[0].get("metric", name)) else -value


def less_is_better(metric: str) -> bool:
    """Whether a figure counts what goes wrong."""
    return "error" in metric or metric == "loss"


def training(run: Path) -> Result:
    """Steps, their rate, the share of waiting, and the last pretext metric beside its chance."""
    lines = training_lines(run)
    levels = chance_levels(run)
    last = lines[-max(1, len(lines) // 10) :]
    own = [name for name in levels if name in last[-1]]
    steady = lines[len(lines) // 2 :]
    return {
        **settings(run),
        "steps": lines[-1]["step"],
        "seconds": lines[-1]["time_s"],
        "data_wait": statistics.mean(line["data_wait"] for line in steady),
        "samples_per_s": statistics.median(line["samples_per_s"] for line in steady),
        "pretext": {
            name: {"trained": statistics.mean(line[name] for line in last), "chance": levels[name]}
            for name in own[:1]
        },
    }


def settings(run: Path) -> Result:
    """What the table needs of a run's settings."""
    config = yaml.safe_load((run / "config.yaml").read_text())["config"]
    return {"method": config["name"], "batch_size": config["trainer"]["batch_size"]}


def chance_levels(run: Path) -> dict[str, float]:
    """Metrics that the run has a level of chance of; its own before those of its probe."""
    return json.loads((run / "chance.json").read_text())


def training_lines(run: Path) -> list[dict[str, Any]]:
    """The run's metrics without those of its probe."""
    return [line for line in read_metrics(Folder(str(run))) if "loss" in line]


def probe_lines(run: Path) -> list[dict[str, Any]]:
    """The run's probes, `step` beside their metrics."""
    lines = [line for line in read_metrics(Folder(str(run))) if "probe" in line]
    return [{"step": line["step"], **line["probe"]} for line in lines]
