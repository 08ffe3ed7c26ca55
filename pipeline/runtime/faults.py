"""Is an exception a fault of the program, which comes again each time, or of a lost process?"""

from __future__ import annotations

import re
import traceback

from marey.configs.errors import MareyError

LOST_PEER = re.compile(
    r"gloo|nccl|connection|peer|socket|store|rendezvous|timed out|heartbeat|barrier|broken pipe",
    re.IGNORECASE,
)
"""What a RuntimeError says where another training process, or its node, is gone."""
RAISED_IN_STAGE = re.compile(r"^([A-Za-z_]\w*): (.+)\n\nThe above exception", re.MULTILINE)
"""What a stage raised, in the text that Ray Data makes of it."""
PASSING_KINDS = ("OSError", "MemoryError", "TimeoutError", "EOFError", "ConnectionError")
SHOWN_CALLS = 3
"""Innermost calls that are told."""


def fault_of_program(error: Exception) -> MareyError | None:
    """What to tell of an exception that another try would raise again; None for one that passes.

    Told from its kind: a KeyError, a wrong shape or type. Errors of the system, of Ray and of
    processes that lost each other pass.
    """
    origin = _origin(error)
    kind = type(origin)
    if isinstance(origin, MareyError):
        return origin
    if kind.__name__ == "UserCodeException" and (found := RAISED_IN_STAGE.search(str(error))):
        return None if found[1] in PASSING_KINDS else _told(found[1], found[2], "")
    if any(base.__module__.partition(".")[0] == "ray" for base in kind.__mro__):
        return None
    if isinstance(origin, OSError | MemoryError | TimeoutError | EOFError):
        return None
    if isinstance(origin, RuntimeError) and (
        "distributed" in kind.__module__ or kind.__name__.startswith("Dist")
        or LOST_PEER.search(str(origin))
    ):  # fmt: skip
        return None
    calls = traceback.extract_tb(origin.__traceback__)[-SHOWN_CALLS:]
    where = "".join(f"\n  {call.filename}:{call.lineno} in {call.name}" for call in calls)
    return _told(kind.__name__, str(origin), where)


def _told(kind: str, message: str, where: str) -> MareyError:
    return MareyError(
        f"{kind}: {message}. This is a fault of the program, or of a plugin, not of the data or "
        f"the cluster: the run ends with it{where}"
    )


def _origin(error: Exception) -> Exception:
    """What a process of ours raised, without Ray's wrapper: that is of its class as well."""
    cause = getattr(error, "cause", None)
    return _origin(cause) if isinstance(cause, Exception) and cause is not error else error
