"""What a command gives back: how it ended, and its figures."""

from __future__ import annotations

from typing import Any

DONE, FAILED, USAGE, REFUSED, UNFINISHED, ALARM = 0, 1, 2, 3, 4, 5
"""Exit codes: done; failed; wrong usage; finished with some inputs refused (listed); unfinished,
since what passes kept it from its end: the same command goes on; an alarm of `marey status`."""

Result = tuple[int, dict[str, Any]]
"""What a command gives back: exit code, and the figures that --json prints."""
