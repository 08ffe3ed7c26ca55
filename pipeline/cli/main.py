"""The `marey` command: how it starts, and how it ends."""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from marey.configs import plugins
from marey.configs.errors import MareyError
from marey.pipeline.cli.command_options import build_parser
from marey.pipeline.cli.going_on import way_on
from marey.pipeline.cli.outcome import DONE, FAILED
from marey.pipeline.cli.read_words import read_words
from marey.pipeline.runtime import stopping
from marey.pipeline.runtime.cores import wait_asleep
from marey.pipeline.runtime.json_lines import json_lines
from marey.pipeline.runtime.roots import declaring
from marey.pipeline.runtime.stores import refuse_secrets
from marey.pipeline.runtime.telling import telling

LOG = "MAREY_LOG"
"""The variable that asks for lines of JSON in place of text: `json`."""


def command() -> NoReturn:
    """The process of the command: it ends with the exit code of `main`, whatever threads are left.

    A thread that is in C++ when Python ends (a decoder that hangs, see `isolate.within`) may take
    the process down as it comes back, after all is done: "terminate called without an active
    exception". So where one is left, the process ends without waiting for Python to be torn down.
    """
    try:
        code = main()
    except SystemExit as ended:  # --help, --version
        code = int(ended.code or 0)
    if any(thread.daemon for thread in threading.enumerate()):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Without any word, the commands are listed."""
    words = sys.argv[1:] if words is None else words
    if not words:
        build_parser().print_help()
        return DONE
    with json_lines(words[0], os.environ.get(LOG) == "json"):
        return _run(words)


def _run(words: Sequence[str]) -> int:
    """Run the command of these words; returns its exit code, having said what went wrong."""
    said = f"marey {words[0]}" if not words[0].startswith("-") else "marey"
    wait_asleep()
    plugins.look_here()
    try:
        refuse_secrets(words)
        options = read_words(words)
        if hasattr(options, "imported"):
            plugins.use(*plugins.named())
        with (
            stopping.answering(),
            telling(words),
            declaring(getattr(options, "roots", None)),
        ):
            code, figures = options.run(options)
        if options.json:
            print(json.dumps(figures))
        sys.stdout.flush()
    except stopping.StoppedError as error:
        print(f"{said}: {error}{way_on(words)}", file=sys.stderr)
        return error.exit_code
    except MareyError as error:
        print(f"{said}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{said}: interrupted{way_on(words)}", file=sys.stderr)
        return stopping.exit_code()
    except BrokenPipeError:
        # nobody reads on: what is still to be written would fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"{said}: {error}", file=sys.stderr)
        return FAILED
    return code
