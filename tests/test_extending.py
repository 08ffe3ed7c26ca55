"""The page on extending marey: its files and commands, as they stand, outside the repository."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from marey.pipeline.evaluate.run import run_eval
from marey.pipeline.video import read
from tests.corpora import encode_corpus
from tests.outside import Outside

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'```python title="([^"]+)"\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
WITH_ENGINE = ("train", "mine", "embed")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the files of the page, an index of videos, and the first two as arrays."""
    folder = tmp_path_factory.mktemp("project")
    for name, content in FILES.items():
        (folder / name).write_text(content)
    encode_corpus(folder / "videos", events=3).rename(folder / "index.parquet")
    moments = [{"from": 0.25, "to": 0.75, "what": "up"}, {"from": 0.75, "to": 1.0, "what": "down"}]
    (folder / "videos" / "e0_v0.mp4.moments.json").write_text(json.dumps(moments))
    (folder / "my.arrays").mkdir()
    for name in ("e0_v0", "e1_v0"):
        frames = read(str(folder / "videos" / f"{name}.mp4"), np.arange(24) / 12 + 0.01, 64)
        np.save(folder / "my.arrays" / f"{name}.npy", frames)
    return folder


@pytest.fixture(scope="module")
def outside(project):
    found = Outside(project)
    yield found
    found.close()


def test_every_command_of_the_page_does_what_it_says(outside, project):
    for words in COMMANDS:
        engine = ["--engine", "local"] if words[0] in WITH_ENGINE else []
        code, printed = outside.marey(*words, *engine)
        assert code == 0, (words, printed)
    assert {path.name for path in (project / "runs").iterdir()} == {
        "gap", "halves", "dotted", "arrays", "opencv", "shallow",
    }  # fmt: skip

    def recorded(run):
        return yaml.safe_load((project / "runs" / run / "config.yaml").read_text())["config"]

    assert recorded("gap")["plugins"] == ["frame_gap"]
    assert recorded("halves")["plugins"] == ["frame_gap", "halves"]
    # a dotted name becomes the name that its module has registered
    assert recorded("dotted")["method"] == recorded("halves")["method"]
    assert recorded("dotted")["plugins"] == ["frame_gap", "halves"]
    assert recorded("arrays")["plugins"] == ["frame_gap", "arrays"]
    assert recorded("opencv")["plugins"] == ["opencv_decoder"]
    rows = pq.read_table(project / "moments.parquet").to_pylist()
    assert [(r["video_id"], r["label"], r["start_s"]) for r in rows] == [
        ("e0_v0.mp4#0", "up", 0.25), ("e0_v0.mp4#1", "down", 0.75),
    ]  # fmt: skip
    # the network that is registered is the one at the dotted name
    figures = run_eval("geometry", project / "embeddings" / "untrained")
    assert figures["embeddings"]["dim"] == 64


def test_help_and_lists_know_what_was_imported(outside):
    code, printed = outside.marey("methods", "--import", "frame_gap")
    assert code == 0
    assert "plugins\n  frame_gap" in printed
    code, printed = outside.marey("methods", "--import", "frame_gap", "frame_gap")
    assert code == 0
    assert "method.hidden = 64  (1 to 4,096)\n      Width of the hidden layer." in printed
    code, printed = outside.marey("eval", "--import", "effective_rank", "effective_rank", "--help")
    assert code == 0
    assert "centred = true\n      Subtract the mean embedding first." in printed
    code, printed = outside.marey("track", "--import", "still_tracker", "--help")
    assert code == 0
    assert "still" in printed


@pytest.mark.slow
def test_plugins_work_in_ray_actors_and_trainers(project):
    """A method, sampler, decoder and backbone of one's own; then the encoder on other actors."""

    def marey(*words):
        command = [sys.executable, "-P", "-m", "marey", *words, "--data", "index.parquet"]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    named = [f"--import={name}" for name in ("frame_gap", "halves", "opencv_decoder", "shallow")]
    settings = ["method.sampling.kind=halves", "data.backend=opencv", "encoder.backbone=shallow"]
    run = ["train", "frame_gap", *named, "-o", "runs/ray", *settings]
    marey(*run, "trainer.steps=2")
    marey(*run, "trainer.steps=4", "--resume")
    marey("embed", "runs/ray", "--import", "shallow", "-o", "embeddings/ray")
