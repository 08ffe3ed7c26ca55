"""A checkout runs as it is: nothing of it needs to be installed."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

import marey
from tests.corpora import encode_corpus
from tests.test_structure import PACKAGES, ROOT
from tests.test_train import TREE


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What a Ray job gets as its working directory."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in (*PACKAGES, "marey"):
        shutil.copytree(ROOT / package, folder / package, symlinks=True)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """All installed packages but marey, as links."""
    folder = tmp_path_factory.mktemp("site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "marey" not in entry.name and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


def test_a_checkout_trains_and_says_its_version(checkout, others, tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text(yaml.safe_dump(TREE))
    index = encode_corpus(tmp_path / "videos", events=2)
    python = [sys.executable, "-S"]  # without site-packages, and so without marey
    environment = os.environ | {"PYTHONPATH": str(others)}

    def run(*words):
        return subprocess.run(
            [*python, *words], cwd=checkout, env=environment, capture_output=True, text=True
        )

    absent = run("-c", "import importlib.metadata as m; m.version('marey')")
    assert "PackageNotFoundError" in absent.stderr
    words = ["train", preset, "--data", index, "-o", tmp_path / "run", "--engine", "local"]
    done = run("-m", "marey", *words, "trainer.steps=1")
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "run" / "encoder.json").read_text())
    assert about["provenance"]["marey"] == marey.__version__
