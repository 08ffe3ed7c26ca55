"""What `marey train` does and says."""

from __future__ import annotations

import argparse
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from marey.configs.errors import UsageError
from marey.pipeline.cli.estimate_command import recipe_line
from marey.pipeline.cli.mine_command import mined
from marey.pipeline.cli.outcome import DONE, REFUSED, Result
from marey.pipeline.runtime.telling import now

if TYPE_CHECKING:  # pydantic takes a quarter of a second, which `--help` has no need of
    from marey.configs.schema import RunConfig

MINING = "mining."
"""How `marey train` is told settings of `marey mine`, for tracks that are mined first."""


def train(options: argparse.Namespace) -> Result:
    """Train a method, showing how far it is and what it warns of."""
    from marey.configs.load import preset_with, run_config
    from marey.pipeline.cli.declared import check_run
    from marey.pipeline.cli.locations import check_data, check_views

    now("reading the settings")
    mining = [word for word in options.settings if word.startswith(MINING)]
    tree = preset_with(options.method, [w for w in options.settings if w not in mining])
    preset = PurePath(options.method).stem
    checked = check_run(tree)  # what is wrong is said before torch is loaded
    from marey.pipeline.data.mixture_location import members_of, mixture_of

    given = mixture_of(options.data)
    locations = [location for location, _ in members_of(given)]
    for location in locations:
        check_data(location)
    if options.probe:
        check_data(options.probe, "--probe")
    for location in locations:
        check_views(preset, checked, location)
    data = _data_to_train_on(given, options, checked, mining)
    from marey.models.method import find_method
    from marey.pipeline.runtime.progress import Progress, print_first, showing, training_words
    from marey.pipeline.training.launch import prepare, run_training
    from marey.pipeline.training.online_probe import DETAILS
    from marey.pipeline.training.record import NOT_SAMPLED, SUMMARY, warnings_in

    config = run_config(tree, find_method(tree["name"]).Config)
    now("reading the data and planning the samples")
    with showing():
        prepared = prepare(
            config, data, options.out, resume=options.resume, probe_data=options.probe,
            overwrite=options.overwrite,
        )  # fmt: skip
    if prepared.finished:
        there = f"this run is finished, with {prepared.resumed_step} steps"
        print(f"nothing to do: {there} -> {options.out}", file=sys.stderr)
        return DONE, run_training(prepared)
    plan, total = prepared.job.plan, prepared.job.total_steps()
    print(recipe_line(preset), file=sys.stderr)
    for line in prepared.started:
        print(f"{config.encoder.weights}: {line}", file=sys.stderr)
    print(
        f"{preset}: {len(plan.events)} events"
        + "".join(f"; {n} refused: {r}" for r, n in plan.refused.items())
        + f"\n{_length(config, plan.samples_per_epoch, prepared.job.samples, total)}",
        file=sys.stderr,
    )
    for line in prepared.job.epoch_of():
        print(line, file=sys.stderr)
    print_first(
        [f"refused: {reason}" for reason in plan.refused_by_name()],
        f"{options.out}/{NOT_SAMPLED}",
    )
    if plan.unweighted:
        print(
            f"{plan.unweighted} events have no motion profile (indexed with --motion none?): "
            "sampled evenly over time, not where it moves",
            file=sys.stderr,
        )
    for doubt in prepared.doubts:
        print(f"{preset}: {doubt}", file=sys.stderr)
    for key, (before, wanted) in prepared.changed.items():
        print(f"resumed with {key}={wanted} (was {before})", file=sys.stderr)
    if options.resume and not prepared.resumed_step:
        print(f"{options.out} has no checkpoint to resume from: a new run", file=sys.stderr)
    bar = Progress(preset, "steps", total)

    def watch(lines: list[dict[str, Any]]) -> None:
        metrics = [line for line in lines if "loss" in line]
        probes = [line["probe"] for line in lines if "probe" in line]
        for warning in warnings_in(lines):
            bar.note(f"warning: {warning}")
        shown: dict[str, Any] = dict(training_words(metrics[-1])) if metrics else {}
        if probes:
            shown |= {name: v for name, v in probes[-1].items() if name not in DETAILS}
        bar.update(lines[-1]["step"], lines[-1]["total"], **shown)

    summary = run_training(prepared, engine=options.engine, watch=watch)
    bar.close()
    print_first(
        [f"refused: {reason} ({count} samples)" for reason, count in summary["refused"].items()],
        f"{options.out}/{SUMMARY}",
    )
    print(f"{summary['step']} steps in {summary['time_s']:.0f} s -> {options.out}", file=sys.stderr)
    refused = bool(summary["refused"] or plan.refused)
    return (REFUSED if refused else DONE), {**summary, "events_refused": plan.refused}


def _data_to_train_on(
    data: str, options: argparse.Namespace, run: RunConfig, words: list[str]
) -> str:
    """`--data`; where a recipe wants tracks of a corpus of videos, those mined from it first.

    They are put into the run's folder, and the same command goes on with them.
    Raises UsageError for words of mining where nothing is mined.
    """
    from marey.configs.mining import TracksMining, mining_settings

    tracks = TracksMining.model_fields["kind"].default
    wanted = getattr(getattr(run.method, "sampling", None), "kind", "") == tracks
    if not words and (not wanted or len(options.data) > 1):
        return data
    if len(options.data) > 1:
        raise UsageError(f"{words[0]}: mine each corpus of a mixture by itself, with `marey mine`")
    settings = mining_settings(tracks, [word.removeprefix(MINING) for word in words])
    from marey.pipeline.data.source import open_source

    if not wanted or open_source(data).sample_kind:
        if words:
            why = f"{data} holds samples" if wanted else f"{run.name} needs no tracks"
            raise UsageError(f"{words[0]}: nothing is mined, since {why}")
        return data
    from marey.pipeline.mining.mine import mined_before

    out = f"{options.out.rstrip('/')}/{tracks}"
    if options.overwrite or mined_before(data, out, settings) is None:
        mined(data, out, settings, options.engine, options.overwrite)
    return out


def _length(config: RunConfig, per_epoch: int, samples: int, steps: int) -> str:
    """How long a run will be, and which setting says so."""
    trainer = config.trainer
    key = "steps" if trainer.steps else "epochs"
    passes = samples / max(1, per_epoch)
    return (
        f"length: {steps} steps of {trainer.batch_size} samples = {samples} samples = "
        f"{passes:.3g} passes over {per_epoch} samples per epoch "
        f"(trainer.{key}={getattr(trainer, key)})"
    )
