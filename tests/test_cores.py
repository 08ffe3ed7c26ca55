"""How many cores a process takes itself to have, and that it leaves its caller's threads alone."""

import os
import subprocess
import sys

import cv2
import pytest
import torch

from marey.pipeline.runtime import cores
from marey.pipeline.runtime.cores import default_workers, set_threads, threads


def groups(folder, lines, files):
    """A tree of control groups: the process's own list, and files by name."""
    own = folder / "own"
    own.write_text("\n".join(lines))
    for name, text in files.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "tree", own


@pytest.mark.parametrize(
    ("lines", "files", "granted"),
    [
        (["0::/"], {"cpu.max": "150000 100000\n"}, 1.5),  # a container's view, version 2
        (["0::/"], {"cpu.max": "max 100000\n"}, float("inf")),
        (["0::/"], {}, float("inf")),
        # the tightest group above a process counts
        (
            ["0::/jobs/one/step"],
            {"jobs/cpu.max": "800000 100000", "jobs/one/cpu.max": "400000 100000",
             "jobs/one/step/cpu.max": "max 100000"},
            4.0,
        ),
        # version 1, mounted under the controller's name, its group seen as the root
        (
            ["4:memory:/x", "2:cpu,cpuacct:/docker/abc"],
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
             "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            ["1:cpu:/"],
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            float("inf"),
        ),
        (["0::/"], {"cpu.max": "what\n"}, float("inf")),
    ],
)  # fmt: skip
def test_the_quota_of_a_container_is_read(lines, files, granted, tmp_path):
    assert cores._quota(*groups(tmp_path, lines, files)) == granted


@pytest.mark.parametrize(("quota", "workers"), [(0.5, 1), (1.5, 2), (64.0, 16), (float("inf"), 16)])
def test_workers_are_the_cores_that_affinity_and_quota_leave(quota, workers, monkeypatch):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(cores, "_quota", lambda: quota)
    assert default_workers() == workers


def test_threads_are_given_back():
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        set_threads(2)
        with threads(1):
            assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def test_threads_that_wait_sleep_before_torch_is_loaded():
    """OpenMP reads the policy once: whatever starts `marey` sets it first, and a user's stays."""
    ask = (
        "import os, sys; from marey.pipeline.cli.main import main; main(['methods']); "
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    for given, policy in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | given
        told = subprocess.run(
            [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True
        )
        assert told.stdout.splitlines()[-1] == f"{policy} False"
