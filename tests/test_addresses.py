"""Addresses of parts of files and of folders of frames: what they name is read as any video is."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pyarrow.fs
import pytest

from marey.configs.errors import InputError
from marey.pipeline.data.discover import find_videos
from marey.pipeline.runtime.address import ByteRange, FrameFolder, Packed, byte_range, frame_folder
from marey.pipeline.video import FrameRequest, probe, read, read_range
from marey.pipeline.video.frame_clock import FrameClock
from marey.pipeline.video.isolate import read_into
from marey.pipeline.video.sound import read_sound
from tests.test_video_remote import Store
from tests.videos import encode_video, frame_number, picture

FRAMES = 12


class Ranges(BaseHTTPRequestHandler):
    """A web server of one file. refuses: answers so many requests with 503 first."""

    content = b""
    ranges = True
    refuses = 0
    sent: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        if type(self).refuses > 0:
            type(self).refuses -= 1
            self.send_error(503)
            return
        if self.path != "/a.mp4":
            self.send_error(404)
            return
        part = self.content
        match = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        self.send_response(206 if match and self.ranges else 200)
        if match and self.ranges:
            start, last = int(match[1]), min(int(match[2]), len(part) - 1)
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(part)}")
            part = part[start : last + 1]
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        self.sent.append(len(part))

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a video on a web server."""
    monkeypatch.setattr("marey.pipeline.runtime.stores.PAUSES_S", (0.01,))
    Ranges.content = encode_video(tmp_path / "web.mp4", FRAMES).read_bytes()
    Ranges.ranges, Ranges.refuses = True, 0
    Ranges.sent.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/a.mp4"
    server.shutdown()
    server.server_close()


def test_a_web_address_is_read_by_ranges_and_asked_again(web: str, tmp_path: Path) -> None:
    Ranges.refuses = 2
    times = np.arange(FRAMES) / 25
    assert np.array_equal(read(web, times), read(str(tmp_path / "web.mp4"), times))
    (found,) = find_videos([web])
    assert (found.video_id, found.uri) == ("a.mp4", web)
    inside = ByteRange(web, 0, len(Ranges.content), ".mp4").uri
    assert probe(inside) == probe(web) == probe(str(tmp_path / "web.mp4"))


def test_a_web_address_that_is_gone_or_serves_no_ranges_says_so(web: str) -> None:
    assert "404" in str(probe(f"{web}x").error)
    Ranges.ranges = False
    Ranges.sent.clear()
    assert "does not serve ranges" in str(probe(web).error)


def test_an_address_says_where_and_is_read_back() -> None:
    for location in ("/data/a b.tar", "s3://bucket/a.tar?endpoint_override=here", "C:x/y"):
        part = ByteRange(location, 512, 2048, ".mp4")
        assert byte_range(part.uri) == part
        assert frame_folder(part.uri) is None
        page = ByteRange(location, 5, 7, ".webm", Packed(512, 2048, "lz4_raw", 4096))
        assert byte_range(page.uri) == page
        folder = FrameFolder(location, 12.5)
        assert frame_folder(folder.uri) == folder
    assert byte_range("/data/range://1+2/x") is None


@pytest.fixture
def within(tmp_path: Path) -> tuple[Path, ByteRange]:
    """A video alone, and the same bytes in the middle of a file."""
    video = encode_video(tmp_path / "a.mp4", FRAMES)
    content = video.read_bytes()
    (tmp_path / "pack").write_bytes(b"x" * 1000 + content + b"y" * 5000)
    return video, ByteRange(str(tmp_path / "pack"), 1000, len(content), ".mp4")


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_a_range_of_a_file_is_read_as_the_file_alone(
    within: tuple[Path, ByteRange], backend: str
) -> None:
    video, part = within
    times = np.arange(FRAMES) / 25
    assert np.array_equal(
        read(part.uri, times, backend=backend), read(str(video), times, backend=backend)
    )
    assert probe(part.uri) == probe(str(video))
    assert probe(part.uri, motion="vectors") == probe(str(video), motion="vectors")


def test_a_range_is_read_in_a_process_of_its_own(within: tuple[Path, ByteRange]) -> None:
    got: list[int] = []
    failures, error = read_into(
        lambda clip: got.extend(frame_number(frame) for frame in clip.frames),
        within[1].uri,
        [FrameRequest(0, np.array([0.0, 0.2]))],
        suspected=True,
    )
    assert (got, failures, error) == ([0, 5], {}, None)


def test_of_a_range_in_a_store_nothing_else_is_fetched(
    within: tuple[Path, ByteRange], monkeypatch: pytest.MonkeyPatch
) -> None:
    video, part = within
    store = Store(video.parent, lambda number, start: False)
    monkeypatch.setattr(pyarrow.fs, "FileSystem", store)
    there = ByteRange("s3://pack?endpoint_override=here", part.start, part.size, ".mp4")
    assert np.array_equal(read(there.uri, [0.1]), read(str(video), [0.1]))
    assert all(part.start <= at <= at + n <= part.start + part.size for at, n in store.reads)


def test_a_range_that_ends_after_its_file_says_so(within: tuple[Path, ByteRange]) -> None:
    part = within[1]
    Path(part.location).write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match="index it again"):
        read(part.uri, [0.0])
    assert "of a file of 2000" in str(probe(part.uri).error)


def write_frames(folder: Path, numbers: list[int], name: str = "img_{:05d}.png") -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        rgb = cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / name.format(number)), rgb)
    return folder


def test_a_folder_of_frames_is_read_as_a_video_and_gaps_are_gaps(tmp_path: Path) -> None:
    write_frames(tmp_path / "s" / "one", [1, 2, 3, 6, 7])
    write_frames(tmp_path / "s" / "zero", [0, 1, 2], "{:05d}.jpg")
    uri = FrameFolder(str(tmp_path / "s" / "one"), 10).uri
    one, zero = probe(uri), probe(FrameFolder(str(tmp_path / "s" / "zero"), 10).uri)
    assert (one.frames, one.status, one.width, one.height) == (5, "ok", 64, 48)
    assert one.duration_s == pytest.approx(0.7)
    assert zero.frame_times == ()
    assert (zero.fps, zero.codec) == (pytest.approx(10), "mjpeg")
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.45, 0.5, 0.6])
    assert [frame_number(f) for f in read(uri, times)] == [1, 2, 3, 3, 3, 6, 7]
    assert np.array_equal(read(uri, [0.5])[0], picture(6))  # PNG: the very pixels
    span = read_range(uri, 0.2, 0.6)
    assert span.shown_s.tolist() == pytest.approx([0.2, 0.5])
    assert FrameClock.of(one.frame_times).numbers_at(times).tolist() == [0, 1, 2, 2, 2, 3, 4]


def test_frames_that_are_broken_empty_or_of_two_series_are_named(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "s" / "broken", [0, 1, 2])
    (folder / "img_00001.png").write_bytes(b"no image")
    empty = write_frames(tmp_path / "s" / "empty", [0, 1, 2])
    (empty / "img_00002.png").write_bytes(b"")
    two = write_frames(tmp_path / "s" / "two", [0, 1])
    write_frames(tmp_path / "other", [0], "depth_{:03d}.png")
    (tmp_path / "other" / "depth_000.png").rename(two / "depth_000.png")
    got = {p.name: FrameFolder(str(p), 5).uri for p in (tmp_path / "s").iterdir()}
    assert probe(got["empty"]).status == "damaged"
    assert "img_00002.png is empty" in str(probe(got["empty"]).error)
    assert "more than one series" in str(probe(got["two"]).error)
    assert len(read(got["broken"], [0.0, 0.4])) == 2
    assert read_range(got["broken"], 0, 1).lost == {0.2: "damaged"}
    with pytest.raises(Exception, match="neither packets nor sound"):
        read_sound(got["broken"])
