"""A parser whose refusals say in one sentence what to type instead."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from marey.configs.errors import UsageError
from marey.configs.nearest import suggest
from marey.pipeline.cli.outcome import Result

EXAMPLES = {
    "index": "marey index videos/ -o index.parquet",
    "check": "marey check index.parquet --page check.html",
    "mine": "marey mine index.parquet -o tracks --kind tracks",
    "track": "marey track video.mp4 -o tracked.mp4",
    "train": "marey train tcn_single --data index.parquet -o runs/tcn",
    "estimate": "marey estimate videomae-b --data index.parquet --gpus 8",
    "embed": "marey embed runs/tcn --data index.parquet -o embeddings",
    "eval": "marey eval knn embeddings --labels labels/",
    "find": "marey find embeddings walk.mp4 3.5 --page moments.html",
    "report": "marey report runs/tcn -o report.html",
    "export": "marey export embeddings --to atlas -o frames.parquet",
    "explore": "marey explore embeddings --data index.parquet",
    "status": "marey status runs/tcn",
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


Run = Callable[[argparse.Namespace], Result]
Adds = Callable[[str, Run, str], Parser]
"""Adds a command by name, what runs it, and what it does."""


def add_engine(parser: Parser) -> None:
    """`--engine`, of the commands that work through Ray."""
    parser.add_argument(
        "--engine", choices=("ray", "local"), default="ray",
        help="Ray actors, here or on a cluster (default), or this one process",
    )  # fmt: skip


def _plain(message: str) -> str:
    """argparse's message in plainer words."""
    missing = "the following arguments are required: "
    if message.startswith(missing):
        names = message.removeprefix(missing).replace("-o/--out", "-o").split(", ")
        names = [name for name in names if name != "key=value"]
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    return message.removeprefix("argument ")
