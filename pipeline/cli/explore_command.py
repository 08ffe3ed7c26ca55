"""What `marey explore` does and says."""

from __future__ import annotations

import argparse
import sys

from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, Result


def explore(options: argparse.Namespace) -> Result:
    """Serve a page over embeddings on this machine until the command is ended."""
    from marey.pipeline.cli.locations import check_data, check_there

    if not 0 <= options.port < 65_536:
        raise UsageError(f"--port {options.port}: a number from 1 to 65535, or 0 for any free one")
    made = "write it with `marey embed RUN --data INDEX -o EMBEDDINGS`"
    check_there(options.embeddings, "EMBEDDINGS", made)
    if options.baseline:
        check_there(options.baseline, "--baseline", made)
    if options.data:
        check_data(options.data)
    _say("starting")
    from marey.pipeline.explore.open_session import open_session
    from marey.pipeline.explore.server import Server

    session = open_session(
        options.embeddings, data=options.data, baseline=options.baseline, labels=options.labels,
        say=_say,
    )  # fmt: skip
    try:
        server = Server(session, options.port)
    except OSError as error:
        raise UsageError(f"--port {options.port} cannot be used ({error.strerror})") from error
    with server:
        print(server.address, flush=True)
        _say("open this address in a browser of this machine; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _say("ended")
    return DONE, {"frames": session.about()["frames"]}


def _say(text: str) -> None:
    print(f"explore: {text}", file=sys.stderr, flush=True)
