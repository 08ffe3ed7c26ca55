"""Does the comparison of methods say what its result files hold: table, bars and curves?"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.methods import claim
from benchmarks.methods_charts import MOST_POINTS, Bar, bar_columns, plot, write_curves
from benchmarks.methods_results import HELD_OUT, Arm, by_preset, training
from benchmarks.methods_table import table

EVENTS = ("alignment error", "phase error", "Kendall's tau")
SVG = "{http://www.w3.org/2000/svg}"


def _arm(folder: Path, preset: str, seed: int, result: Mapping[str, Any] | None) -> Arm:
    """An arm with a made-up result file and the files of a run that it may be completed from."""
    arm = Arm(preset, seed, folder / f"{preset}-{seed}")
    arm.run.mkdir(parents=True)
    method = {"tcn_single": "tcn"}.get(preset, preset)
    config = f"config: {{name: {method}, trainer: {{batch_size: 8}}}}\n"
    (arm.run / "config.yaml").write_text(config)
    (arm.run / "chance.json").write_text('{"information": 0.0, "top1": 0.25}')
    if result is not None:
        arm.result.write_text(json.dumps(result))
    return arm


def _result(names: tuple[str, ...], values: tuple, untrained: tuple, **more: Any) -> dict[str, Any]:
    """A result as earlier versions wrote it."""
    return {
        "steps": 500,
        "data_wait": 0.05,
        "samples_per_s": 20.8,
        "pretext": {"information": {"trained": 0.719, "chance": 0.0}},
        "figures": dict(zip(names, values, strict=True)),
        "untrained": dict(zip(names, untrained, strict=True)),
        **more,
    }


def test_events_are_a_row_a_preset_least_error_first(tmp_path: Path) -> None:
    start = (0.3, 0.773, 0.024)
    arms = [
        _arm(tmp_path, "tcc", 0, _result(EVENTS, (0.376, 0.641, 0.097), start)),
        _arm(tmp_path, "cpc", 0, _result(EVENTS, (0.25, 0.458, 0.2717), start)),
    ]
    assert table("events", by_preset(arms)).splitlines() == [
        "| preset | steps | alignment error | phase error | Kendall's tau | untrained "
        "| pretext (chance) | steps/s | data wait |",
        "|---|---|---|---|---|---|---|---|---|",
        "| `cpc` | 500 | 0.250 | 0.458 | 0.272 | 0.300 / 0.773 / 0.024 "
        "| information 0.719 (0) | 2.6 | 5% |",
        "| `tcc` | 500 | 0.376 | 0.641 | 0.097 | 0.300 / 0.773 / 0.024 "
        "| information 0.719 (0) | 2.6 | 5% |",
    ]


def test_phases_that_were_not_measured_have_no_column(tmp_path: Path) -> None:
    arms = [_arm(tmp_path, "cpc", 0, _result(EVENTS, (0.25, None, 0.2), (0.3, None, 0.0)))]
    head, _, row = table("events", by_preset(arms)).splitlines()
    assert "phase" not in head
    assert "| 0.300 / 0.000 |" in row


def test_images_of_several_seeds_are_means_with_deviations(tmp_path: Path) -> None:
    names = ("kNN accuracy", "linear accuracy")
    kept = {"method": "rotation", "batch_size": 32, "chance": {}}
    pretext = {"pretext": {"accuracy": {"trained": 0.5714, "chance": 0.25}}}
    arms = [
        _arm(tmp_path, "simclr", 0, _result(names, (0.3, 0.4), (0.2, 0.3))),
        _arm(tmp_path, "rotation", 0, _result(names, (0.4, 0.5), (0.2, 0.3), **kept, **pretext)),
        _arm(tmp_path, "rotation", 1, _result(names, (0.42, 0.5), (0.22, 0.3), **kept, **pretext)),
    ]
    head, _, first, second = table("images", by_preset(arms)).splitlines()
    assert head == (
        "| preset | family | kNN accuracy | linear accuracy | untrained | pretext (chance) "
        "| images/s |"
    )
    assert first == (
        "| `rotation` | context | 0.410 ± 0.014 | 0.500 ± 0.000 | 0.210 ± 0.014 / 0.300 ± 0.000 "
        "| accuracy 0.571 ± 0.000 (0.25) | 21 |"
    )
    assert second.startswith("| `simclr` | contrastive | 0.300 | 0.400 | 0.200 / 0.300 |")


def test_videos_name_their_metric_and_are_ranked_by_their_gain_over_chance(tmp_path: Path) -> None:
    def of(metric: str, value: float, chance: float) -> dict[str, Any]:
        return {"metric": metric, "chance": {HELD_OUT: chance}, "figures": {HELD_OUT: value}}

    old = _result((HELD_OUT,), (0.479,), (-0.452,))
    arms = [
        _arm(tmp_path, "playback_speed", 0,
             _result((HELD_OUT,), (0.0,), (0.5,)) | of("accuracy", 0.6, 0.5)),
        _arm(tmp_path, "masked_frames", 0,
             _result((HELD_OUT,), (0.0,), (1.1,)) | of("relative_error", 0.7, 1.0)),
        _arm(tmp_path, "cpc", 0, old),
    ]  # fmt: skip
    assert table("videos", by_preset(arms)).splitlines() == [
        "| preset | held-out pretext | untrained | chance | steps/s | data wait |",
        "|---|---|---|---|---|---|",
        "| `cpc` | information 0.479 | -0.452 | 0 | 2.6 | 5% |",
        "| `masked_frames` | relative_error 0.700 | 1.100 | 1 | 2.6 | 5% |",
        "| `playback_speed` | accuracy 0.600 | 0.500 | 0.5 | 2.6 | 5% |",
    ]


def test_training_keeps_what_the_table_needs(tmp_path: Path) -> None:
    arm = _arm(tmp_path, "cpc", 0, None)
    lines = [
        {"step": 10 * n, "time_s": n, "loss": 1.0, "top1": n / 10, "samples_per_s": 8.0,
         "data_wait": 0.1}
        for n in range(1, 11)
    ]  # fmt: skip
    lines.insert(0, {"step": 0, "probe": {"rankme": 3.0}})
    (arm.run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = training(arm.run)
    assert (found["method"], found["batch_size"], found["steps"]) == ("cpc", 8, 100)
    assert found["pretext"] == {"top1": {"trained": 1.0, "chance": 0.25}}


def test_bars_are_as_long_as_their_figures_and_marks_stand_at_their_values() -> None:
    bars = [Bar("one", [0.8], [0.2], 0.5), Bar("two", [0.4], [0.2], 0.5)]
    picture = ElementTree.fromstring(bar_columns({"accuracy": bars}))
    lengths = [float(bar.attrib["width"]) for bar in picture.iter("rect")]
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=0.1)
    start = float(next(picture.iter("rect")).attrib["x"])

    def places(colour: str) -> list[float]:
        lines = [line for line in picture.iter("line") if line.get("stroke") == f"var({colour})"]
        # the last is the legend's
        return [float(line.attrib["x1"]) for line in lines][:-1]

    assert places("--c1") == pytest.approx([start + lengths[0] / 4] * 2, abs=0.1)
    assert places("--chance") == pytest.approx([start + lengths[0] * 5 / 8] * 2, abs=0.1)


def test_the_plot_has_a_bar_for_each_preset_and_figure(tmp_path: Path) -> None:
    start = (0.3, 0.773, 0.024)
    arms = [
        _arm(tmp_path, "tcc", 0, _result(EVENTS, (0.376, 0.641, -0.097), start)),
        _arm(tmp_path, "cpc", 0, _result(EVENTS, (0.25, 0.458, 0.2717), start)),
        _arm(tmp_path, "cpc", 1, _result(EVENTS, (0.27, 0.458, 0.2717), start)),
    ]
    document = ElementTree.fromstring(plot(by_preset(arms), {"alignment error": 1 / 3}))
    assert len(list(document.iter(f"{SVG}rect"))) == 1 + 2 * 3
    text = [node.text for node in document.iter(f"{SVG}text")]
    assert "0.260 ± 0.014" in text
    assert "-0.097" in text


def test_curves_are_small_files_of_a_preset_each(tmp_path: Path) -> None:
    arms = [_arm(tmp_path, preset, 0, None) for preset in ("cpc", "tcn_single")]
    lines = [{"step": n, "loss": 3.0, "top1": n / 4000} for n in range(1, 2001)]
    for arm in arms:
        (arm.run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (arms[0].run / "chance.json").write_text('{"top1": 0.25, "alignment_error": 0.333}')
    with (arms[0].run / "metrics.jsonl").open("a") as file:
        for step in (0, 1000, 2000):
            probe = {"alignment_error": 0.3 - step / 1e4, "rankme": 2.0}
            file.write(json.dumps({"step": step, "probe": probe}) + "\n")
    paths = write_curves(arms, tmp_path / "curves")
    assert [path.name for path in paths] == ["cpc.svg", "tcn_single.svg"]
    assert all(path.stat().st_size < 6000 for path in paths)
    with_probe, without = (ElementTree.parse(path).getroot() for path in paths)
    curves = [line.attrib["points"].split() for line in with_probe.iter(f"{SVG}polyline")]
    assert [len(points) for points in curves] == [MOST_POINTS, 3]
    assert len(list(without.iter(f"{SVG}polyline"))) == 1
    titles = [node.text for node in with_probe.iter(f"{SVG}text") if node.get("class") == "title"]
    assert titles == ["cpc: top1", "probe: alignment error"]


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    arm = Arm("simclr", 0, tmp_path / "simclr-0")
    options = argparse.Namespace(
        suite="images", train="a.parquet", test="b.parquet", labels=None, epochs=8, settings=[]
    )
    claim(arm, options)
    claim(arm, options)  # the same again goes on
    for change in ({"epochs": 9}, {"settings": ["method.temperature=9"]}, {"train": "c.parquet"}):
        other = argparse.Namespace(**(vars(options) | change))
        with pytest.raises(SystemExit, match="give another -o"):
            claim(arm, other)
