"""What completes the words of `marey` in a shell: `marey completion bash`, `zsh` or `fish`.

The scripts hold the commands, options and choices, and the names of presets, protocols and trackers
as they were when the script was made; completing starts no process.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from marey.configs.mining import SHORT
from marey.configs.recipes import presets, published
from marey.configs.sampling import kinds
from marey.pipeline.cli.declared import all_methods
from marey.pipeline.evaluate.protocols import protocols
from marey.trackers import names

Words = Mapping[str, list[str]]
"""By option (or "" for the first word after the command): what may follow."""


def script(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """The script for a shell: bash, zsh or fish. commands: the parsers of the commands."""
    table = {name: _words(name, own) for name, own in commands.items()}
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](table)


def _words(name: str, parser: argparse.ArgumentParser) -> Words:
    first = {
        "train": [*presets(), *published()],
        "estimate": [*presets(), *published()],
        "methods": sorted({*presets(), *published(), *(one.name for one in all_methods())}),
        "eval": [*protocols()],
        "completion": ["bash", "zsh", "fish"],
    }
    values: dict[str, list[str]] = {"": first.get(name, [])}
    for action in parser._actions:
        for option in action.option_strings:
            values[option] = _choices(action)
    return values


def _choices(action: argparse.Action) -> list[str]:
    known = {"--tracker": [*names()], "--kind": sorted({*kinds(), *SHORT})}
    named = next((known[o] for o in action.option_strings if o in known), [])
    return named or [str(choice) for choice in action.choices or ()]


def _bash(table: Mapping[str, Words]) -> str:
    cases = []
    for command, words in table.items():
        options = " ".join(option for option in words if option)
        values = [
            f'        {option}) COMPREPLY=($(compgen -W "{" ".join(own)}" -- "$word")); return;;'
            for option, own in words.items()
            if option and own
        ]
        first = " ".join(words[""])
        cases += [
            f"    {command})",
            *(['        case "$before" in', *values, "        esac"] if values else []),
            f'        [[ $COMP_CWORD -eq 2 && $word != -* ]] && known="{first}"',
            f'        [[ $word == -* ]] && known="{options}"',
            "        ;;",
        ]
    lines = [
        "# completion of marey for bash: marey completion bash > "
        "~/.local/share/bash-completion/completions/marey",
        "_marey() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" known=""',
        f'    [[ $COMP_CWORD -eq 1 ]] && known="{" ".join(table)} --help --version"',
        '    case "${COMP_WORDS[1]}" in',
        *cases,
        "    esac",
        '    COMPREPLY=($(compgen -W "$known" -- "$word"))',
        "}",
        "complete -o default -o bashdefault -F _marey marey",
    ]
    return "\n".join(lines)


def _zsh(table: Mapping[str, Words]) -> str:
    bash = _bash(table).splitlines()[1:]
    lines = [
        "#compdef marey",
        "# completion of marey for zsh: marey completion zsh > a folder of $fpath/_marey",
        "autoload -U +X bashcompinit && bashcompinit",
        *bash,
    ]
    return "\n".join(lines)


def _fish(table: Mapping[str, Words]) -> str:
    lines = [
        "# completion of marey for fish: marey completion fish > "
        "~/.config/fish/completions/marey.fish",
        f"complete -c marey -n __fish_use_subcommand -f -a '{' '.join(table)}'",
    ]
    for command, words in table.items():
        seen = f"-n '__fish_seen_subcommand_from {command}'"
        if words[""]:
            lines.append(f"complete -c marey {seen} -a '{' '.join(words[''])}'")
        for option, own in words.items():
            if option:
                kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
                values = f" -x -a '{' '.join(own)}'" if own else ""
                lines.append(f"complete -c marey {seen} {kind}{values}")
    return "\n".join(lines)
