"""Why does a request get no frames? The reasons, by the names under which they are counted."""

from __future__ import annotations

from marey.configs.errors import InputError

BEFORE_START = "before_start"
PAST_END = "past_end"
DECODE_GAP = "decode_gap"
DAMAGED = "damaged"
UNREADABLE = "unreadable"
TIMEOUT = "timeout"
IO_ERROR = "io_error"
OUTSIDE = "outside_roots"

FILE_FAULTS = (DECODE_GAP, DAMAGED, UNREADABLE, TIMEOUT, IO_ERROR, OUTSIDE)
"""Reasons that lie in the file or its reading, not in what was asked of it."""


PASSING = (IO_ERROR,)
"""Reasons that may be gone when the file is read again: nothing is refused for them for good."""


class VideoError(InputError):
    """A whole file cannot be read, for `reason`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        return VideoError, (str(self), self.reason)


def reason_of(error: InputError) -> str:
    """The reason to count an error under."""
    return error.reason if isinstance(error, VideoError) else UNREADABLE
