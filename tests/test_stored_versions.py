"""What version 0.1 wrote opens today: index, run, embeddings, shards (tests/stored/v0_1)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from marey.pipeline.cli.main import main
from marey.pipeline.data.source import open_source
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.record import read_metrics

STORED = Path(__file__).with_name("stored") / "v0_1"
WRITTEN_AT = "HOME"
"""Stands in the stored files for the folder in which they were written."""


@pytest.fixture
def home(tmp_path):
    """The stored files, in a folder whose path they name."""
    folder = tmp_path / "home"
    shutil.copytree(STORED, folder)
    for path in [*folder.rglob("*.json"), folder / "run" / "config.yaml"]:
        path.write_text(path.read_text().replace(WRITTEN_AT, str(folder)))
    table = pq.read_table(folder / "index.parquet")
    uris = [uri.replace(WRITTEN_AT, str(folder)) for uri in table["uri"].to_pylist()]
    place = table.schema.get_field_index("uri")
    pq.write_table(table.set_column(place, "uri", [uris]), folder / "index.parquet")
    return folder


def test_an_old_run_goes_on_as_the_old_version_went_on(home):
    expected = json.loads((home / "expected.json").read_text())["losses_of_six_steps"]
    words = ["train", str(home / "run" / "config.yaml"), "--data", str(home / "index.parquet")]
    more = ["-o", str(home / "run"), "--engine", "local", "--resume", "trainer.epochs=2"]
    assert main([*words, *more]) == 0
    losses = [line["loss"] for line in read_metrics(Folder(str(home / "run"))) if "loss" in line]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


def test_an_old_encoder_embeds_as_it_did(home):
    words = ["embed", str(home / "run"), "--data", str(home / "index.parquet"), "--fps", "2"]
    assert main([*words, "-o", str(home / "again"), "--engine", "local"]) == 0
    old, new = (load_embeddings(str(home / name)) for name in ("embeddings", "again"))
    assert list(old.video_id) == list(new.video_id)
    np.testing.assert_allclose(old.features, new.features, atol=1e-4)


def test_old_embeddings_and_shards_open(home):
    assert main(["eval", "geometry", str(home / "embeddings"), "--json"]) == 0
    shards = open_source(str(home / "shards"))
    assert len(shards) == 3
    assert main(["report", str(home / "shards"), "-o", str(home / "page.html")]) == 0
