"""A LeRobot 3 set that their own package wrote: the same frames as their loader, each used once.

Needs another Python that has `lerobot` or `lerobot-dataset`, and torchcodec; LEROBOT_PYTHON names
it.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.lerobot_peers import CAMERAS, FPS, places, thumbnail
from marey.pipeline.cli.main import main
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.index import Index
from marey.pipeline.data.reading import Wanted
from tests.test_ray import finished, wait_for_step

PEERS = Path(__file__).resolve().parents[1] / "benchmarks" / "lerobot_peers.py"
EPISODES, LENGTH = 4, 20
TRAINED = [
    "trainer.steps=null", "trainer.epochs=6", "trainer.batch_size=6", "trainer.checkpoint_every=2",
    "trainer.log_every=1", "trainer.probe_every=1000", "method.sampling.pairs=6",
]  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        "LEROBOT_PYTHON" not in os.environ,
        reason="LEROBOT_PYTHON names no Python that has lerobot or lerobot-dataset",
    ),
]


def package(*words: str, asked: dict | None = None) -> dict:
    """What their package says; see `benchmarks/lerobot_peers.py`."""
    done = subprocess.run(
        [os.environ["LEROBOT_PYTHON"], str(PEERS), *words],
        input=json.dumps(asked) if asked else None,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(
        ([line for line in done.stdout.splitlines() if line[:1] == "{"] or ["{}"])[-1]
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of three cameras, and its index beside it."""
    root = tmp_path_factory.mktemp("lerobot") / "set"
    package("write", str(root), str(EPISODES), str(LENGTH))
    write_index(make_index([str(root)]), str(root.with_suffix(".parquet")))
    return root


def test_every_frame_is_that_of_their_loader_and_of_an_exact_decode(root: Path) -> None:
    index = Index.load(str(root.with_suffix(".parquet")))
    assert len(index) == EPISODES
    exact = {}
    for path in {path for path, _ in places(str(root)).values()}:
        with av.open(path) as container:
            exact[path] = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    samples = [(episode, first, 1) for episode in range(EPISODES) for first in range(LENGTH)]
    theirs = package(
        "lerobot", str(root), asked={"samples": samples, "units": [len(samples)], "look": True}
    )
    raw = np.frombuffer(base64.b64decode(theirs["thumbnails"]), np.uint8)
    given = raw.reshape(EPISODES, LENGTH, len(CAMERAS), 24, 32, 3).astype(int)
    for episode, event in enumerate(index.events()):
        assert [video.view for video in event.videos] == sorted(CAMERAS)
        for view, video in enumerate(event.videos):
            assert video.frames == LENGTH
            times_s = np.arange(LENGTH) / FPS
            wanted = [Wanted(event, np.array([view]), times_s[n : n + 1]) for n in range(LENGTH)]
            read = index.reader.read(wanted, (480, 640))
            assert not any(read.lacks)
            path, first = places(str(root))[episode, video.view]
            for n, (picture,) in enumerate(read.frames):
                same = exact[path][first + n].astype(int)
                assert np.abs(picture.astype(int) - same).mean() < 1.5
                for other in (n - 1, n + 1):
                    if 0 <= other < LENGTH:
                        beside = exact[path][first + other].astype(int)
                        assert np.abs(picture.astype(int) - beside).mean() > 2
                small = given[episode, n, CAMERAS.index(video.view)]
                assert np.abs(thumbnail(picture).astype(int) - small).mean() < 1.5


def start(root: Path, run: Path, *words: str) -> subprocess.Popen:
    """`marey train tcn` on the set in a process group of its own."""
    data = str(root.with_suffix(".parquet"))
    command = [sys.executable, "-m", "marey", "train", "tcn", "--json", "--data", data]
    command += ["-o", str(run), *TRAINED, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_tcn_uses_each_sample_once_whatever_the_workers(
    root: Path, tmp_path: Path, workers: int
) -> None:
    summary = finished(
        start(root, tmp_path / "run", f"trainer.workers={workers}"), tmp_path / "run"
    )
    assert summary["samples"] == summary["below"] > 0
    assert not summary["refused"]


def test_tcn_uses_each_sample_once_after_a_kill(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(root, run)
    wait_for_step(run, 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "summary.json").exists()
    summary = finished(start(root, run, "--resume"), run)
    assert summary["samples"] == summary["below"] > 0
    assert (
        main(
            [
                "embed",
                str(run),
                "--data",
                str(root.with_suffix(".parquet")),
                "-o",
                str(tmp_path / "e"),
                "--fps",
                "3",
                "--engine",
                "local",
            ]
        )
        == 0
    )
