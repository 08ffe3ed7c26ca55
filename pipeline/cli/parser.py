"""Which words the `marey` command understands, and what it answers to those that it does not."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

import marey
from marey.configs import plugins
from marey.configs.errors import UsageError
from marey.configs.nearest import suggest
from marey.pipeline.cli import commands
from marey.pipeline.cli.commands import Result
from marey.pipeline.cli.explore_command import explore
from marey.pipeline.cli.export_command import export

ENGINE_HELP = "Ray actors, here or on a cluster (default), or this one process"
EXAMPLES = {
    "index": "marey index videos/ -o index.parquet",
    "check": "marey check index.parquet --page check.html",
    "mine": "marey mine index.parquet -o tracks --kind tracks",
    "track": "marey track video.mp4 -o tracked.mp4",
    "train": "marey train tcn_single --data index.parquet -o runs/tcn",
    "estimate": "marey estimate videomae-b --data index.parquet --gpus 8",
    "embed": "marey embed runs/tcn --data index.parquet -o embeddings",
    "eval": "marey eval knn embeddings --labels labels/",
    "report": "marey report runs/tcn -o report.html",
    "export": "marey export embeddings --to atlas -o frames.parquet",
    "explore": "marey explore embeddings --data index.parquet",
    "methods": "marey methods tcn",
    "doctor": "marey doctor",
    "demo": "marey demo -o demo",
    "completion": "marey completion bash",
}
"""A whole command line for each command, as the end of its help and of its refusals."""


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are one sentence that names what to type instead."""

    commands: Mapping[str, Parser] = MappingProxyType({})
    """The parsers of the commands, by name."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError for what argparse could not read."""
        raise UsageError(f"{_plain(message)} (for example: {self.example()})")

    def example(self) -> str:
        """A command line that works."""
        return EXAMPLES.get(self.prog.split()[-1], "marey --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own message lists the choices and no more
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            if isinstance(action, argparse._SubParsersAction):
                raise UsageError(
                    f"there is no command {value!r}{suggest(value, choices)} "
                    "(`marey` alone says what each does)"
                )
            name = "/".join(action.option_strings) or action.dest
            near = suggest(str(value), choices, otherwise="")
            raise UsageError(f"{name} {value}: it is one of {', '.join(choices)}{near}")


def _plain(message: str) -> str:
    """argparse's message in plainer words."""
    missing = "the following arguments are required: "
    if message.startswith(missing):
        names = message.removeprefix(missing).replace("-o/--out", "-o").split(", ")
        names = [name for name in names if name != "key=value"]
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    return message.removeprefix("argument ")


WITHOUT_PLUGINS = ("index", "check", "completion", "demo")
"""Commands that use no part that a plugin could bring."""


READING = ("index", "check", "mine", "train", "embed", "eval", "report")
"""Commands that read the files that an index, or a folder, names."""


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
        more = commands.help_of(parser.prog.split()[-1], namespace)
        parser.print_help()
        if more:
            print(f"\n{more}")
        parser.exit()


def read_words(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line. Raises UsageError for words that mean nothing."""
    parser = build_parser()
    try:
        options, rest = parser.parse_known_args(words)
    except UsageError as error:
        raise UsageError(_misspelt(words, parser) or str(error)) from None
    # argparse takes positional words only in one run; settings may stand anywhere
    wrong = [word for word in rest if word.startswith("-") or "=" not in word]
    if wrong or (rest and not hasattr(options, "settings")):
        raise UsageError(_unread(wrong or rest, rest, parser, options))
    if rest:
        options.settings += rest
    return options


def _misspelt(words: Sequence[str], parser: Parser) -> str:
    """What to type in place of an option that is not there; "" where all are."""
    own = parser.commands.get(words[0], parser)
    known = [option for option in own._option_string_actions if option.startswith("--")]
    for word in words[1:]:
        name = word.partition("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            near = suggest(name, known, otherwise="")
            if near:
                return f"{words[0]} has no option {name}{near}"
    return ""


def _surely(name: str, known: Sequence[str]) -> str:
    """The one option that a misspelt one is nearly equal to; "" where there is none."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.8)), "")


def _unread(wrong: list[str], rest: list[str], parser: Parser, options: argparse.Namespace) -> str:
    """What to type in place of a word that no command line has."""
    own = parser.commands[options.command]
    word = wrong[0]
    name, _, value = word.partition("=")
    if name.startswith("-"):
        known = [option for option in own._option_string_actions if len(option) > 2]
        near = suggest(name, known, otherwise="")
        as_setting = commands.setting_for(name.lstrip("-"), options)
        after = rest[rest.index(word) + 1 :][:1]
        value = value or (after[0] if after and not after[0].startswith("-") else "VALUE")
        if as_setting and not _surely(name, known):
            return f"{options.command} has no option {name}; the setting is {as_setting}={value}"
        return f"{options.command} has no option {name}{near} (for example: {own.example()})"
    if hasattr(options, "settings"):
        return (
            f"{word!r} is one word too many: settings are typed as key=value "
            f"(for example: {own.example()})"
        )
    return f"{word!r} is one word too many (for example: {own.example()})"


def _completion(options: argparse.Namespace) -> Result:
    """Print what completes the command's words in a shell."""
    from marey.pipeline.cli.completion import script

    print(script(options.shell, build_parser().commands))
    return commands.DONE, {"shell": options.shell}


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(
        prog="marey",
        description="Temporal self-supervision from video: index, train, embed, evaluate.",
        epilog="`marey COMMAND --help` lists the options and settings of a command. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with some inputs refused, "
        "4 unfinished: the same command goes on.",
    )
    parser.add_argument("--version", action="version", version=f"marey {marey.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    parser.commands = subparsers.choices

    def command(name: str, run: Callable[[argparse.Namespace], Result], text: str):
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
        made.add_argument("-h", "--help", action=_Help, help="show this help")
        made.add_argument(
            "--json", action="store_true", help="print the results as one line of JSON at the end"
        )
        return made

    index = command("index", commands.index, "Describe a corpus of videos without decoding it.")
    index.add_argument(
        "source", nargs="+",
        help="folder, file, glob, list file (.csv, .tsv, .json, .jsonl, .parquet, .txt) or URI",
    )  # fmt: skip
    index.add_argument("-o", "--out", required=True, help="index to write (.parquet)")
    index.add_argument(
        "--views",
        help="regular expression with the groups event and view, or label, or a CSV of placements",
    )
    index.add_argument(
        "--labels-from", metavar="RULE",
        help="class of a video: `folder` (its parent's name), or a regular expression with the "
        "group label",
    )  # fmt: skip
    index.add_argument(
        "--columns", metavar="NAME=COLUMN,...",
        help="columns of a list file that do not go by their usual names; or how a name is made: "
        "uri={id}.mp4",
    )  # fmt: skip
    again = index.add_mutually_exclusive_group()
    again.add_argument(
        "--append", action="store_true",
        help="add what is new or changed in the sources to an index that is there",
    )  # fmt: skip
    again.add_argument(
        "--refresh", action="store_true",
        help="the same, and drop rows that the sources no longer have",
    )  # fmt: skip
    index.add_argument("--root", help="where a list's relative paths start (default: its folder)")
    index.add_argument(
        "--times", choices=("seconds", "frames"), default="seconds",
        help="what starts and ends in a list file count",
    )  # fmt: skip
    index.add_argument("--rows-at", metavar="NAMES", help="where in a JSON list the rows are: a.b")
    index.add_argument(
        "--layout", metavar="NAME",
        help="how the videos lie in storage: files, lerobot, webdataset, zip, huggingface, frames "
        "(default: recognised; docs/corpora.md)",
    )  # fmt: skip
    index.add_argument(
        "--frames-fps", type=float, metavar="FPS",
        help="the sources are folders of numbered images, so many frames per second",
    )  # fmt: skip
    index.add_argument(
        "--motion", choices=("packets", "vectors", "flow", "none"), default="packets",
        help="how motion is measured (packets: without decoding; vectors and flow decode)",
    )  # fmt: skip
    index.add_argument(
        "--sync", choices=("audio", "motion"),
        help="estimate the clock offsets of an event's views from their sound or their motion",
    )  # fmt: skip
    index.add_argument(
        "--sync-within", type=float, default=30.0, metavar="SECONDS",
        help="largest offset that --sync looks for (default 30)",
    )  # fmt: skip
    index.add_argument("--workers", type=int, help="number of processes (default: one per core)")
    index.add_argument(
        "--time-limit", type=float, metavar="SECONDS",
        help="timeout per file; a file that exceeds it is marked unreadable "
        "(default 600, or 3600 where --motion decodes)",
    )  # fmt: skip

    check = command(
        "check", commands.check, "Look for faults in a data set: broken, frozen, doubled, swapped."
    )
    check.add_argument("index", help="index to check (.parquet)")
    check.add_argument("-o", "--out", help="index to write without the faulty videos (.parquet)")
    check.add_argument("--page", help="page to write, with the worst cases as pictures (.html)")
    check.add_argument(
        "--min-seconds", type=float, default=0.0, metavar="SECONDS",
        help="shorter videos are too short (default: only those below a fifth of the median)",
    )  # fmt: skip
    check.add_argument("--workers", type=int, help="number of processes (default: one per core)")

    mine = command(
        "mine", commands.mine, "Write samples to shards: tracked patches, tuples, pairs, clips, ..."
    )
    mine.add_argument("data", help="index, image table or image folder")
    mine.add_argument("-o", "--out", required=True, help="folder of shards")
    mine.add_argument(
        "--kind", default="tracks",
        help="tracks (default), tuples, pairs (or view_pairs), time_pairs, clips, spread or frames",
    )  # fmt: skip
    mine.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)
    mine.add_argument("settings", nargs="*", metavar="key=value", help="e.g. proposals.every_s=2")

    track = command("track", commands.track, "Track objects in a video and draw their boxes.")
    track.add_argument("video", help="file or URI")
    track.add_argument(
        "--box", action="append",
        help="x,y,w,h in pixels; may be repeated (default: what moves at the start)",
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
    train.add_argument(
        "--data", required=True, action="append",
        help="index, shards, image table or image folder; given several times, a mixture of "
        "corpora, with weights: --data a.parquet:3 --data b.parquet:1",
    )  # fmt: skip
    train.add_argument("-o", "--out", required=True, help="run folder")
    train.add_argument("--probe", help="held-out index or image table for the online probe")
    train.add_argument("--resume", action="store_true", help="resume from the latest checkpoint")
    train.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)
    train.add_argument(
        "settings", nargs="*", metavar="key=value",
        help="e.g. trainer.epochs=5; mining.KEY=VALUE for tracks that are mined first",
    )  # fmt: skip

    estimate = command(
        "estimate", commands.estimate,
        "Say what a run will take: parameters, operations, memory, decoding, hours.",
    )  # fmt: skip
    estimate.add_argument("method", help="preset name (see `marey methods`) or a YAML file")
    estimate.add_argument(
        "--data", required=True, help="index, shards, image table or image folder"
    )
    estimate.add_argument("--gpus", type=int, default=0, help="number of GPUs (default 0: the CPU)")
    estimate.add_argument(
        "--tflops", type=float, metavar="N",
        help="sustained TFLOP/s of one GPU, or of the CPU (default 150, or 0.05)",
    )  # fmt: skip
    estimate.add_argument("settings", nargs="*", metavar="key=value", help="e.g. trainer.epochs=5")

    embed = command("embed", commands.embed, "Write an embedding for every frame of a corpus.")
    embed.add_argument(
        "encoder", help="run folder, pixels, histogram, timm:NAME or timm:NAME@WEIGHTS"
    )
    embed.add_argument("--data", required=True, help="index, image table or image folder")
    embed.add_argument("-o", "--out", required=True, help="folder of embeddings")
    embed.add_argument(
        "--fps", type=float, default=1.0, help="frames per second (default 1; 0: every frame)"
    )
    embed.add_argument(
        "--copies", type=int, default=0,
        help="embed N strongly augmented copies of each frame instead (for `marey eval copies`)",
    )  # fmt: skip
    embed.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32",
        help="data type of the stored embeddings (default float32)",
    )  # fmt: skip
    embed.add_argument("--engine", choices=("ray", "local"), default="ray", help=ENGINE_HELP)

    evaluate = command("eval", commands.evaluate, "Measure how good embeddings are.")
    evaluate.add_argument("protocol", help="what is measured; see below")
    evaluate.add_argument(
        "embeddings",
        help="folder of embeddings; for propagation, finetune and attentive: the encoder (run "
        "folder or timm:NAME); for pretext: the run folder; for tracking: a folder of sequences "
        "(OTB, LaSOT, GOT-10k, VOT)",
    )
    evaluate.add_argument(
        "--data",
        help="finetune, attentive, pretext: index or image table; propagation: folder of tracked "
        "sequences",
    )
    evaluate.add_argument(
        "--gallery", help="training embeddings (finetune, attentive: index or image table)"
    )
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

    out = command("export", export, "Write embeddings or an encoder for other programs.")
    out.add_argument("target", help="folder of embeddings; for an encoder: run folder, timm:NAME")
    out.add_argument(
        "--to", required=True, choices=("atlas", "projector", "timm", "torch", "onnx"),
        help="embeddings: atlas (Parquet for Embedding Atlas), projector (folder for TensorBoard); "
        "encoders: timm (plain weights for timm or torchvision, a folder), torch (torch.export "
        "program, .pt2), onnx (.onnx), both with the preprocessing inside",
    )  # fmt: skip
    out.add_argument("-o", "--out", required=True, help="file or folder to write")
    out.add_argument("--data", help="embeddings: what was embedded, if it has moved")
    out.add_argument(
        "--neighbors", type=int, default=10,
        help="atlas: nearest moments of this many other videos for each frame (default 10)",
    )  # fmt: skip
    out.add_argument(
        "--thumbnail", type=int, default=96, metavar="PIXELS",
        help="embeddings: longer side of each frame's picture (default 96; 0: no pictures)",
    )  # fmt: skip

    page = command("explore", explore, "Explore embeddings in the browser of this machine.")
    page.add_argument("embeddings", help="folder of embeddings")
    page.add_argument("--data", help="what was embedded, if it has moved")
    page.add_argument("--baseline", help="embeddings of another encoder (mostly untrained), beside")
    page.add_argument("--labels", help="labels to colour by, as for `marey eval`")
    page.add_argument(
        "--port", type=int, default=0, help="port of this machine (default: any free one)"
    )

    methods = command("methods", commands.methods, "List the methods, or the settings of one.")
    methods.add_argument("name", nargs="?", help="method or preset")

    command(
        "doctor",
        commands.doctor,
        "Say what is installed, what is missing, and what to do about it.",
    )

    shell = command("completion", _completion, "Print what completes marey's words in a shell.")
    shell.add_argument("shell", choices=("bash", "zsh", "fish"), help="your shell")

    demo = command(
        "demo", commands.demo, "The whole job on a generated corpus, or on your own videos."
    )
    demo.add_argument("--videos", help="folder of your own videos")
    demo.add_argument("--views", help="grouping of your own videos, as for `marey index`")
    demo.add_argument("-o", "--out", default="demo", help="folder for everything (default: demo)")
    return parser
