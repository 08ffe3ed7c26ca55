"""The `marey` command: which words there are, and how a command ends."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from marey.configs.errors import MareyError
from marey.pipeline.cli import commands
from marey.pipeline.cli.commands import FAILED, Result

ENGINE_HELP = "Ray actors, here or on a cluster (default), or this one process"


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


class _Help(argparse.Action):
    """`--help`: the options, then what can be set for what has been named before it."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object
    ) -> None:
        parser.print_help()
        try:
            more = commands.help_of(parser.prog.split()[-1], namespace)
        except MareyError as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            parser.exit(error.exit_code)
        if more:
            print(f"\n{more}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="marey",
        description="Temporal self-supervision from video: index, train, embed, evaluate.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with some inputs refused.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], Result], text: str):
        made = subparsers.add_parser(name, help=text, description=text, add_help=False)
        made.set_defaults(run=run)
        made.add_argument("-h", "--help", action=_Help, help="show this help")
        made.add_argument(
            "--json", action="store_true", help="print one line of figures at the end"
        )
        return made

    index = command("index", commands.index, "Describe a corpus of videos without decoding it.")
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

    mine = command(
        "mine", commands.mine, "Store samples as shards: tracked patches, tuples, pairs, ..."
    )
    mine.add_argument("data", help="index, image table or image folder")
    mine.add_argument("-o", "--out", required=True, help="folder of shards")
    mine.add_argument(
        "--kind", default="tracks",
        help="tracks (default), tuples, pairs (or view_pairs), time_pairs, clips, spread or frames",
    )  # fmt: skip
    mine.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)
    mine.add_argument("settings", nargs="*", metavar="key=value", help="e.g. proposals.every_s=2")

    track = command("track", commands.track, "Draw what a tracker follows over a video.")
    track.add_argument("video", help="file or URI")
    track.add_argument(
        "--box", action="append",
        help="x,y,w,h in pixels; repeat for more (default: what moves at the start)",
    )  # fmt: skip
    track.add_argument(
        "--tracker", default="strcf", help="name of the tracker (default strcf); see below"
    )
    track.add_argument("--start", type=float, default=0.0, help="seconds (default 0)")
    track.add_argument("--seconds", type=float, default=20.0, help="length (default 20)")
    track.add_argument("-o", "--out", required=True, help="video to write (.mp4)")
    track.add_argument("settings", nargs="*", metavar="key=value", help="e.g. min_score=0.2")

    train = command("train", commands.train, "Train a method on an index, shards or images.")
    train.add_argument("method", help="preset name (see `marey methods`) or a YAML file")
    train.add_argument("--data", required=True, help="index, shards, image table or image folder")
    train.add_argument("-o", "--out", required=True, help="run folder")
    train.add_argument("--probe", help="held-out index or image table for the online probe")
    train.add_argument("--resume", action="store_true", help="go on from the latest checkpoint")
    train.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)
    train.add_argument("settings", nargs="*", metavar="key=value", help="e.g. trainer.epochs=5")

    embed = command("embed", commands.embed, "Write an embedding for every frame of a corpus.")
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

    evaluate = command("eval", commands.evaluate, "Measure how good embeddings are.")
    evaluate.add_argument("protocol", help="what is measured; see below")
    evaluate.add_argument(
        "embeddings",
        help="folder of embeddings; for propagation and finetune: the encoder (run folder or "
        "timm:NAME); for pretext: the run folder; for tracking: a folder of OTB sequences",
    )
    evaluate.add_argument(
        "--data",
        help="finetune, pretext: index or image table; propagation: folder of OTB sequences",
    )
    evaluate.add_argument("--gallery", help="training embeddings (finetune: index or image table)")
    evaluate.add_argument("--labels", help="folder of JSON files, or a CSV or Parquet table")
    evaluate.add_argument("--baseline", help="the same of another encoder (mostly untrained)")
    evaluate.add_argument("--baseline-gallery", help="the gallery of the baseline's encoder")
    evaluate.add_argument("settings", nargs="*", metavar="key=value", help="e.g. k=20")

    report = command(
        "report", commands.report, "One page with pictures of a run, index, shards or embeddings."
    )
    report.add_argument("target", help="run folder, index, shards or folder of embeddings")
    report.add_argument("--baseline", help="embeddings of another encoder, shown beside")
    report.add_argument("--labels", help="labels of embeddings, as for `marey eval`")
    report.add_argument("-o", "--out", required=True, help="page to write (.html)")

    methods = command("methods", commands.methods, "List the methods, or the settings of one.")
    methods.add_argument("name", nargs="?", help="method or preset")

    command(
        "doctor",
        commands.doctor,
        "Say what is installed, what is missing, and what to do about it.",
    )

    demo = command(
        "demo", commands.demo, "The whole job on a generated corpus, or on your own videos."
    )
    demo.add_argument("--videos", help="folder of your own videos")
    demo.add_argument("--views", help="grouping of your own videos, as for `marey index`")
    demo.add_argument("-o", "--out", default="demo", help="folder for everything (default: demo)")
    return parser
