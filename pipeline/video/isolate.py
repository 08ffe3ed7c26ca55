"""How is a video read whose decoder may hang or crash? So that it costs no more than itself.

libav is C: a call may never return, or take its process along. `read_plan` and `read_range` check
their time limit between packets, which ends a decoder that crawls. Stages read with `read_into` and
`guarded_range`, which leave one behind that hangs: it runs in a thread that is waited for no longer
than the limit. Only a process can be survived when it crashes. That costs the start of one (half a
second) a video, so it is for videos under suspicion (`suspected`): those of the units of work that
were in hand when a process died.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from marey.configs import plugins
from marey.configs.errors import InputError
from marey.pipeline.runtime.stores import waited_s
from marey.pipeline.video.fit import Size
from marey.pipeline.video.packet_plan import FrameRequest
from marey.pipeline.video.reader import Clip, RangeFrames, read_plan, read_range
from marey.pipeline.video.reasons import TIMEOUT, UNREADABLE, VideoError

TIME_LIMIT_S = 600.0
"""Longest time that a stage gives to one video (a mining window, a unit of samples)."""
START_S = 180.0
"""Longest time for a process to start: half a second, and minutes on a machine that is busy."""
GRACE_S = 10.0
"""So much longer a reader may take to notice its limit, before it counts as hanging."""
T = TypeVar("T")


def within(time_limit_s: float, work: Callable[[], T], uri: str) -> T:
    """What `work` gives, or VideoError (`timeout`) if it does not return in time.

    It runs in a thread, which is then left behind: it holds its memory, and perhaps a core, until
    it returns or the process ends.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name=f"read {uri}", daemon=True)
    thread.start()
    ident = cast(int, thread.ident)
    deadline = time.monotonic() + time_limit_s - waited_s(ident)
    # what it waits for a store that gives no answer is no fault of the video
    while thread.is_alive() and (left_s := deadline + waited_s(ident) - time.monotonic()) > 0:
        thread.join(left_s)
    if failure:
        raise failure[0]
    if not result:
        raise VideoError(f"{uri}: reading it took more than {time_limit_s:g} s", TIMEOUT)
    return result[0]


def read_into(
    deliver: Callable[[Clip], None],
    uri: str,
    requests: Sequence[FrameRequest],
    size: Size = None,
    *,
    suspected: bool = False,
    **settings: Any,
) -> tuple[dict[Hashable, str], str | None]:
    """`read_plan` for stages: no video hangs it, and none that is `suspected` crashes it.

    deliver: takes each clip as it is complete; called from another thread, and never again once
        this function has returned. settings: the others of `read_plan`, but for the time limit.
    Returns its `failures` and its `error`.
    """
    if suspected:
        return _plan_in_process(deliver, TIME_LIMIT_S, uri, requests, size, settings)
    missing = {request.request_id for request in requests}
    lock = threading.Lock()
    over = False

    def work() -> tuple[dict[Hashable, str], str | None]:
        run = read_plan(uri, requests, size, time_limit_s=TIME_LIMIT_S, **settings)
        for clip in run:
            with lock:
                if over:
                    break
                deliver(clip)
                missing.discard(clip.request_id)
        return run.failures, run.error

    try:
        return within(TIME_LIMIT_S + GRACE_S, work, uri)
    except VideoError as error:
        with lock:
            over = True
        return dict.fromkeys(missing, error.reason), str(error)


def guarded_range(
    uri: str,
    start_s: float,
    stop_s: float,
    size: Size = None,
    *,
    suspected: bool = False,
    **settings: Any,
) -> RangeFrames:
    """`read_range` for stages: no video hangs it, and none that is `suspected` crashes it.

    settings: the others of `read_range`, but for the time limit. Raises InputError as it does,
    VideoError if the reader hangs or dies.
    """
    settings |= {"time_limit_s": TIME_LIMIT_S}
    if suspected:
        (frames,) = _in_process(TIME_LIMIT_S, uri, _range, uri, start_s, stop_s, size, settings)
        return frames
    limit = TIME_LIMIT_S + GRACE_S
    return within(limit, lambda: read_range(uri, start_s, stop_s, size, **settings), uri)


def _plan_in_process(
    deliver: Callable[[Clip], None],
    time_limit_s: float,
    uri: str,
    requests: Sequence[FrameRequest],
    size: Size,
    settings: dict[str, Any],
) -> tuple[dict[Hashable, str], str | None]:
    missing = {request.request_id for request in requests}
    outcome: tuple[dict[Hashable, str], str | None] = {}, None
    try:
        for message in _in_process(time_limit_s, uri, _plan, uri, list(requests), size, settings):
            if isinstance(message, Clip):
                missing.discard(message.request_id)
                deliver(message)
            else:
                outcome = message
    except VideoError as error:
        outcome = dict.fromkeys(missing, error.reason), str(error)
    return outcome


def _plan(uri: str, requests: list[FrameRequest], size: Size, settings: dict) -> Iterator[Any]:
    """The clips of a plan, and last its (failures, error)."""
    run = read_plan(uri, requests, size, **settings)
    yield from run
    yield run.failures, run.error


def _range(
    uri: str, start_s: float, stop_s: float, size: Size, settings: dict
) -> Iterator[RangeFrames]:
    yield read_range(uri, start_s, stop_s, size, **settings)


def _in_process(
    time_limit_s: float, uri: str, target: Callable[..., Iterator[Any]], *args: Any
) -> Iterator[Any]:
    """What `target(*args)` yields in a process of its own, killed `time_limit_s` seconds after it
    has started.

    Raises what it raises of InputError, and VideoError: `timeout` after a kill, `unreadable` after
    a crash. The process is a bare interpreter: multiprocessing's would load this one's main module,
    which in a Ray worker takes longer than the video.
    """
    ours, theirs = Pipe()
    command = "import sys; from marey.pipeline.video.isolate import serve; serve(int(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", command, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    theirs.close()
    try:
        ours.send((plugins.active(), target, args))
        if not ours.poll(START_S):
            raise VideoError(
                f"{uri}: the process to read it did not start within {START_S:g} s", TIMEOUT
            )
        ours.recv()
        deadline = time.monotonic() + time_limit_s
        while ours.poll(max(0.0, deadline - time.monotonic())):
            if time.monotonic() > deadline:  # this process was kept waiting; too late is too late
                break
            message = ours.recv()
            if isinstance(message, InputError):
                raise message
            if message is None:
                return
            yield message
        raise VideoError(f"{uri}: reading it took more than {time_limit_s:g} s", TIMEOUT)
    except (EOFError, OSError) as error:
        code = process.wait()
        raise VideoError(f"{uri}: the process that read it died ({code})", UNREADABLE) from error
    finally:
        process.kill()
        process.wait()
        ours.close()


def serve(descriptor: int) -> None:
    """The other end of `_in_process`: True when it has started, messages, then None, or the
    InputError that ended them."""
    with Connection(descriptor) as pipe:
        allowed, target, args = pipe.recv()
        plugins.allow(*allowed)
        pipe.send(True)
        try:
            for message in target(*args):
                pipe.send(message)
        except InputError as error:
            pipe.send(error)
            return
        pipe.send(None)
