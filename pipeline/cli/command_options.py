"""Which commands are there, and what do they share? Their own options stand beside."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import marey
from marey.configs import plugins
from marey.pipeline.cli import corpus_options as corpus
from marey.pipeline.cli import result_options as results
from marey.pipeline.cli.commands import demo, doctor, methods
from marey.pipeline.cli.outcome import DONE, Result
from marey.pipeline.cli.parser import EXAMPLES, Adds, Parser, Run
from marey.pipeline.cli.settable import help_of

WITHOUT_PLUGINS = ("completion", "demo", "status")
"""Commands that use no part that a plugin could bring."""

WRITING = {
    "index": "index", "mine": "shards", "train": "run", "embed": "embeddings", "export": "export",
    "demo": "demo",
}  # fmt: skip
"""Commands that leave a finished result as it is, and what that is called."""

READING = ("index", "check", "mine", "train", "embed", "eval", "find", "report")
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

    def command(name: str, run: Run, text: str) -> Parser:
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
        corpus.index_options, corpus.check_options, corpus.mine_options, corpus.track_options,
        results.train_options, results.estimate_options, results.embed_options,
        results.eval_options, results.find_options, results.report_options,
        results.export_options, results.explore_options, results.status_options,
        _methods, _doctor, _completion, _demo,
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


def _methods(command: Adds) -> None:
    made = command("methods", methods, "List the methods, or the settings of one.")
    made.add_argument("name", nargs="?", help="method or preset")


def _doctor(command: Adds) -> None:
    command(
        "doctor",
        doctor,
        "Say what is installed, what is missing, and what to do about it.",
    )


def _completion(command: Adds) -> None:
    made = command("completion", _complete, "Print what completes marey's words in a shell.")
    made.add_argument("shell", choices=("bash", "zsh", "fish"), help="your shell")


def _demo(command: Adds) -> None:
    made = command("demo", demo, "The whole job on a generated corpus, or on your own videos.")
    made.add_argument("--videos", help="folder of your own videos")
    made.add_argument("--views", help="grouping of your own videos, as for `marey index`")
    made.add_argument("-o", "--out", default="demo", help="folder for everything (default: demo)")


def _complete(options: argparse.Namespace) -> Result:
    """Print what completes the command's words in a shell."""
    from marey.pipeline.cli.completion import script

    print(script(options.shell, build_parser().commands))
    return DONE, {"shell": options.shell}
