"""How many processor cores may this process use, and how many threads do its libraries take?

What runs in the caller's process gives back the number of threads it found; an actor of Ray has a
process of its own and keeps what it sets.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_POLICY = "OMP_WAIT_POLICY"
"""The variable by which OpenMP is told how its threads wait."""


def default_workers() -> int:
    """Processor cores that this process may use.

    Its affinity and the CPU quota of its container count (cgroups of both versions), a quota
    rounded up to whole cores.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def wait_asleep() -> None:
    """Let threads of OpenMP that wait for work sleep, in this process and those that it starts.

    They spin otherwise, on the cores that decoding and training share. Read when the library is
    loaded: call it before torch is imported. A policy that the environment sets stays.
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")


def set_threads(count: int) -> None:
    """How many threads a call of torch or OpenCV takes in this process from now on."""
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """`set_threads` for a while."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    set_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The cores that the process's control groups grant it; infinite where none sets a limit."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    granted = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct"):
            continue
        base = root / controllers
        own_group = base / path.strip("/")
        # a container sees its own group as the root of the tree, whatever the name of it
        for group in (own_group, *own_group.parents):
            if group.is_relative_to(base):
                granted = min(granted, _grant(group))
    return granted


def _grant(group: Path) -> float:
    """Cores granted by one group: `cpu.max` of version 2, else the two files of version 1."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        return int(quota) / int(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError):
        return math.inf
