"""What a command says, as one line of JSON each: for programs that collect logs."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO


class JsonLines(io.TextIOBase):
    """A text stream that writes each line as JSON: `time` (UTC), `command`, `message`, and more."""

    def __init__(self, stream: TextIO, command: str) -> None:
        self._stream, self._command = stream, command
        self._begun = ""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        """As text streams answer."""
        return True

    def write(self, text: str) -> int:
        """Take text; lines that are whole are written."""
        with self._lock:
            *whole, self._begun = (self._begun + text).split("\n")
            for line in whole:
                if message := line.strip():
                    self._put(message, {})
        return len(text)

    def event(self, message: str, fields: dict[str, Any]) -> None:
        """Write a message with values of its own beside it."""
        with self._lock:
            self._put(message, fields)

    def flush(self) -> None:
        """Hand on what was written."""
        self._stream.flush()

    def _put(self, message: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "command": self._command, "message": message, **fields}
        self._stream.write(json.dumps(line, default=str) + "\n")

    def end(self) -> None:
        """Write what was begun."""
        self.write("\n")
        self.flush()


@contextmanager
def json_lines(command: str, wanted: bool = True) -> Iterator[None]:
    """Let all that is said on the error stream inside be lines of JSON."""
    if not wanted:
        yield
        return
    before = sys.stderr
    lines = sys.stderr = JsonLines(before, command)
    try:
        yield
    finally:
        lines.end()
        sys.stderr = before
