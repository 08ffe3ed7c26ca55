"""Described from its table, a file is as described from all its packets; or it is read whole."""

import threading
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from marey.pipeline.cli.main import main
from marey.pipeline.data.build_index import make_index
from marey.pipeline.data.index_files import read_table
from marey.pipeline.video import header_file, probe
from marey.pipeline.video.header_file import HeaderFile, NoTable
from tests.test_addresses import Ranges
from tests.videos import ODD_VIDEOS, encode_video, make_odd

CASES = sorted((Path(__file__).parent / "cases").glob("*.m[po][4v]"))
COST = ("scan", "read_bytes", "requests")


def same(path: Path | str) -> str:
    """Hold both descriptions against each other; says which one the table gave."""
    whole, header = probe(str(path)), probe(str(path), scan="header")
    one, other = asdict(whole), asdict(header)
    differing = {n: (one[n], other[n]) for n in one if n not in COST and one[n] != other[n]}
    assert not differing, path
    assert whole.scan == "full"
    return header.scan


@pytest.mark.parametrize("piece", [64, 2**18], ids=["hollow", "small"])
@pytest.mark.parametrize("name", sorted(ODD_VIDEOS))
def test_odd_videos_are_described_alike(name, piece, tmp_path, monkeypatch):
    monkeypatch.setattr(header_file, "PIECE", piece)
    same(make_odd(name, tmp_path))


@pytest.mark.parametrize("piece", [64, 2**18], ids=["hollow", "small"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_cases_of_the_field_are_described_alike(path, piece, monkeypatch):
    monkeypatch.setattr(header_file, "PIECE", piece)
    same(path)


@pytest.mark.parametrize("front", [False, True], ids=["table_last", "table_first"])
def test_a_plain_file_is_described_from_its_table(front, tmp_path):
    options = {"movflags": "faststart"} if front else {}
    path = encode_video(tmp_path / "a.mp4", 40, cuts=[13, 27], container_options=options)
    assert same(path) == "header"


@pytest.mark.data
def test_all_development_videos_are_described_alike(shared_data):
    folders = shared_data / "videos", shared_data.parent / "cases" / "video"
    found = [same(path) for folder in folders for path in sorted(folder.rglob("*.m[po][4v]"))]
    assert found.count("header") >= 18


def fragmented(folder: Path) -> Path:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    return encode_video(folder / "f.mp4", 30, container_options=options)


def cut(folder: Path) -> Path:
    options = {"movflags": "faststart"}
    path = encode_video(folder / "c.mp4", 30, container_options=options)
    path.write_bytes(path.read_bytes()[:-500])
    return path


def no_video(folder: Path) -> Path:
    path = folder / "n.mp4"
    path.write_bytes(b"nothing of a video")
    return path


def huge_table(folder: Path) -> Path:
    """A table of 4 GB, by its own word, of which there are 9 bytes."""
    path = folder / "h.mp4"
    path.write_bytes(b"\xff\xff\xff\xf0moov" + bytes(9))
    return path


def very_many_boxes(folder: Path) -> Path:
    path = folder / "b.mp4"
    path.write_bytes((b"\0\0\0\x08free") * 100_000)
    return path


@pytest.mark.parametrize("make", [fragmented, cut, no_video, huge_table, very_many_boxes])
def test_without_a_whole_table_a_file_is_read(make, tmp_path):
    path = make(tmp_path)
    with pytest.raises(NoTable):
        HeaderFile(str(path))
    assert same(path) == "full"


def test_other_containers_and_absent_files_are_read(tmp_path):
    assert same(encode_video(tmp_path / "a.mkv", 12)) == "full"
    assert same(encode_video(tmp_path / "a.ts", 12)) == "full"
    assert same(tmp_path / "none.mp4") == "full"
    (tmp_path / "folder.mp4").mkdir()
    assert same(tmp_path / "folder.mp4") == "full"


@pytest.fixture
def server():
    """A web server of one file, whose content a test sets."""
    Ranges.ranges, Ranges.refuses = True, 0
    Ranges.sent.clear()
    web = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_address[1]}/a.mp4"
    web.shutdown()
    web.server_close()


def large(folder: Path, **options: str) -> Path:
    """60 MB of pictures as they are."""
    path = folder / "large.mov"
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "rgb24"
        picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        for number in range(65):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number, 1), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
    return path


@pytest.mark.parametrize("front", [False, True], ids=["table_last", "table_first"])
def test_a_remote_file_of_60_mb_costs_few_requests_and_bytes(front, tmp_path, server):
    path = large(tmp_path, **({"movflags": "faststart"} if front else {}))
    Ranges.content = path.read_bytes()
    assert len(Ranges.content) > 59e6
    info = probe(server, scan="header")
    assert info == probe(str(path), scan="header")
    assert (info.scan, info.frames) == ("header", 65)
    assert info.requests is not None
    assert info.read_bytes is not None
    assert len(Ranges.sent) == info.requests <= 5
    # to learn the size, a request asks for one byte
    assert sum(Ranges.sent) == info.read_bytes + 1 < 2e6


def test_an_index_says_how_each_row_was_made_and_what_it_cost(tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    encode_video(folder / "a.mp4", 12)
    encode_video(folder / "b.mkv", 12)
    out = str(tmp_path / "i.parquet")
    assert main(["index", str(folder), "-o", out, "--workers", "1"]) == 0
    assert "1 from their headers, 1 read whole" in capsys.readouterr().err
    table = read_table(out)
    assert table["scan"].to_pylist() == ["header", "full"]
    size = (folder / "a.mp4").stat().st_size
    assert table["read_bytes"].to_pylist() == [size, None]
    assert table["requests"].to_pylist() == [2, None]
    full = make_index([str(folder)], scan="full")
    assert full["scan"].to_pylist() == ["full", "full"]
    assert full.drop([*COST]).equals(make_index([str(folder)]).drop([*COST]))
