"""Files of object stores: the same frames, few requests, tried again, told apart from bad ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.fs
import pytest

from marey.pipeline.data.discover import find_videos
from marey.pipeline.runtime import stores
from marey.pipeline.video import FrameRequest, PlanRun, probe, read, read_plan
from marey.pipeline.video.remote import BLOCK_BYTES
from tests.videos import encode_video

FRAMES = 40


class Store:
    """A local folder behind `s3://`, whose requests may fail.

    fails: told the number of an open or read request (from 0) and where it begins (None: open),
        says whether it fails.
    """

    def __init__(self, folder: Path, fails: Callable[[int, int | None], bool]) -> None:
        self.folder, self.fails = folder, fails
        self.reads: list[tuple[int, int]] = []
        self.uris: list[str] = []
        self.requests = 0

    def from_uri(self, uri: str) -> tuple[Any, str]:
        self.uris.append(uri)
        path = self.folder / uri.removeprefix("s3://").partition("?")[0]
        local = pyarrow.fs.LocalFileSystem()
        listed = local.get_file_info
        return SimpleNamespace(open_input_file=self.open, get_file_info=listed), str(path)

    def open(self, path: str) -> Any:
        self.ask(None)
        file = pyarrow.fs.LocalFileSystem().open_input_file(path)

        def fetch(size: int) -> bytes:
            self.ask(file.tell())
            self.reads.append((file.tell(), size))
            return file.read(size)

        return SimpleNamespace(seek=file.seek, read=fetch, size=file.size, close=file.close)

    def ask(self, start: int | None) -> None:
        self.requests += 1
        if self.fails(self.requests - 1, start):
            raise OSError("503: slow down")


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (360, 480, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of several blocks."""
    path = encode_video(
        tmp_path_factory.mktemp("v") / "a.mp4", FRAMES, size=(480, 360), gop=10, draw=noise
    )
    assert path.stat().st_size > 2.5 * BLOCK_BYTES
    return path


@pytest.fixture
def store(video: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(video.parent, lambda number, start: False)
    monkeypatch.setattr(pyarrow.fs, "FileSystem", made)
    monkeypatch.setattr(stores, "PAUSES_S", (0.01,))
    monkeypatch.setattr(stores, "_stores", {})
    monkeypatch.setenv("MAREY_STORE_PATIENCE_S", "0.1")
    return made


def every_frame(uri: str) -> PlanRun:
    return read_plan(uri, [FrameRequest(k, np.array([k / 25])) for k in range(FRAMES)])


def test_a_file_is_fetched_in_large_blocks_each_once(video: Path, store: Store) -> None:
    times = np.arange(FRAMES) / 25
    assert np.array_equal(read("s3://a.mp4", times), read(str(video), times))
    assert len(set(store.reads)) == len(store.reads) == -(-video.stat().st_size // BLOCK_BYTES)
    assert probe("s3://a.mp4") == probe(str(video))


def test_requests_that_fail_now_and_then_cost_no_frame(video: Path, store: Store) -> None:
    store.fails = lambda number, start: number % 3 == 0
    times = np.arange(FRAMES) / 25
    assert np.array_equal(read("s3://a.mp4", times), read(str(video), times))


def test_a_store_that_does_not_answer_is_no_bad_file(store: Store) -> None:
    store.fails = lambda number, start: True
    run = every_frame("s3://a.mp4")
    assert list(run) == []
    assert set(run.failures.values()) == {"io_error"}
    assert "cannot be reached" in (run.error or "")
    assert "(503: slow down)" in (run.error or "")
    assert 2 < store.requests < 30
    assert "503" in (probe("s3://a.mp4").error or "")


def test_what_is_gone_is_not_asked_for_again(store: Store) -> None:
    run = every_frame("s3://none.mp4")
    assert list(run) == []
    assert set(run.failures.values()) == {"unreadable"}
    assert store.requests == 2  # quickly, and at leisure


@pytest.mark.parametrize("keep_bytes", [1, 2**30])
def test_a_store_that_stops_answering_fails_what_is_missing_by_name(
    keep_bytes: int, video: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the packets are listed, or while they are read again for the decoder."""
    monkeypatch.setattr("marey.pipeline.video.pyav_backend.KEEP_BYTES", keep_bytes)
    monkeypatch.setattr("marey.pipeline.video.remote.BLOCKS_KEPT", 1)
    blocks = -(-video.stat().st_size // BLOCK_BYTES)
    late = 0 if keep_bytes > 1 else blocks + 2
    store.fails = lambda number, start: number > late and start == BLOCK_BYTES
    run = every_frame("s3://a.mp4")
    served = {clip.request_id for clip in run}
    assert served.isdisjoint(run.failures)
    assert len(served) + len(run.failures) == FRAMES
    assert set(run.failures.values()) == {"io_error"}
    assert "503" in (run.error or "")
    assert bool(served) == (keep_bytes == 1)


def test_the_options_of_a_source_reach_each_of_its_files(video: Path, store: Store) -> None:
    store.folder = video.parent.parent
    (found,) = find_videos([f"s3://{video.parent.name}?endpoint_override=here"])
    assert found.video_id == "a.mp4"
    assert found.uri.endswith("/a.mp4?endpoint_override=here")
    assert probe(found.uri).frames == FRAMES
    assert all(uri.endswith("?endpoint_override=here") for uri in store.uris)
