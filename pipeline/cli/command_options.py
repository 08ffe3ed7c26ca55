"""Which commands and options there are, and what each option means."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import marey
from marey.configs import plugins
from marey.pipeline.cli.check_command import check
from marey.pipeline.cli.commands import demo, doctor, methods, report
from marey.pipeline.cli.embed_command import embed
from marey.pipeline.cli.estimate_command import estimate
from marey.pipeline.cli.eval_command import evaluate
from marey.pipeline.cli.explore_command import explore
from marey.pipeline.cli.export_command import export
from marey.pipeline.cli.index_command import index
from marey.pipeline.cli.mine_command import mine
from marey.pipeline.cli.outcome import DONE, Result
from marey.pipeline.cli.parser import EXAMPLES, Parser
from marey.pipeline.cli.settable import help_of
from marey.pipeline.cli.status_command import status
from marey.pipeline.cli.track_command import track
from marey.pipeline.cli.train_command import train

_Run = Callable[[argparse.Namespace], Result]
_Adds = Callable[[str, _Run, str], Parser]
"""Adds a command by name, what runs it, and what it does."""

ENGINE_HELP = "Ray actors, here or on a cluster (default), or this one process"
WITHOUT_PLUGINS = ("completion", "demo", "status")
"""Commands that use no part that a plugin could bring."""

WRITING = {
    "index": "index", "mine": "shards", "train": "run", "embed": "embeddings", "export": "export",
    "demo": "demo",
}  # fmt: skip
"""Commands that leave a finished result as it is, and what that is called."""

READING = ("index", "check", "mine", "train", "embed", "eval", "report")
"""Commands that read the files that an index, or a folder, names."""


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(
        prog="marey",
        description="Temporal self-supervision from video: index, train, embed, evaluate.",
        epilog="`marey COMMAND --help` lists the options and settings of a command. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with some inputs refused, "
        "4 unfinished: the same command goes on, 130 interrupted by Ctrl-C, 143 by SIGTERM.",
    )
    parser.add_argument("--version", action="version", version=f"marey {marey.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    parser.commands = subparsers.choices

    def command(name: str, run: _Run, text: str) -> Parser:
        made = subparsers.add_parser(
            name, help=text, description=text, add_help=False,
            epilog=f"Example: {EXAMPLES[name]}",
        )  # fmt: skip
        made.set_defaults(run=run)
        if name not in WITHOUT_PLUGINS:
            made.add_argument(
                "--import", action=_Import, dest="imported", metavar="MODULE",
                help="import a plugin by its name in Python, from this folder or an installed "
                "package (docs/extending.md); may be repeated",
            )  # fmt: skip
        if name in READING:
            made.add_argument(
                "--roots", action="append", metavar="PLACE",
                help="read videos and pictures only below this folder or URI, its links followed; "
                "may be repeated (default: what was indexed; docs/threat_model.md)",
            )  # fmt: skip
        if name in WRITING:
            made.add_argument(
                "--overwrite", action="store_true",
                help=f"make the {WRITING[name]} anew where one is there already",
            )  # fmt: skip
        made.add_argument("-h", "--help", action=_Help, help="show this help")
        made.add_argument(
            "--json", action="store_true", help="print the results as one line of JSON at the end"
        )
        return made

    for add in (
        _index, _check, _mine, _track, _train, _estimate, _embed, _eval, _report, _export,
        _explore, _status, _methods, _doctor, _completion, _demo,
    ):  # fmt: skip
        add(command)
    return parser


class _Import(argparse.Action):
    """`--import MODULE`: at once, so that what follows, `--help` too, knows what it brings."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *_: object
    ) -> None:
        plugins.use(value)


class _Help(argparse.Action):
    """`--help`: the options, then what can be set for what has been named before it."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object
    ) -> None:
        more = help_of(parser.prog.split()[-1], namespace)
        parser.print_help()
        if more:
            print(f"\n{more}")
        parser.exit()


def _index(command: _Adds) -> None:
    made = command("index", index, "Describe a corpus of videos without decoding it.")
    made.add_argument(
        "source", nargs="+",
        help="folder, file, glob, list file (.csv, .tsv, .json, .jsonl, .parquet, .txt) or URI",
    )  # fmt: skip
    made.add_argument(
        "-o",
        "--out",
        required=True,
        help="index to write: a .parquet file, or FOLDER/ for one in parts",
    )
    made.add_argument(
        "--views",
        help="regular expression with the groups event and view, or label, or a CSV of placements",
    )
    made.add_argument(
        "--labels-from", metavar="RULE",
        help="class of a video: `folder` (its parent's name), or a regular expression with the "
        "group label",
    )  # fmt: skip
    made.add_argument(
        "--columns", metavar="NAME=COLUMN,...",
        help="columns of a list file that do not go by their usual names; or how a name is made: "
        "uri={id}.mp4",
    )  # fmt: skip
    again = made.add_mutually_exclusive_group()
    again.add_argument(
        "--append", action="store_true",
        help="add what is new or changed in the sources to an index that is there",
    )  # fmt: skip
    again.add_argument(
        "--refresh", action="store_true",
        help="the same, and drop rows that the sources no longer have",
    )  # fmt: skip
    made.add_argument("--root", help="where a list's relative paths start (default: its folder)")
    made.add_argument(
        "--times", choices=("seconds", "frames"), default="seconds",
        help="what starts and ends in a list file count",
    )  # fmt: skip
    made.add_argument("--rows-at", metavar="NAMES", help="where in a JSON list the rows are: a.b")
    made.add_argument(
        "--layout", metavar="NAME",
        help="how the videos lie in storage: files, lerobot, webdataset, zip, huggingface, frames "
        "(default: recognised; docs/corpora.md)",
    )  # fmt: skip
    made.add_argument(
        "--frames-fps", type=float, metavar="FPS",
        help="the sources are folders of numbered images, so many frames per second",
    )  # fmt: skip
    made.add_argument(
        "--motion", choices=("packets", "vectors", "flow", "none"), default="packets",
        help="how motion is measured (packets: without decoding; vectors and flow decode)",
    )  # fmt: skip
    made.add_argument(
        "--scan", choices=("header", "full"), default="header",
        help="header: MP4 and MOV files by their tables, a few reads each; full: read every file "
        "to its end",
    )  # fmt: skip
    made.add_argument(
        "--sync", choices=("audio", "motion"),
        help="estimate the clock offsets of an event's views from their sound or their motion",
    )  # fmt: skip
    made.add_argument(
        "--sync-within", type=float, default=30.0, metavar="SECONDS",
        help="largest offset that --sync looks for (default 30)",
    )  # fmt: skip
    made.add_argument("--workers", type=int, help="number of processes (default: one per core)")
    made.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="local: processes of this machine; ray: actors of the cluster, which all reach the "
        "files and the folder of the index (default: local)",
    )  # fmt: skip
    made.add_argument(
        "--time-limit", type=float, metavar="SECONDS",
        help="timeout per file; a file that exceeds it is marked unreadable "
        "(default 600, or 3600 where --motion decodes)",
    )  # fmt: skip


def _check(command: _Adds) -> None:
    made = command(
        "check", check, "Look for faults in a data set: broken, frozen, doubled, swapped."
    )
    made.add_argument("index", help="index to check (.parquet)")
    made.add_argument("-o", "--out", help="index to write without the faulty videos (.parquet)")
    made.add_argument("--page", help="page to write, with the worst cases as pictures (.html)")
    made.add_argument(
        "--min-seconds", type=float, default=0.0, metavar="SECONDS",
        help="shorter videos are too short (default: only those below a fifth of the median)",
    )  # fmt: skip
    made.add_argument("--workers", type=int, help="number of processes (default: one per core)")


def _mine(command: _Adds) -> None:
    made = command(
        "mine", mine, "Write samples to shards: tracked patches, tuples, pairs, clips, ..."
    )
    made.add_argument("data", help="index, image table or image folder")
    made.add_argument("-o", "--out", required=True, help="folder of shards")
    made.add_argument(
        "--kind", default="tracks",
        help="tracks (default), tuples, pairs (or view_pairs), time_pairs, clips, spread or frames",
    )  # fmt: skip
    made.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)
    made.add_argument("settings", nargs="*", metavar="key=value", help="e.g. proposals.every_s=2")


def _track(command: _Adds) -> None:
    made = command("track", track, "Track objects in a video and draw their boxes.")
    made.add_argument("video", help="file or URI")
    made.add_argument(
        "--box", action="append",
        help="x,y,w,h in pixels; may be repeated (default: what moves at the start)",
    )  # fmt: skip
    made.add_argument(
        "--tracker", default="strcf", help="name of the tracker (default strcf); see below"
    )
    made.add_argument("--start", type=float, default=0.0, help="seconds (default 0)")
    made.add_argument("--seconds", type=float, default=20.0, help="length (default 20)")
    made.add_argument("-o", "--out", required=True, help="video to write (.mp4)")
    made.add_argument("settings", nargs="*", metavar="key=value", help="e.g. min_score=0.2")


def _train(command: _Adds) -> None:
    made = command("train", train, "Train a method on an index, shards or images.")
    made.add_argument("method", help="preset name (see `marey methods`) or a YAML file")
    made.add_argument(
        "--data", required=True, action="append",
        help="index, shards, image table or image folder; given several times, a mixture of "
        "corpora, with weights: --data a.parquet:3 --data b.parquet:1",
    )  # fmt: skip
    made.add_argument("-o", "--out", required=True, help="run folder")
    made.add_argument("--probe", help="held-out index or image table for the online probe")
    made.add_argument("--resume", action="store_true", help="resume from the latest checkpoint")
    made.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)
    made.add_argument(
        "settings", nargs="*", metavar="key=value",
        help="e.g. trainer.epochs=5; mining.KEY=VALUE for tracks that are mined first",
    )  # fmt: skip


def _estimate(command: _Adds) -> None:
    made = command(
        "estimate", estimate,
        "Say what a run will take: parameters, operations, memory, decoding, hours.",
    )  # fmt: skip
    made.add_argument("method", help="preset name (see `marey methods`) or a YAML file")
    made.add_argument("--data", required=True, help="index, shards, image table or image folder")
    made.add_argument("--gpus", type=int, default=0, help="number of GPUs (default 0: the CPU)")
    made.add_argument(
        "--tflops", type=float, metavar="N",
        help="sustained TFLOP/s of one GPU, or of the CPU (default 150, or 0.05)",
    )  # fmt: skip
    made.add_argument("settings", nargs="*", metavar="key=value", help="e.g. trainer.epochs=5")


def _embed(command: _Adds) -> None:
    made = command("embed", embed, "Write an embedding for every frame of a corpus.")
    made.add_argument(
        "encoder", help="run folder, pixels, histogram, timm:NAME or timm:NAME@WEIGHTS"
    )
    made.add_argument("--data", required=True, help="index, image table or image folder")
    made.add_argument("-o", "--out", required=True, help="folder of embeddings")
    made.add_argument(
        "--fps", type=float, default=1.0, help="frames per second (default 1; 0: every frame)"
    )
    made.add_argument(
        "--copies", type=int, default=0,
        help="embed N strongly augmented copies of each frame instead (for `marey eval copies`)",
    )  # fmt: skip
    made.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32",
        help="data type of the stored embeddings (default float32)",
    )  # fmt: skip
    made.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)


def _eval(command: _Adds) -> None:
    made = command("eval", evaluate, "Measure how good embeddings are.")
    made.add_argument("protocol", help="what is measured; see below")
    made.add_argument(
        "embeddings",
        help="folder of embeddings; for propagation, finetune and attentive: the encoder (run "
        "folder or timm:NAME); for pretext: the run folder; for tracking: a folder of sequences "
        "(OTB, LaSOT, GOT-10k, VOT)",
    )
    made.add_argument(
        "--data",
        help="finetune, attentive, pretext: index or image table; propagation: folder of tracked "
        "sequences",
    )
    made.add_argument(
        "--gallery", help="training embeddings (finetune, attentive: index or image table)"
    )
    made.add_argument("--labels", help="folder of JSON files, or a CSV or Parquet table")
    made.add_argument("--baseline", help="the same of another encoder (mostly untrained)")
    made.add_argument("--baseline-gallery", help="the gallery of the baseline's encoder")
    made.add_argument("settings", nargs="*", metavar="key=value", help="e.g. k=20")


def _report(command: _Adds) -> None:
    made = command(
        "report", report, "One page with pictures of a run, index, shards or embeddings."
    )
    made.add_argument("target", help="run folder, index, shards or folder of embeddings")
    made.add_argument("--baseline", help="embeddings of another encoder, shown beside")
    made.add_argument("--labels", help="labels of embeddings, as for `marey eval`")
    made.add_argument("-o", "--out", required=True, help="page to write (.html)")


def _export(command: _Adds) -> None:
    made = command("export", export, "Write embeddings or an encoder for other programs.")
    made.add_argument("target", help="folder of embeddings; for an encoder: run folder, timm:NAME")
    made.add_argument(
        "--to", required=True,
        choices=("atlas", "projector", "timm", "transformers", "torch", "onnx"),
        help="embeddings: atlas (Parquet for Embedding Atlas), projector (folder for TensorBoard); "
        "encoders: timm (plain weights for timm or torchvision, a folder), transformers (of V-JEPA "
        "2, a folder), torch (torch.export program, .pt2), onnx (.onnx), both with the "
        "preprocessing inside",
    )  # fmt: skip
    made.add_argument("-o", "--out", required=True, help="file or folder to write")
    made.add_argument("--data", help="embeddings: what was embedded, if it has moved")
    made.add_argument(
        "--neighbors", type=int, default=10,
        help="atlas: nearest moments of this many other videos for each frame (default 10)",
    )  # fmt: skip
    made.add_argument(
        "--thumbnail", type=int, default=96, metavar="PIXELS",
        help="embeddings: longer side of each frame's picture (default 96; 0: no pictures)",
    )  # fmt: skip


def _explore(command: _Adds) -> None:
    made = command("explore", explore, "Explore embeddings in the browser of this machine.")
    made.add_argument("embeddings", help="folder of embeddings")
    made.add_argument("--data", help="what was embedded, if it has moved")
    made.add_argument("--baseline", help="embeddings of another encoder (mostly untrained), beside")
    made.add_argument("--labels", help="labels to colour by, as for `marey eval`")
    made.add_argument(
        "--port", type=int, default=0, help="port of this machine (default: any free one)"
    )


def _status(command: _Adds) -> None:
    made = command("status", status, "Say how far a command is, while it runs and after.")
    made.add_argument(
        "run_folder", metavar="FOLDER",
        help="the -o of a command: run folder, shards, embeddings, demo, or an index (.parquet)",
    )  # fmt: skip
    made.add_argument(
        "--watch", type=float, metavar="SECONDS", help="again every so many seconds until it ends"
    )
    made.add_argument(
        "--refused-above", type=float, metavar="SHARE",
        help="alarm (exit code 5) where a larger share of what was read is refused, e.g. 0.05",
    )  # fmt: skip
    made.add_argument(
        "--rate-below", type=float, metavar="SHARE",
        help="alarm where the rate of the last minute is below this share of the highest so far",
    )  # fmt: skip
    made.add_argument(
        "--on-alarm", metavar="COMMAND",
        help="command to run at the first alarm, without a shell, with the status as JSON on its "
        "input, e.g. 'curl -sd @- https://example.org/hook'",
    )  # fmt: skip


def _methods(command: _Adds) -> None:
    made = command("methods", methods, "List the methods, or the settings of one.")
    made.add_argument("name", nargs="?", help="method or preset")


def _doctor(command: _Adds) -> None:
    command(
        "doctor",
        doctor,
        "Say what is installed, what is missing, and what to do about it.",
    )


def _completion(command: _Adds) -> None:
    made = command("completion", _complete, "Print what completes marey's words in a shell.")
    made.add_argument("shell", choices=("bash", "zsh", "fish"), help="your shell")


def _demo(command: _Adds) -> None:
    made = command("demo", demo, "The whole job on a generated corpus, or on your own videos.")
    made.add_argument("--videos", help="folder of your own videos")
    made.add_argument("--views", help="grouping of your own videos, as for `marey index`")
    made.add_argument("-o", "--out", default="demo", help="folder for everything (default: demo)")


def _complete(options: argparse.Namespace) -> Result:
    """Print what completes the command's words in a shell."""
    from marey.pipeline.cli.completion import script

    print(script(options.shell, build_parser().commands))
    return DONE, {"shell": options.shell}
