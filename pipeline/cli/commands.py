"""What each command of `marey` does: checked words in, one call, what a person should read out.

Each imports only what it needs, so that light commands start at once.
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from marey.configs import plugins
from marey.configs.errors import MareyError, UsageError

if TYPE_CHECKING:  # pydantic takes a quarter of a second, which `--help` has no need of
    from marey.configs.mining import SamplesMining, TracksMining
    from marey.configs.schema import RunConfig
    from marey.pipeline.stream.graph import Engine

DONE, FAILED, USAGE, REFUSED, UNFINISHED = 0, 1, 2, 3, 4
"""Exit codes: done; failed; wrong usage; finished with some inputs refused (listed); unfinished,
since what passes kept it from its end: the same command goes on."""

LOST = ("video: ", "event: ", "sample: ", "window: ")
"""Reasons of mining that name an input which gave nothing; the others are the miner's choice."""

MINING = "mining."
"""How `marey train` is told settings of `marey mine`, for tracks that are mined first."""

Result = tuple[int, dict[str, Any]]
"""What a command gives back: exit code, and the figures that --json prints."""


def help_of(command: str, options: argparse.Namespace) -> str:
    """What `--help` adds to the options of a command: what there is, and what can be set."""
    from marey.pipeline.cli import catalogue

    if command == "eval":
        name = options.protocol
        return catalogue.describe_protocol(name) if name else catalogue.list_protocols()
    if command == "track":
        return f"{catalogue.list_trackers()}\n\n{catalogue.describe_tracker(options.tracker)}"
    if command == "mine":
        return catalogue.describe_kind(options.kind)
    if command in ("train", "estimate") and options.method:
        return catalogue.describe_method(options.method)[0]
    return ""


def setting_for(name: str, options: argparse.Namespace) -> str:
    """The setting of a command that a word may have meant; "" where there is none."""
    from marey.configs.describe import describe
    from marey.configs.nearest import nearest_settings

    known: list[str] = []
    try:
        if options.command in ("train", "estimate"):
            from marey.configs.load import read_preset
            from marey.configs.renamed import renamed
            from marey.configs.schema import RunConfig
            from marey.pipeline.cli.declared import method_settings

            model = method_settings(renamed(read_preset(options.method))["name"])
            known = [row.key for row in describe(model, "method.") + describe(RunConfig)]
        elif options.command == "eval":
            from marey.pipeline.evaluate.protocols import find_protocol

            known = [row.key for row in describe(find_protocol(options.protocol).settings)]
        elif options.command == "mine":
            from marey.configs.mining import mining_settings

            known = [row.key for row in describe(type(mining_settings(options.kind, [])))]
        elif options.command == "track":
            from marey.configs.tracking import declared_tracker

            settings = declared_tracker(options.tracker)
            known = [row.key for row in describe(type(settings))] if settings else []
    except MareyError:
        return ""  # what is wrong with that word is said when it is right
    return next(iter(nearest_settings(name, known)), "")


def index(options: argparse.Namespace) -> Result:
    """Describe a corpus: probe every file, write the index, name what is bad."""
    from marey.pipeline.cli.locations import check_suffix

    check_suffix(options.out, ".parquet", "an index")
    from marey.pipeline.data.build_index import probe_corpus, summarise, write_index
    from marey.pipeline.data.layouts.known import layout_of
    from marey.pipeline.data.list_files import ListOptions, read_columns
    from marey.pipeline.runtime.cores import default_workers
    from marey.pipeline.runtime.progress import Progress, print_first

    if options.sync and not options.views:
        raise UsageError("--sync needs --views, which says which videos show one event")
    for name in ("workers", "time_limit", "sync_within"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {value}: a positive number is needed")
    workers = options.workers or default_workers()
    lists = ListOptions(
        read_columns(options.columns), options.root, options.times, options.rows_at or ""
    )
    bar = Progress("index", "videos")
    parts = probe_corpus(
        options.source,
        options.out,
        views=options.views,
        motion=options.motion,
        labels_from=options.labels_from,
        lists=lists,
        layout=partial(layout_of, name=options.layout, fps=options.frames_fps),
        renewal="append" if options.append else "refresh" if options.refresh else None,
        workers=workers,
        limit_s=options.time_limit,
        progress=lambda done, total, seconds: bar.update(done, total, minutes=seconds / 60),
        say=lambda layout: print(layout, file=sys.stderr),
    )
    bar.close()
    tables: Any = parts
    unplaced = []
    if options.sync:
        table, unplaced = _synchronised(parts.table(), options.sync, options.sync_within, workers)
        tables = [table]
    write_index(tables, options.out)
    summary = summarise(tables)
    parts.remove()
    bad = [f"{status}: {video_id}: {error}" for status, video_id, error in summary.bad]
    print_first(bad, options.out)
    print_first([f"cut: {video_id}: {error}" for _, video_id, error in summary.cut], options.out)
    _print_events(summary, options.views)
    print(
        f"{summary.videos} videos, {summary.events} events, {summary.minutes:.1f} minutes -> "
        f"{options.out}",
        file=sys.stderr,
    )
    figures = {
        "videos": summary.videos,
        "events": summary.events,
        "views": {str(views): count for views, count in sorted(summary.views.items())},
        "cut": len(summary.cut),
        "minutes": summary.minutes,
        "status": dict(summary.status),
    }
    if options.sync:
        figures["unsynchronised"] = {clock.video_id: clock.clock.reason for clock in unplaced}
    return (REFUSED if summary.bad or unplaced else DONE), figures


def _print_events(summary: Any, views: str | None) -> None:
    """How many events have how many views, a few of them, and whether `--views` did anything."""
    counts = ", ".join(
        f"{count} with {n} view{'s' if n > 1 else ''}" for n, count in sorted(summary.views.items())
    )
    print(f"events: {counts or 'none'}", file=sys.stderr)
    for example in summary.examples:
        print(f"  {example}", file=sys.stderr)
    grouping = views is not None and (views.lower().endswith(".csv") or "?P<view>" in views)
    if grouping and max(summary.views, default=1) == 1:
        print(
            f"warning: --views {views} grouped nothing: every event has one view. The event's name "
            "is what the path has up to the end of the group `event`, without the group `view`; "
            "does the camera's part stand there a second time?",
            file=sys.stderr,
        )


def check(options: argparse.Namespace) -> Result:
    """Look for faults in a data set: a table of them, on request a page and a clean index."""
    from marey.pipeline.cli.locations import check_suffix, check_there

    check_there(options.index, "INDEX", "make one with `marey index VIDEOS -o index.parquet`")
    if options.out:
        check_suffix(options.out, ".parquet", "an index")
    if options.page:
        check_suffix(options.page, ".html", "a page")
    if options.min_seconds < 0 or (options.workers is not None and options.workers < 1):
        raise UsageError("--min-seconds is 0 or more, --workers 1 or more")
    from marey.pipeline.data.build_index import write_index
    from marey.pipeline.data.checks.check_index import check_index, clean_table
    from marey.pipeline.data.checks.finding import KINDS
    from marey.pipeline.runtime.cores import default_workers
    from marey.pipeline.runtime.progress import Progress, print_first

    bar = Progress("check", "looks")
    checked = check_index(
        options.index,
        least_s=options.min_seconds,
        workers=options.workers or default_workers(),
        progress=bar.update,
    )
    bar.close()
    lines = [f"{f.kind}: {f.video_id}: {f.detail}" for f in checked.findings]
    print_first(lines, options.page or "--page PAGE.html")
    to = sys.stderr if options.json else sys.stdout
    for kind, count in checked.counts.items():
        print(f"{count:>8}  {kind:<16} {KINDS[kind]}", file=to)
    if options.page:
        from marey.pipeline.report.of_checks import write_checks

        write_checks(options.index, checked, options.page)
        print(f"-> {options.page}", file=sys.stderr)
    if options.out:
        table = clean_table(options.index, checked)
        write_index(table, options.out)
        print(f"{len(table)} of {checked.videos} videos -> {options.out}", file=sys.stderr)
    print(
        f"{len(checked.findings)} faults in {len({f.video_id for f in checked.findings})} of "
        f"{checked.videos} videos, {checked.events} events",
        file=sys.stderr,
    )
    figures = {
        "videos": checked.videos,
        "events": checked.events,
        "counts": checked.counts,
        "findings": [
            {"kind": f.kind, "video_id": f.video_id, "event": f.event, "detail": f.detail,
             "other": f.other, "times_s": list(f.times_s)}
            for f in checked.findings
        ],
    }  # fmt: skip
    return (REFUSED if checked.findings else DONE), figures


def _synchronised(table: Any, kind: Any, within_s: float, workers: int) -> tuple[Any, list[Any]]:
    """The index with estimated clocks, and the views that could not be placed."""
    from marey.pipeline.data.sync import synchronise
    from marey.pipeline.runtime.progress import Progress

    bar = Progress("sync", "events")
    table, clocks = synchronise(
        table,
        kind,
        within_s=within_s,
        workers=workers,
        progress=lambda n, all_: bar.update(n, all_),
    )
    bar.close()
    unplaced = [clock for clock in clocks if clock.clock.reason]
    for view in unplaced:
        print(
            f"unsynchronised: {view.video_id} leaves {view.event}: {view.clock.reason}"
            f" ({view.detail or f'{view.clock.agreeing} of {view.clock.windows} windows agree'})",
            file=sys.stderr,
        )
    print(f"{len(clocks) - len(unplaced)} of {len(clocks)} views synchronised", file=sys.stderr)
    return table, unplaced


def mine(options: argparse.Namespace) -> Result:
    """Store tracks or planned samples as shards."""
    from marey.configs.mining import mining_settings
    from marey.pipeline.cli.locations import check_data

    settings = mining_settings(options.kind, options.settings)
    check_data(options.data, "DATA")
    from marey.pipeline.video.reasons import FILE_FAULTS

    manifest = _mined(options.data, options.out, settings, options.engine)
    figures = {name: manifest[name] for name in ("kind", "rows", "parts", "reasons")}
    lost = [r for r in manifest["reasons"] if r.startswith(LOST) and r != "sample: accepted"]
    refused = any(fault in reason for reason in manifest["reasons"] for fault in FILE_FAULTS)
    return (REFUSED if refused or lost else DONE), figures


def _mined(
    data: str, out: str, settings: TracksMining | SamplesMining, engine: Engine
) -> dict[str, Any]:
    """Mine with a bar, and say what came of it; returns the manifest."""
    from marey.pipeline.mining.mine import mine_corpus
    from marey.pipeline.runtime.progress import Progress, print_first, showing

    bar = Progress("mine", "parts")
    with showing():
        manifest = mine_corpus(
            data,
            out,
            settings,
            engine=engine,
            progress=lambda done, total, rows: bar.update(done, total, samples=rows),
        )
    bar.close()
    lines = [f"{count:>8}  {reason}" for reason, count in manifest["reasons"].items()]
    print_first(lines, f"{out}/manifest.json")
    print(f"{manifest['rows']} samples -> {out}", file=sys.stderr)
    return manifest


def track(options: argparse.Namespace) -> Result:
    """Draw what a tracker follows over a video."""
    from marey.configs.load import override
    from marey.configs.tracking import tracker_options
    from marey.pipeline.cli.locations import check_suffix, check_there
    from marey.trackers import find_tracker

    find_tracker(plugins.allow_name(options.tracker))
    settings = tracker_options(options.tracker, override({}, options.settings))
    check_suffix(options.out, ".mp4", "what `marey track` draws")
    check_there(options.video, "VIDEO", "give a video file or a URI")
    boxes = _boxes(options.box) if options.box else None
    from marey.pipeline.mining.follow import follow

    result = follow(
        options.video,
        options.out,
        boxes=boxes,
        tracker=options.tracker,
        tracker_settings=settings,
        start_s=options.start,
        seconds=options.seconds,
    )
    lost = "".join(f", {count} {reason}" for reason, count in result.reasons.items())
    print(
        f"{result.kept} of {result.boxes} boxes followed through {result.frames} frames{lost}"
        f" -> {options.out}",
        file=sys.stderr,
    )
    return DONE, {"frames": result.frames, "boxes": result.boxes, "kept": result.kept}


def _boxes(words: list[str]) -> Any:
    import numpy as np

    boxes = []
    for word in words:
        try:
            box = [float(number) for number in word.split(",")]
        except ValueError:
            box = []
        if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            raise UsageError(f"--box {word} is not x,y,w,h with positive width and height")
        boxes.append(box)
    return np.array(boxes, dtype=np.float32)


def train(options: argparse.Namespace) -> Result:
    """Train a method, showing how far it is and what it warns of."""
    from marey.configs.load import preset_with, run_config
    from marey.pipeline.cli.declared import check_run
    from marey.pipeline.cli.locations import check_data, check_views

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
    from marey.pipeline.runtime.progress import Progress, print_first, showing
    from marey.pipeline.training.launch import prepare, run_training
    from marey.pipeline.training.online_probe import DETAILS
    from marey.pipeline.training.record import NOT_SAMPLED, SUMMARY, warnings_in

    config = run_config(tree, find_method(tree["name"]).Config)
    with showing():
        prepared = prepare(
            config, data, options.out, resume=options.resume, probe_data=options.probe
        )
    plan, total = prepared.job.plan, prepared.job.total_steps()
    print(_recipe_line(preset), file=sys.stderr)
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
    for key, (before, now) in prepared.changed.items():
        print(f"resumed with {key}={now} (was {before})", file=sys.stderr)
    if options.resume and not prepared.resumed_step:
        print(f"{options.out} has no checkpoint to resume from: a new run", file=sys.stderr)
    bar = Progress(preset, "steps", total, prepared.resumed_step)

    def watch(lines: list[dict[str, Any]]) -> None:
        metrics = [line for line in lines if "loss" in line]
        probes = [line["probe"] for line in lines if "probe" in line]
        for warning in warnings_in(lines):
            bar.note(f"warning: {warning}")
        shown = (
            {"loss": metrics[-1]["loss"], "data_wait": metrics[-1]["data_wait"]} if metrics else {}
        )
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
    if mined_before(data, out, settings) is None:
        _mined(data, out, settings, options.engine)
    return out


def _recipe_line(preset: str) -> str:
    """Which recipe runs; where a GPU is there and the small one was asked for, the other's name."""
    import torch

    from marey.configs.recipes import SMALL_HARDWARE, presets, recipe_of, recipes_of

    recipe = recipe_of(preset)
    if recipe is not None:
        return (
            f"recipe: {preset}, the published one ({recipe.source}); trained on {recipe.hardware}; "
            f"reported: {recipe.figure}"
        )
    if preset not in presets():
        return f"recipe: {preset}, settings of your own"
    line = f"recipe: {preset}, the small one, for {SMALL_HARDWARE}"
    large = recipes_of(preset)
    if large and torch.cuda.is_available():
        line += f"; this machine has a GPU: the published one is {' or '.join(large)}"
    return line


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


def estimate(options: argparse.Namespace) -> Result:
    """Say what a run would take, without starting it."""
    from marey.configs.load import preset_with, run_config
    from marey.pipeline.cli.declared import check_run
    from marey.pipeline.cli.locations import check_data

    if options.gpus < 0:
        raise UsageError(f"--gpus {options.gpus}: a number of GPUs, or 0 for the CPU")
    if options.tflops is not None and not options.tflops > 0:
        raise UsageError(f"--tflops {options.tflops}: a positive number is needed")
    tree = preset_with(options.method, options.settings)
    check_run(tree)
    check_data(options.data)
    from marey.models.method import find_method
    from marey.pipeline.training.estimate import CPU_TFLOPS, TFLOPS
    from marey.pipeline.training.estimate import estimate as estimate_run

    config = run_config(tree, find_method(tree["name"]).Config)
    rate = options.tflops or (TFLOPS if options.gpus else CPU_TFLOPS)
    found = estimate_run(config, options.data, gpus=options.gpus, tflops=rate)
    lines = [_recipe_line(PurePath(options.method).stem), *found.lines(config, options.gpus, rate)]
    print("\n".join(lines), file=sys.stderr if options.json else sys.stdout)
    return DONE, found.figures()


def embed(options: argparse.Namespace) -> Result:
    """Write embeddings of a corpus."""
    from marey.pipeline.cli.locations import check_data, check_encoder

    if not 0 <= options.fps < math.inf:
        raise UsageError(f"--fps {options.fps} is no rate; 0 embeds every frame, 1 one per second")
    if options.copies < 0:
        raise UsageError(f"--copies {options.copies}: a number of copies, or 0 for none")
    check_encoder(options.encoder)
    check_data(options.data)
    from marey.pipeline.embedding.embed import embed
    from marey.pipeline.runtime.progress import Progress, print_first

    bar = Progress("embed", "frames")
    result = embed(
        options.encoder,
        options.data,
        options.out,
        rate=options.fps,
        dtype=options.dtype,
        copies=options.copies,
        engine=options.engine,
        progress=bar.update,
    )
    bar.close()
    print_first(
        [f"refused: {reason} ({count})" for reason, count in result.refused.items()],
        f"{options.out}/_meta.parquet (load_embeddings(...).meta)",
    )
    done = "" if result.made else "nothing to do: these embeddings are there already; "
    print(f"{done}{result.frames} frames -> {options.out}", file=sys.stderr)
    figures = {"frames": result.frames, "refused": result.refused}
    return (REFUSED if result.refused else DONE), figures


def evaluate(options: argparse.Namespace) -> Result:
    """Run one protocol and show its figures."""
    from marey.configs.load import override
    from marey.pipeline.cli.locations import check_there
    from marey.pipeline.evaluate.protocols import LOCATIONS, Inputs, find_protocol
    from marey.pipeline.runtime.progress import showing

    protocol = find_protocol(plugins.allow_name(options.protocol))
    settings = override({}, options.settings)
    if "baseline_gallery" in settings and not options.baseline_gallery:
        print("note: baseline_gallery=FOLDER is now --baseline-gallery FOLDER", file=sys.stderr)
        options.baseline_gallery = str(settings.pop("baseline_gallery"))
    for name in LOCATIONS:
        if name in settings:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{name} is an option: give {option} FOLDER, not {name}=FOLDER")
    given = {name: getattr(options, name) for name in LOCATIONS}
    inputs = Inputs(options.embeddings, **given)
    protocol.check_needed(inputs)
    protocol.check_unused(inputs)
    protocol.check(settings)
    made = {
        "embeddings": "write them with `marey embed RUN --data INDEX -o EMBEDDINGS`",
        "encoder": "give a run folder or timm:NAME",
        "run": "give the folder of a run (`marey train ... -o RUN`)",
        "sequences": "give the folder that holds the sequences",
    }
    if protocol.target != "encoder":
        check_there(options.embeddings, protocol.target.upper(), made[protocol.target])
    from marey.pipeline.evaluate.run import run_eval

    with showing():
        result = run_eval(protocol.name, options.embeddings, **given, **settings)
    print(protocol.render(result), file=sys.stderr if options.json else sys.stdout)
    return DONE, result


def report(options: argparse.Namespace) -> Result:
    """Write a page with pictures."""
    from marey.pipeline.cli.locations import check_suffix, check_there

    check_suffix(options.out, ".html", "a report")
    made = "train a run, index videos, mine shards or embed first (`marey` lists the commands)"
    check_there(options.target, "TARGET", made)
    from marey.pipeline.report import write_report

    write_report(options.target, options.out, baseline=options.baseline, labels=options.labels)
    print(f"-> {options.out}", file=sys.stderr)
    return DONE, {"page": options.out}


def methods(options: argparse.Namespace) -> Result:
    """List the methods, or the settings of one."""
    from marey.pipeline.cli.catalogue import describe_method, list_methods

    text, figures = describe_method(options.name) if options.name else list_methods()
    print(text, file=sys.stderr if options.json else sys.stdout)
    return DONE, figures


def doctor(options: argparse.Namespace) -> Result:
    """Look at what is installed, saying each thing as soon as it is known."""
    from marey.pipeline.cli.doctor import examine, line_of

    findings = []
    for finding in examine():
        findings.append(finding)
        print(line_of(finding), file=sys.stderr if options.json else sys.stdout, flush=True)
    bad = any(finding.state == "missing" for finding in findings)
    return (FAILED if bad else DONE), {
        f.name: {"state": f.state, "found": f.found} for f in findings
    }


def demo(options: argparse.Namespace) -> Result:
    """Run the whole job."""
    from marey.pipeline.cli.demo import run_demo

    return DONE, run_demo(options.out, videos=options.videos, views=options.views)
