"""Work in processes: what crashes or hangs costs only itself."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from marey.configs.errors import MareyError
from marey.pipeline.runtime.workers import Lost, run_in_processes
from tests.test_structure import ROOT


def double(value):
    """Twice a number; other words crash, hang or fail the process that meets them."""
    if value == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if value == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
        time.sleep(600)
    if value == "raise":
        raise ValueError("no number")
    if isinstance(value, Path):  # crashes the first process, and only that
        first = not value.exists()
        value.touch()
        return double("crash") if first else "second"
    return 2 * value


class EndsAtStart:
    """A function that ends the process that is handed it."""

    def __reduce__(self):
        return os._exit, (3,)


def run(inputs, **options):
    return dict(run_in_processes(double, inputs, **{"workers": 2, "limit_s": 60.0, **options}))


def test_every_input_has_one_result_whatever_becomes_of_the_others(tmp_path):
    inputs = list(range(40))
    inputs[5] = inputs[6] = "crash"
    inputs[20], inputs[30] = "raise", tmp_path / "first"
    got = run(inputs)
    assert sorted(got) == list(range(40))
    assert got.pop(5) == got.pop(6) == Lost("its process crashed 2 times")
    assert got.pop(20) == Lost("ValueError: no number")
    assert got.pop(30) == "second"
    assert all(result == 2 * place for place, result in got.items())
    assert not multiprocessing.active_children()


def test_an_input_that_hangs_is_killed_after_its_time():
    start = time.monotonic()
    got = run(["hang", 1, 2, 3], limit_s=1.0)
    assert got == {0: Lost("took longer than 1 s and was ended"), 1: 2, 2: 4, 3: 6}
    assert time.monotonic() - start < 60


def test_a_caller_that_stops_leaves_no_process():
    results = run_in_processes(double, [1, "hang"], workers=2, limit_s=600.0)
    assert next(results) == (0, 2)
    results.close()
    assert not multiprocessing.active_children()


def test_nothing_to_do_starts_nothing():
    assert run([]) == {}


def test_processes_that_cannot_start_are_an_error():
    with pytest.raises(MareyError, match="in a row ended while they started"):
        list(run_in_processes(EndsAtStart(), [1, 2], workers=1, limit_s=60.0))


def test_processes_end_after_their_input_when_their_parent_is_killed(tmp_path):
    code = (
        "import time; from marey.pipeline.runtime.workers import run_in_processes\n"
        "if __name__ == '__main__':\n"
        "    list(run_in_processes(time.sleep, [0.5] * 1000, workers=2, limit_s=60))\n"
    )
    (tmp_path / "main.py").write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")], env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    children: list[psutil.Process] = []
    while len(children) < 2:
        assert parent.poll() is None
        started = psutil.Process(parent.pid).children()
        children = [child for child in started if "spawn_main" in " ".join(child.cmdline())]
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_script_without_a_guard_is_run_once(tmp_path):
    """A user's script that calls this at its top level: no process may run it again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        f"open({str(tmp_path / 'runs')!r}, 'a').write('run\\n')\n"
        "from marey.pipeline.runtime.workers import run_in_processes\n"
        "print(sorted(run_in_processes(abs, [-1, -2], workers=2, limit_s=60.0)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "[(0, 1), (1, 2)]\n"
    assert (tmp_path / "runs").read_text() == "run\n"
