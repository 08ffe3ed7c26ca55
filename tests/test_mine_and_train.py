"""`marey train` of a method on tracks, given videos: they are mined into the run's folder, once."""

import json
import os

import pytest

from marey.pipeline.cli.main import main
from marey.pipeline.data.build_index import make_index, write_index
from tests.tracked_scenes import moving_square
from tests.videos import encode_video

MINING = [
    "mining.track_s=0.6", "mining.window_s=1", "mining.patch_size=48",
    "mining.proposals.every_s=0.5", "mining.quality.min_fb_iou=0", "mining.quality.max_fb_error=9",
    "mining.quality.min_score=-1", "mining.quality.min_own_travel=0",
]  # fmt: skip
TRAINING = [
    "trainer.steps=2", "trainer.batch_size=4", "encoder.image_size=32", "data.decode_size=32",
    "trainer.workers=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for n, step in enumerate([(3, 1), (4, 2), (2, 2)]):
        frames, _ = moving_square(40, step, side=64, start=(30, 20), size=(200, 280), seed=n)
        encode_video(folder / f"moving{n}.mp4", 40, size=(280, 200), draw=frames.__getitem__)
    write_index(make_index([str(folder)]), str(folder / "index.parquet"))
    return str(folder / "index.parquet")


def train(index, run, *more):
    words = ["train", "tracked_patches", "--data", index, "-o", str(run), "--engine", "local"]
    return main([*words, *TRAINING, *more])


def test_one_command_mines_and_trains_and_goes_on(tmp_path, index, capsys):
    run = tmp_path / "run"
    assert train(index, run, *MINING) in (0, 3)
    manifest = json.loads((run / "tracks/manifest.json").read_text())
    assert manifest["kind"] == "tracks"
    assert manifest["rows"] > 0
    assert (run / "encoder.safetensors").exists()
    parts = {path: os.stat(path).st_mtime_ns for path in (run / "tracks/parts").iterdir()}
    assert train(index, run, *MINING, "--resume", "trainer.steps=3") in (0, 3)
    assert parts == {path: os.stat(path).st_mtime_ns for path in (run / "tracks/parts").iterdir()}
    assert json.loads((run / "summary.json").read_text())["step"] == 3
    # shards that were mined before are used as they are
    assert train(str(run / "tracks"), tmp_path / "other") in (0, 3)
    assert not (tmp_path / "other/tracks").exists()
    capsys.readouterr()
    assert train(index, run, "--resume", "trainer.steps=4") == 2
    assert "another settings" in capsys.readouterr().err


def test_words_of_mining_are_refused_where_nothing_is_mined(tmp_path, index, capsys):
    words = ["train", "tcn_single", "--data", index, "-o", str(tmp_path / "run")]
    assert main([*words, "mining.height=224"]) == 2
    assert "nothing is mined, since tcn needs no tracks" in capsys.readouterr().err
    assert train(index, tmp_path / "run", "mining.hight=224") == 2
    assert "did you mean height?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
