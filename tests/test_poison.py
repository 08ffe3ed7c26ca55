"""A video that hangs or kills its reader costs itself, and the rest of the corpus goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from marey.configs.load import check
from marey.configs.mining import TracksMining
from marey.configs.sampling import FramesSampling
from marey.configs.schema import DataConfig
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.source import open_source
from marey.pipeline.embedding.embed import embed
from marey.pipeline.mining.mine import mine_corpus
from marey.pipeline.stream.plan import make_plan
from marey.pipeline.stream.samples import stream_here
from marey.pipeline.video import isolate, probe, reader
from tests.videos import encode_video

ROOT = Path(__file__).resolve().parents[1]


def corpus(folder: Path, *names: str) -> str:
    """An index of videos of 24 frames with these names."""
    folder.mkdir()
    for name in names:
        encode_video(folder / f"{name}.mp4", 24, gop=8)
    write_index(make_index([str(folder)]), str(folder / "index.parquet"))
    return str(folder / "index.parquet")


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A corpus of three, of which one is never opened from now on."""
    index = corpus(tmp_path / "videos", "a", "hangs", "z")
    opened, never = reader.open_decoder, threading.Event()

    def open_decoder(uri, *rest):
        if uri.endswith("hangs.mp4"):
            never.wait()
        return opened(uri, *rest)

    monkeypatch.setattr(reader, "open_decoder", open_decoder)
    monkeypatch.setattr(isolate, "TIME_LIMIT_S", 3.0)
    monkeypatch.setattr(isolate, "GRACE_S", 0.2)
    return index


@pytest.mark.timeout(120)
def test_a_video_that_hangs_is_left_behind_by_every_stage(hanging: str, tmp_path: Path) -> None:
    mined = mine_corpus(
        hanging, str(tmp_path / "s"), check(TracksMining, {"track_s": 0.5}), engine="local"
    )
    assert mined["reasons"]["window: hangs.mp4: timeout"] == 1
    embedded = embed("pixels", hanging, str(tmp_path / "e"), rate=5, engine="local")
    assert embedded.frames == 8
    ((reason, count),) = embedded.refused.items()
    assert count == 4
    assert "hangs.mp4" in reason
    assert "more than 3.2 s" in reason
    source = open_source(hanging)
    plan = make_plan(source, FramesSampling(per_video=2), seed=0, epochs=1)
    samples = list(stream_here(plan, source, DataConfig(decode_size=32)))
    refused = [str(s["refused"]) for s in samples if s["refused"]]
    assert len(samples) == 6
    assert len(refused) == 2
    assert all(why.startswith("hangs.mp4: timeout") for why in refused)


@pytest.mark.timeout(60)
def test_a_probe_that_hangs_or_crawls_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(encode_video(tmp_path / "a.mp4", 12))
    monkeypatch.setattr(isolate, "TIME_LIMIT_S", -1.0)
    assert "not read in time" in (probe(path).error or "")
    never = threading.Event()
    monkeypatch.setattr(isolate, "TIME_LIMIT_S", 0.1)
    monkeypatch.setattr(isolate, "GRACE_S", 0.1)
    monkeypatch.setattr(
        sys.modules["marey.pipeline.video.probe"],
        "open_video",
        lambda *_: never.wait(),
    )
    info = probe(path)
    assert info.status == "unreadable"
    assert "more than 0.2 s" in (info.error or "")


@pytest.mark.timeout(400)
def test_on_ray_a_video_that_kills_its_process_is_refused_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    index = corpus(tmp_path / "videos", "a", "b", "dies", "hangs", "z")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import tests.poisoned\ntests.poisoned.poison()\n"
    )
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.poisoned", index, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["mined"]["window: dies.mp4: unreadable"] == 1
    assert told["mined"]["window: hangs.mp4: timeout"] == 1
    assert told["embedded"] == 12
    assert sum(told["not_embedded"].values()) == 8
    assert any("died" in why for why in told["not_embedded"])
    refused = [why for why in told["samples"] if why]
    assert len(told["samples"]) == 10
    assert len(refused) == 4
    assert {why.split(":")[0] for why in refused} == {"dies.mp4", "hangs.mp4"}
