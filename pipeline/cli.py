"""The `marey` command: words in, one call out. Each command imports only what it needs."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from configs.errors import MareyError, UsageError

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 3
"""Exit codes: done; failed; wrong usage; finished with some inputs refused (listed)."""

LOST = ("video: ", "event: ", "sample: ", "window: ")
"""Reasons of mining that name an input which gave nothing; the others are the miner's choice."""

PROTOCOL_NAMES = (
    "knn", "linear", "progression", "alignment", "retrieval", "copies", "geometry", "tracking",
    "propagation", "finetune", "pretext",
)  # fmt: skip
"""What `marey eval` measures; the last four take frames, not embeddings."""

LISTED = 20
"""Inputs that are named in a command's output; files hold all of them."""

ENGINE_HELP = "Ray actors, here or on a cluster (default), or this one process"

Result = tuple[int, dict[str, Any]]
"""What a command gives back: exit code, and the figures that --json prints."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = build_parser()
    options, rest = parser.parse_known_args(words)
    # argparse takes positional words only in one run; settings may stand anywhere
    wrong = [word for word in rest if word.startswith("-") or "=" not in word]
    if wrong or (rest and not hasattr(options, "settings")):
        parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        options.settings += rest
    try:
        with _ended_in_order():
            code, figures = options.run(options)
        if options.json:
            print(json.dumps(figures))
        sys.stdout.flush()
    except MareyError as error:
        print(f"marey {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"marey {options.command}: interrupted", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # nobody reads on: what is still to be written would fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"marey {options.command}: {error}", file=sys.stderr)
        return FAILED
    return code


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM (a scheduler's) end a command as Ctrl-C does: processes of ours end with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="marey",
        description="Temporal self-supervision from video: index, train, embed, evaluate.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with some inputs refused.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], Result], text: str):
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument(
            "--json", action="store_true", help="print one line of figures at the end"
        )
        return made

    index = command("index", _index, "Describe a corpus of videos without decoding it.")
    index.add_argument("source", nargs="+", help="folder, file, glob or URI (s3://, gs://)")
    index.add_argument("-o", "--out", required=True, help="index to write (.parquet)")
    index.add_argument(
        "--views",
        help="regular expression with the groups event and view, or label, or a CSV of placements",
    )
    index.add_argument(
        "--motion", choices=("packets", "vectors", "flow", "none"), default="packets",
        help="how the motion profile is measured (packets: free; the others decode)",
    )  # fmt: skip
    index.add_argument(
        "--sync", choices=("audio", "motion"),
        help="estimate the clocks of an event's views from what they hear, or from what moves",
    )  # fmt: skip
    index.add_argument(
        "--sync-within", type=float, default=30.0, metavar="SECONDS",
        help="largest offset that --sync looks for (default 30)",
    )  # fmt: skip
    index.add_argument("--workers", type=int, help="processes (default: one a core)")
    index.add_argument(
        "--time-limit", type=float, metavar="SECONDS",
        help="longest time for one file, whose row says so then "
        "(default 600, or 3600 where --motion decodes)",
    )  # fmt: skip

    mine = command("mine", _mine, "Store samples as shards: tracked patches, tuples, pairs, ...")
    mine.add_argument("data", help="index, image table or image folder")
    mine.add_argument("-o", "--out", required=True, help="folder of shards")
    mine.add_argument(
        "--kind", default="tracks",
        help="tracks (default), tuples, pairs (or view_pairs), time_pairs, clips, spread or frames",
    )  # fmt: skip
    mine.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)
    mine.add_argument("settings", nargs="*", metavar="key=value", help="e.g. proposals.every_s=2")

    track = command("track", _track, "Draw what a tracker follows over a video.")
    track.add_argument("video", help="file or URI")
    track.add_argument(
        "--box", action="append",
        help="x,y,w,h in pixels; repeat for more (default: what moves at the start)",
    )  # fmt: skip
    track.add_argument(
        "--tracker", default="strcf", help="see docs/tracking.md for the names (default strcf)"
    )
    track.add_argument("--start", type=float, default=0.0, help="seconds (default 0)")
    track.add_argument("--seconds", type=float, default=20.0, help="length (default 20)")
    track.add_argument("-o", "--out", required=True, help="video to write (.mp4)")

    train = command("train", _train, "Train a method on an index, shards or images.")
    train.add_argument("method", help="preset name (see `marey methods`) or a YAML file")
    train.add_argument("--data", required=True, help="index, shards, image table or image folder")
    train.add_argument("-o", "--out", required=True, help="run folder")
    train.add_argument("--probe", help="held-out index or image table for the online probe")
    train.add_argument("--resume", action="store_true", help="go on from the latest checkpoint")
    train.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)
    train.add_argument("settings", nargs="*", metavar="key=value", help="e.g. trainer.epochs=5")

    embed = command("embed", _embed, "Write an embedding for every frame of a corpus.")
    embed.add_argument(
        "encoder", help="run folder, pixels, histogram, timm:NAME or timm:NAME@WEIGHTS"
    )
    embed.add_argument("--data", required=True, help="index, image table or image folder")
    embed.add_argument("-o", "--out", required=True, help="folder of embeddings")
    embed.add_argument(
        "--fps", type=float, default=1.0, help="frames a second (default 1; 0: every frame)"
    )
    embed.add_argument(
        "--copies", type=int, default=0,
        help="embed this many strongly changed copies of each frame instead (for eval copies)",
    )  # fmt: skip
    embed.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32",
        help="numbers that embeddings are stored as (default float32)",
    )  # fmt: skip
    embed.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)

    evaluate = command("eval", _eval, "Measure how good embeddings are.")
    evaluate.add_argument(
        "protocol",
        help=", ".join(PROTOCOL_NAMES),
    )
    evaluate.add_argument(
        "embeddings",
        help="folder of embeddings; for tracking: of OTB sequences; for propagation and finetune: "
        "the encoder (run folder or timm:NAME); for pretext: the run folder",
    )
    evaluate.add_argument(
        "--data",
        help="finetune, pretext: index or image table; propagation: folder of OTB sequences",
    )
    evaluate.add_argument("--gallery", help="training embeddings (finetune: index or image table)")
    evaluate.add_argument("--labels", help="folder of JSON files, or a CSV or Parquet table")
    evaluate.add_argument("--baseline", help="embeddings to stand beside (untrained encoder)")
    evaluate.add_argument("settings", nargs="*", metavar="key=value", help="e.g. k=20")

    report = command(
        "report", _report, "One page with pictures of a run, index, shards or embeddings."
    )
    report.add_argument("target", help="run folder, index, shards or folder of embeddings")
    report.add_argument("--baseline", help="embeddings of another encoder, shown beside")
    report.add_argument("--labels", help="labels of embeddings, as for `marey eval`")
    report.add_argument("-o", "--out", required=True, help="page to write (.html)")

    methods = command("methods", _methods, "List the methods, or the settings of one.")
    methods.add_argument("name", nargs="?", help="method or preset")

    command("doctor", _doctor, "Say what is installed, what is missing, and what to do about it.")

    demo = command("demo", _demo, "The whole job on a generated corpus, or on your own videos.")
    demo.add_argument("--videos", help="folder of your own videos")
    demo.add_argument("--views", help="grouping of your own videos, as for `marey index`")
    demo.add_argument("-o", "--out", default="demo", help="folder for everything (default: demo)")
    return parser


def _index(options: argparse.Namespace) -> Result:
    from pipeline.cores import default_workers
    from pipeline.indexing import probe_corpus, summarise, write_index
    from pipeline.progress import Progress
    from pipeline.storage import split

    if options.sync and not options.views:
        raise UsageError("--sync needs --views, which says which videos show one event")
    for name in ("workers", "time_limit", "sync_within"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {value}: a positive number is needed")
    if not split(options.out)[1].endswith(".parquet"):
        raise UsageError(f"-o {options.out}: an index is one file whose name ends in .parquet")
    workers = options.workers or default_workers()
    bar = Progress("index", "videos")
    parts = probe_corpus(
        options.source,
        options.out,
        views=options.views,
        motion=options.motion,
        workers=workers,
        limit_s=options.time_limit,
        progress=lambda done, total, seconds: bar.update(done, total, minutes=seconds / 60),
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
    for status, video_id, error in summary.bad:
        print(f"{status}: {video_id}: {error}", file=sys.stderr)
    print(
        f"{summary.videos} videos, {summary.events} events, {summary.minutes:.1f} minutes -> "
        f"{options.out}",
        file=sys.stderr,
    )
    figures = {
        "videos": summary.videos,
        "events": summary.events,
        "minutes": summary.minutes,
        "status": dict(summary.status),
    }
    if options.sync:
        figures["unsynchronised"] = {clock.video_id: clock.clock.reason for clock in unplaced}
    return (REFUSED if summary.bad or unplaced else DONE), figures


def _synchronised(table: Any, kind: Any, within_s: float, workers: int) -> tuple[Any, list[Any]]:
    """The index with estimated clocks, and the views that could not be placed."""
    from pipeline.progress import Progress
    from pipeline.sync import synchronise

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


def _mine(options: argparse.Namespace) -> Result:
    from pipeline.mine import mine_corpus, mining_settings
    from pipeline.progress import Progress, showing
    from pipeline.video.reasons import FILE_FAULTS

    settings = mining_settings(options.kind, options.settings)
    bar = Progress("mine", "parts")
    with showing():
        manifest = mine_corpus(
            options.data,
            options.out,
            settings,
            engine=options.engine,
            progress=lambda done, total, rows: bar.update(done, total, samples=rows),
        )
    bar.close()
    reasons = list(manifest["reasons"].items())
    for reason, count in reasons[:LISTED]:
        print(f"{count:>8}  {reason}", file=sys.stderr)
    _print_more(reasons, f"{options.out}/manifest.json")
    print(f"{manifest['rows']} samples -> {options.out}", file=sys.stderr)
    figures = {name: manifest[name] for name in ("kind", "rows", "parts", "reasons")}
    lost = [r for r in manifest["reasons"] if r.startswith(LOST) and r != "sample: accepted"]
    refused = any(fault in reason for reason in manifest["reasons"] for fault in FILE_FAULTS)
    return (REFUSED if refused or lost else DONE), figures


def _print_more(named: Sized, place: str = "") -> None:
    """Say how many there are beyond those that were listed, and where."""
    if len(named) > LISTED:
        where = f", in {place}" if place else ""
        print(f"and {len(named) - LISTED} more{where}", file=sys.stderr)


def _track(options: argparse.Namespace) -> Result:
    from pipeline.follow import follow

    result = follow(
        options.video,
        options.out,
        boxes=_boxes(options.box) if options.box else None,
        tracker=options.tracker,
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


def _train(options: argparse.Namespace) -> Result:
    from configs.load import override, read_preset, run_config, suggest
    from models.method import find_method
    from pipeline.evaluate.online import DETAILS
    from pipeline.launch import prepare, run_training
    from pipeline.progress import Progress, showing
    from pipeline.record import warnings_in

    tree = override(read_preset(options.method), options.settings)
    method = find_method(tree["name"], suggest)
    config = run_config(tree, method.Config)
    with showing():
        prepared = prepare(
            config, options.data, options.out, resume=options.resume, probe_data=options.probe
        )
    plan, total = prepared.job.plan, prepared.job.total_steps()
    print(
        f"{config.name}: {len(plan.events)} events, {plan.samples_per_epoch} samples an epoch, "
        f"{total} steps" + "".join(f"; {n} refused: {r}" for r, n in plan.refused.items()),
        file=sys.stderr,
    )
    for name, reason in plan.refused_names[:LISTED]:
        print(f"refused: {name}: {reason}", file=sys.stderr)
    _print_more(range(sum(plan.refused.values())))
    if plan.unweighted:
        print(
            f"{plan.unweighted} events have no motion profile (indexed with --motion none?): "
            "sampled evenly over time, not where it moves",
            file=sys.stderr,
        )
    if options.resume and not prepared.resumed_step:
        print(f"{options.out} has no checkpoint to resume from: a new run", file=sys.stderr)
    bar = Progress(config.name, "steps", total, prepared.resumed_step)

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
    for reason, count in list(summary["refused"].items())[:LISTED]:
        print(f"refused: {reason} ({count} samples)", file=sys.stderr)
    _print_more(summary["refused"], f"{options.out}/summary.json")
    print(f"{summary['step']} steps in {summary['time_s']:.0f} s -> {options.out}", file=sys.stderr)
    refused = bool(summary["refused"] or plan.refused)
    return (REFUSED if refused else DONE), {**summary, "events_refused": plan.refused}


def _embed(options: argparse.Namespace) -> Result:
    from pipeline.embed import embed
    from pipeline.progress import Progress

    bar = Progress("embed", "parts")
    result = embed(
        options.encoder,
        options.data,
        options.out,
        rate=options.fps,
        dtype=options.dtype,
        copies=options.copies,
        engine=options.engine,
        progress=lambda done, total, frames: bar.update(done, total, frames=frames),
    )
    bar.close()
    for reason, count in list(result.refused.items())[:LISTED]:
        print(f"refused: {reason} ({count})", file=sys.stderr)
    _print_more(result.refused, f"{options.out}/meta.json")
    print(f"{result.frames} frames -> {options.out}", file=sys.stderr)
    figures = {"frames": result.frames, "refused": result.refused}
    return (REFUSED if result.refused else DONE), figures


def _eval(options: argparse.Namespace) -> Result:
    from configs.load import override
    from pipeline.progress import showing

    settings = override({}, options.settings)
    for name in ("data", "gallery", "labels", "baseline"):
        if name in settings:
            raise UsageError(f"{name} is an option: give --{name} FOLDER, not {name}=FOLDER")
    if options.protocol not in PROTOCOL_NAMES:
        raise UsageError(f"no protocol {options.protocol!r}; there are {', '.join(PROTOCOL_NAMES)}")
    if options.protocol == "tracking":
        with showing():
            return _eval_tracking(options, settings)
    from pipeline.evaluate.run import render, run_eval

    with showing():
        if options.protocol in ("finetune", "propagation", "pretext"):
            figures = _eval_pixels(options, settings)
        else:
            figures = run_eval(
                options.protocol,
                options.embeddings,
                labels=options.labels,
                gallery=options.gallery,
                baseline=options.baseline,
                **settings,
            )
    print(render(figures), file=sys.stderr if options.json else sys.stdout)
    return DONE, figures


def _eval_pixels(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """The protocols that need the encoder and the frames, not embeddings."""
    from pipeline.evaluate.protocols import check_settings

    if options.data is None:
        raise UsageError(f"{options.protocol} needs --data (the frames) beside the encoder")
    if options.protocol == "propagation":
        from pipeline.evaluate.propagation import run_propagation

        check_settings("propagation", run_propagation, settings)
        return run_propagation(
            options.embeddings, options.data, baseline=options.baseline, **settings
        )
    if options.protocol == "pretext":
        from pipeline.pretext import pretext

        check_settings("pretext", pretext, settings)
        return pretext(options.embeddings, options.data, **settings).figures()
    from pipeline.finetune import run_finetune

    check_settings("finetune", run_finetune, settings)
    return run_finetune(
        options.embeddings,
        options.data,
        gallery=options.gallery,
        labels=options.labels,
        baseline=options.baseline,
        **settings,
    )


def _eval_tracking(options: argparse.Namespace, settings: dict[str, Any]) -> Result:
    from pipeline.evaluate.protocols import check_settings
    from pipeline.evaluate.tracking import evaluate_trackers, render

    check_settings("tracking", evaluate_trackers, settings)
    scores = evaluate_trackers(options.embeddings, **settings)
    print(render(scores), file=sys.stderr if options.json else sys.stdout)
    return DONE, {s.tracker: asdict(s) for s in scores if s.sequence == "mean"}


def _report(options: argparse.Namespace) -> Result:
    from pipeline.report import write_report

    write_report(options.target, options.out, baseline=options.baseline, labels=options.labels)
    print(f"-> {options.out}", file=sys.stderr)
    return DONE, {"page": options.out}


def _methods(options: argparse.Namespace) -> Result:
    from pipeline.catalogue import describe_method, list_methods

    text, figures = describe_method(options.name) if options.name else list_methods()
    print(text, file=sys.stderr if options.json else sys.stdout)
    return DONE, figures


def _doctor(options: argparse.Namespace) -> Result:
    from pipeline.doctor import examine, render

    findings = examine()
    print(render(findings), file=sys.stderr if options.json else sys.stdout)
    bad = any(finding.state == "missing" for finding in findings)
    return (FAILED if bad else DONE), {
        f.name: {"state": f.state, "found": f.found} for f in findings
    }


def _demo(options: argparse.Namespace) -> Result:
    from pipeline.demo import run_demo

    return DONE, run_demo(options.out, videos=options.videos, views=options.views)


if __name__ == "__main__":
    sys.exit(main())
