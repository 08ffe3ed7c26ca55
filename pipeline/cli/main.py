"""The `marey` command: how it starts, and how it ends."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from marey.configs import plugins
from marey.configs.errors import MareyError
from marey.pipeline.cli.command_options import build_parser
from marey.pipeline.cli.outcome import DONE, FAILED
from marey.pipeline.cli.read_words import read_words
from marey.pipeline.runtime.cores import wait_asleep
from marey.pipeline.runtime.roots import declaring
from marey.pipeline.runtime.stores import refuse_secrets


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
    said = f"marey {words[0]}" if not words[0].startswith("-") else "marey"
    wait_asleep()
    plugins.look_here()
    try:
        refuse_secrets(words)
        options = read_words(words)
        if hasattr(options, "imported"):
            plugins.use(*plugins.named())
        with _ended_in_order(), declaring(getattr(options, "roots", None)):
            code, figures = options.run(options)
        if options.json:
            print(json.dumps(figures))
        sys.stdout.flush()
    except MareyError as error:
        print(f"{said}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{said}: interrupted", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # nobody reads on: what is still to be written would fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"{said}: {error}", file=sys.stderr)
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
