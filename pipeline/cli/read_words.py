"""What a command line says; what is typed wrong is answered with what to type instead."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

from marey.configs.errors import UsageError
from marey.configs.nearest import suggest
from marey.pipeline.cli.command_options import build_parser
from marey.pipeline.cli.parser import Parser
from marey.pipeline.cli.settable import setting_for


def read_words(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line. Raises UsageError for words that mean nothing."""
    parser = build_parser()
    try:
        options, rest = parser.parse_known_args(words)
    except UsageError as error:
        raise UsageError(_misspelt(words, parser) or str(error)) from None
    # argparse takes positional words only in one run; settings may stand anywhere. A word behind an
    # unknown option is left over up to Python 3.13, and a setting from 3.14 on.
    strays = [word for word in getattr(options, "settings", ()) if "=" not in word]
    wrong = [word for word in rest if word.startswith("-") or "=" not in word] + strays
    if wrong or (rest and not hasattr(options, "settings")):
        raise UsageError(_unread(wrong or rest, words, parser, options))
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


def _unread(
    wrong: list[str], words: Sequence[str], parser: Parser, options: argparse.Namespace
) -> str:
    """What to type in place of a word that no command line has."""
    own = parser.commands[options.command]
    word = wrong[0]
    name, _, value = word.partition("=")
    if name.startswith("-"):
        known = [option for option in own._option_string_actions if len(option) > 2]
        near = suggest(name, known, otherwise="")
        as_setting = setting_for(name.lstrip("-"), options)
        after = words[words.index(word) + 1 :][:1]
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
