"""Commands given in a folder outside the repository, each in a process of its own.

The processes are forked from one that has imported torch, since that takes most of a command's
time; no plugin is known to that one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SERVER = """
import json, os, sys
from marey.models.method import _import_families
from marey.pipeline.cli.main import main
import marey.public
_import_families()
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        os.environ |= order["environment"]
        out = os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        code = 70
        try:
            code = main(order["words"])
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Outside:
    """A folder, and the commands that are given in it."""

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        """path: a folder of installed packages beside those of this environment."""
        self.folder = folder
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAREY_")}
        environment |= {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
        # -P: unlike a program's, a command's path does not begin with the folder it is given in
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()

    def marey(self, *words: object, **environment: str) -> tuple[int, str]:
        """The exit code of `marey WORDS`, and all that it printed."""
        assert self._server.stdin is not None
        out = self.folder / ".printed"
        order = {"words": [str(w) for w in words], "environment": environment, "out": str(out)}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return int(self._answer()), out.read_text()

    def close(self) -> None:
        """End the process that the commands' processes come from."""
        self._server.communicate()
