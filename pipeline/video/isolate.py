"""How is a video read whose decoder may hang or crash? In a process that can be killed.

libav is C: a call that never returns, or a crash, takes its process along. `read_plan` checks its
time limit between packets, which ends a decoder that crawls but not one that hangs. This costs the
start of a process a video (a quarter of a second), so it is for videos under suspicion.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Hashable, Sequence
from multiprocessing.connection import Connection

from configs.errors import SettingError
from pipeline.video.geometry import Fit, Size
from pipeline.video.plan import TIMEOUT, UNREADABLE, FrameRequest
from pipeline.video.reader import Clip, read_plan


def read_plan_isolated(
    uri: str,
    requests: Sequence[FrameRequest],
    size: Size = None,
    *,
    time_limit_s: float,
    stream: int = 0,
    fit: Fit = "stretch",
) -> tuple[list[Clip], dict[Hashable, str]]:
    """`read_plan` in a process of its own, killed after `time_limit_s` seconds.

    Returns the clips that were complete by then, and request_id -> reason for the others: as
    `read_plan` has them, `timeout` after a kill, `unreadable` after a crash of the process.
    Raises SettingError as `read_plan` does, and if the time limit is not positive.
    """
    if not time_limit_s > 0:
        raise SettingError(f"time_limit_s={time_limit_s}: a positive number of seconds is needed")
    read_plan(uri, requests, size, stream=stream, fit=fit)  # checks its settings, opens nothing
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_serve, args=(theirs, uri, list(requests), size, stream, fit), daemon=True
    )
    process.start()
    theirs.close()
    deadline = time.monotonic() + time_limit_s
    clips: list[Clip] = []
    failures: dict[Hashable, str] | None = None
    reason = TIMEOUT
    try:
        while failures is None and ours.poll(max(0.0, deadline - time.monotonic())):
            if time.monotonic() > deadline:  # this process was kept waiting; too late is too late
                break
            message = ours.recv()
            if isinstance(message, dict):
                failures = message
            else:
                clips.append(Clip(*message))
    except EOFError:
        reason = UNREADABLE
    finally:
        process.kill()
        process.join()
        ours.close()
    if failures is None:
        served = {clip.request_id for clip in clips}
        failures = {r.request_id: reason for r in requests if r.request_id not in served}
    return clips, failures


def _serve(
    pipe: Connection, uri: str, requests: list[FrameRequest], size: Size, stream: int, fit: Fit
) -> None:
    run = read_plan(uri, requests, size, stream=stream, fit=fit)
    for clip in run:
        pipe.send(tuple(clip))
    pipe.send(run.failures)
