"""What a stranger's index, list, playlist, picture or URI can do: be refused. One test a line of
docs/threat_model.md."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch

from marey.configs.errors import InputError
from marey.pipeline.cli.main import main
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.encoded_picture import decode_picture
from marey.pipeline.data.images import ImageFolder
from marey.pipeline.data.index import Index
from marey.pipeline.data.reading import Wanted
from marey.pipeline.data.shards import decode_images
from marey.pipeline.runtime import roots
from marey.pipeline.runtime.roots import Roots
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.runtime.stores import connect, without_secrets
from marey.pipeline.training.checkpoint import load_state
from marey.pipeline.video import FrameRequest, probe, read, read_plan
from marey.pipeline.video.container import open_video
from tests.videos import encode_video

SECRET = "wJalrXUtnFEMI"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of one video, and a private one beside it."""
    for name in ("videos", "private"):
        (tmp_path / name).mkdir()
    encode_video(tmp_path / "videos" / "a.mp4", 6)
    encode_video(tmp_path / "private" / "p.mp4", 6)
    return tmp_path / "videos"


def index_of(folder: Path, uri: str | None = None) -> Index:
    """The index of a folder, its one row changed to name another file, if wanted."""
    path = str(folder.parent / "index.parquet")
    table = make_index([str(folder)])
    if uri is not None:
        assert len(table) == 1
        place = table.schema.get_field_index("uri")
        table = table.set_column(place, "uri", pa.array([uri]))
    write_index(table, path)
    return Index.load(path)


def lack_of(index: Index, number: int = 0) -> str | None:
    """Why the first frame of an event is not read; None where it is."""
    event = index.event(number)
    wanted = Wanted(event, np.zeros(1, np.int64), np.zeros(1))
    lack = index.reader.read([wanted], (32, 32)).lacks[0]
    return lack and lack.reason


def test_a_row_reads_below_the_roots_alone(corpus: Path) -> None:
    private = corpus.parent / "private" / "p.mp4"
    assert lack_of(index_of(corpus)) is None
    assert lack_of(index_of(corpus, str(private))) == "outside_roots"
    assert lack_of(index_of(corpus, f"file://{private}")) == "outside_roots"
    assert lack_of(index_of(corpus, f"{corpus}/../private/p.mp4")) == "outside_roots"
    assert lack_of(index_of(corpus, f"{corpus}x/a.mp4")) == "outside_roots"


def test_a_link_out_of_the_roots_is_not_followed(corpus: Path) -> None:
    """Not while indexing, and not when it takes a file's place later."""
    (corpus / "b.mp4").symlink_to(corpus.parent / "private" / "p.mp4")
    index = index_of(corpus)
    assert index.table["status"].to_pylist() == ["ok", "unreadable"]
    said = make_index([str(corpus)])["error"].to_pylist()[1]
    assert "lies outside of the roots" in said
    assert "--roots" in said
    (corpus / "a.mp4").unlink()
    (corpus / "a.mp4").symlink_to(corpus.parent / "private" / "p.mp4")
    assert lack_of(index) == "outside_roots"


def test_declared_roots_let_a_link_be_followed(corpus: Path) -> None:
    (corpus / "b.mp4").symlink_to(corpus.parent / "private" / "p.mp4")
    with roots.declaring([str(corpus), str(corpus.parent / "private")]):
        index = index_of(corpus)
        assert index.table["status"].to_pylist() == ["ok", "ok"]
    assert lack_of(index, 1) is None
    assert roots.declared() == ()


def test_what_an_index_records_does_not_open_the_whole_disk(corpus: Path) -> None:
    path = str(corpus.parent / "forged.parquet")
    table = index_of(corpus, str(corpus.parent / "private" / "p.mp4")).table
    full = make_index([str(corpus)]).set_column(1, "uri", table["uri"])
    write_index(full.replace_schema_metadata({roots.NOTE: json.dumps(["/"]).encode()}), path)
    assert lack_of(Index.load(path)) == "outside_roots"


def test_linked_pictures_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.png").write_bytes(png(2, 2))
    (tmp_path / "in" / "a.png").symlink_to(tmp_path / "out.png")
    with pytest.raises(ValueError, match="outside of the roots"):
        ImageFolder(str(tmp_path / "in")).encoded(0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\nfile:{}\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile private.ts\n"),
        ("b.mkv", "ffconcat version 1.0\nfile private.ts\n"),
    ],
)
def test_a_list_of_other_files_is_no_video(tmp_path: Path, name: str, text: str) -> None:
    encode_video(tmp_path / "private.ts", 6)
    (tmp_path / name).write_text(text.format(tmp_path / "private.ts"))
    info = probe(str(tmp_path / name))
    assert (info.status, info.frames) == ("unreadable", 0)
    with pytest.raises(InputError, match="none of the video containers that are read"):
        read(str(tmp_path / name), [0.0])


def test_a_list_in_a_store_is_no_video_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_video(tmp_path / "private.ts", 6)
    segment = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\nfile:{tmp_path}/private.ts\n"
    (tmp_path / "list.m3u8").write_text(f"{segment}#EXT-X-ENDLIST\n")
    local = pyarrow.fs.LocalFileSystem()
    store = SimpleNamespace(from_uri=lambda uri: (local, str(tmp_path / uri[5:])))
    monkeypatch.setattr(pyarrow.fs, "FileSystem", store)
    assert probe("s3://list.m3u8").status == "unreadable"


def test_a_quicktime_reference_gives_no_frame_of_another_file(tmp_path: Path) -> None:
    """A `dref` of the kind `alis` names the file that a track's samples lie in."""
    other = encode_video(tmp_path / "private.mp4", 6)
    content = other.read_bytes()
    at = content.index(b"dref") - 4
    (size,) = struct.unpack(">I", content[at : at + 4])
    path = str(other).encode()
    alias = bytearray(150)
    alias[0:6] = b"\0\0\0\0\0\x02"
    alias += struct.pack(">hH", 18, len(path)) + path + b"\0" * (len(path) % 2)
    alias += struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + bytes(alias)
    box = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    made = bytearray(content[:at] + box + content[at + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        start = made.index(name) - 4
        (old,) = struct.unpack(">I", made[start : start + 4])
        made[start : start + 4] = struct.pack(">I", old + len(box) - size)
    media = made.index(b"mdat") - 4
    del made[media:]  # only the other file holds the pictures
    (tmp_path / "reference.mov").write_bytes(made)
    run = probe(str(tmp_path / "reference.mov"))
    assert run.frames == 0 or run.status != "ok"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/videos/a.mp4?endpoint_override=http://stranger:9000",
        "s3://bucket/videos/../private/a.mp4",
        "s3://bucket/videos/%2e%2e/private/a.mp4",
        "s3://bucket/private/a.mp4",
        "gs://bucket/videos/a.mp4",
    ],
)
def test_a_row_sends_credentials_to_no_other_store(
    uri: str, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is even connected to."""
    index = index_of(corpus, uri)
    index._roots = Roots.of(["s3://bucket/videos"])
    asked: list[str] = []
    monkeypatch.setattr(pyarrow.fs, "FileSystem", SimpleNamespace(from_uri=asked.append))
    assert lack_of(index) == "outside_roots"
    assert asked == []


def test_an_index_cannot_declare_an_endpoint_that_the_job_has_not_named() -> None:
    there = "s3://bucket/videos?endpoint_override=http://stranger:9000"
    note = {roots.NOTE: json.dumps([there, "s3://bucket/videos"]).encode()}
    assert roots.of_index(note, "/home/index.parquet").places == ("s3://bucket/videos",)
    own = "s3://bucket/index.parquet?endpoint_override=http://stranger:9000"
    assert there in roots.of_index(note, own).places  # a person typed this endpoint
    with roots.declaring([there]):
        assert roots.of_index(note, "/home/index.parquet").places == (there,)


def png(width: int, height: int) -> bytes:
    """A black PNG; of a large one the header alone."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    rows = b"\0" * (1 + 3 * width) * min(height, 8)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_small_file_does_not_become_a_large_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is read before it is decoded: the decoder is not called."""
    assert decode_picture(png(4, 4)).shape == (4, 4, 3)

    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("cv2.imdecode", decoded)
    for bomb in (png(12_000, 10_000), png(30_000, 30_000)):
        with pytest.raises(ValueError, match="more than 100000000 pixels"):
            decode_picture(bomb)
        with pytest.raises(InputError, match="more than 100000000 pixels"):
            decode_images([bomb])
    with pytest.raises(ValueError, match="not an image"):  # OpenCV would take it
        decode_picture(b"P6\n30000 30000\n255\n")


def test_a_video_says_its_size_before_it_is_decoded(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 2)
    with pytest.raises(InputError, match="its picture is 64x48, the bound is 3000 pixels"):
        open_video(str(path), max_pixels=3000)


def test_a_picture_that_grows_later_in_the_stream_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = encode_video(tmp_path / "small.h264", 6, bt709=True)
    large = encode_video(tmp_path / "large.h264", 6, size=(640, 480), bt709=True)
    (tmp_path / "both.h264").write_bytes(small.read_bytes() + large.read_bytes())
    wanted = [FrameRequest(n, np.array([n / 25])) for n in range(12)]
    assert len(list(read_plan(str(tmp_path / "both.h264"), wanted))) == 12
    monkeypatch.setattr("marey.pipeline.video.pyav_backend.MAX_PIXELS", 20_000)
    run = read_plan(str(tmp_path / "both.h264"), wanted)
    assert {clip.request_id for clip in run} <= set(range(6))
    assert set(range(6, 12)) <= set(run.failures)


class Touch:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({"step": Touch(tmp_path / "ran")}, tmp_path / "checkpoints" / "step-00000001.pt")
    with pytest.raises(InputError, match="no whole checkpoint left"):
        load_state(Folder(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIA:{SECRET}@bucket/videos",
        f"s3://bucket/videos?secret_key={SECRET}&region=eu",
        f"abfs://container:{SECRET}@account.dfs.core.windows.net/videos",
        f"abfs://container@account/videos?client_secret={SECRET}",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(
    uri: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", uri, "-o", str(corpus.parent / "i.parquet")]) == 2
    assert main(["train", "tcn_single", f"--data={uri}/i.parquet", "-o", "run"]) == 2
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert "set them in the environment" in said.err
    with pytest.raises(InputError) as refused:
        connect(uri)
    assert SECRET not in str(refused.value)
    assert SECRET not in (probe(uri).error or "")
    assert SECRET not in without_secrets(uri)
    with pytest.raises(InputError) as outside:
        Roots.of([str(corpus)]).check(uri)
    assert SECRET not in str(outside.value)


def test_options_that_are_no_credentials_stay() -> None:
    uri = "s3://bucket/a?endpoint_override=http://here:9000&scheme=http&region=eu"
    assert without_secrets(uri) == uri


def test_an_index_records_its_sources(corpus: Path) -> None:
    index_of(corpus)
    about = pq.read_schema(corpus.parent / "index.parquet").metadata
    assert json.loads(about[roots.NOTE]) == [str(corpus)]
    buffer = io.BytesIO()
    pq.write_table(make_index([str(corpus / "a.mp4")]), buffer)
    assert json.loads(pq.read_schema(buffer).metadata[roots.NOTE]) == [str(corpus / "a.mp4")]
