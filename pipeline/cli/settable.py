"""What `--help` adds to the options of a command, and which setting a word may have meant."""

from __future__ import annotations

import argparse

from marey.configs.errors import MareyError


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
