"""Videos in tars, zips, Parquet tables and folders of frames: rows, frames, reasons, bytes read."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError, SettingError, UsageError
from marey.pipeline.cli.main import main
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.discover import find_rows
from marey.pipeline.data.index import Index
from marey.pipeline.data.layouts.known import layout_of
from marey.pipeline.data.list_files import USUAL
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.labels import load_labels
from marey.pipeline.video import probe, read
from marey.pipeline.video.span import Span
from tests.lerobot_sets import CAMERAS, VIDEO_V3, write_v2, write_v3
from tests.test_addresses import write_frames
from tests.test_video_remote import Store
from tests.videos import encode_video, frame_number, picture

FRAMES = 12


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Three short videos by name, which differ."""
    folder = tmp_path_factory.mktemp("videos")
    made = {}
    for n, name in enumerate(("a.mp4", "b.mp4", "c.webm")):
        codec = "libvpx" if name.endswith("webm") else "libx264"
        path = encode_video(
            folder / name, FRAMES + n, codec=codec, draw=lambda k, n=n: picture(k + 100 * n)
        )
        made[name] = path.read_bytes()
    return made


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_tar(path: Path, videos: dict[str, bytes]) -> Path:
    """A shard as `webdataset.TarWriter` writes it: the members of a key one after another."""
    with tarfile.open(path, "w") as tar:
        add(tar, "0001.json", json.dumps({"label": "cup", "fps": 25}).encode())
        add(tar, "0001.mp4", videos["a.mp4"])
        add(tar, "0002.cls", b"7")
        add(tar, "0002.mp4", videos["b.mp4"])
        add(tar, "0003.left.mp4", videos["a.mp4"])
        add(tar, "0003.right.webm", videos["c.webm"])
        add(tar, "0004.mp4", b"this is no video")
        add(tar, "0005.txt", b"a caption alone")
    return path


def rows(table: pa.Table) -> dict[str, dict]:
    return {row["video_id"]: row for row in table.to_pylist()}


def shown(row: dict) -> list[int]:
    """The numbers that all frames of a row show, read through its address."""
    times = np.arange(row["frames"]) / 25
    return [frame_number(frame) for frame in read(row["uri"], times)]


def test_members_of_a_tar_are_rows_read_in_place(tmp_path: Path, videos: dict[str, bytes]) -> None:
    write_tar(tmp_path / "shard-000.tar", videos)
    got = rows(make_index([str(tmp_path)]))
    name = "shard-000.tar/000"
    assert list(got) == [
        f"{name}{n}" for n in ("1.mp4", "2.mp4", "3.left.mp4", "3.right.webm", "4.mp4")
    ]
    assert [row["label"] for row in got.values()] == ["cup", "7", "", "", ""]
    left, right = got[f"{name}3.left.mp4"], got[f"{name}3.right.webm"]
    assert (left["event"], left["view"], right["view"]) == (right["event"], "left", "right")
    assert shown(got[f"{name}1.mp4"]) == list(range(FRAMES))
    assert shown(got[f"{name}2.mp4"]) == list(range(100, 100 + FRAMES + 1))
    assert shown(right) == list(range(200, 200 + FRAMES + 2))
    assert got[f"{name}1.mp4"]["bytes"] == len(videos["a.mp4"])
    bad = got[f"{name}4.mp4"]
    assert (bad["status"], bad["frames"]) == ("unreadable", 0)
    assert "cannot be opened as a video" in bad["error"]


def test_a_tar_that_is_cut_short_or_compressed_costs_what_is_missing(
    tmp_path: Path, videos: dict[str, bytes]
) -> None:
    whole = write_tar(tmp_path / "whole.tar", videos).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 512 * 4 + len(videos["a.mp4"]) // 2])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        add(tar, "0001.mp4", videos["a.mp4"])
    (tmp_path / "none.tar").write_bytes(b"not a tar at all" * 100)
    got = rows(make_index([str(tmp_path)]))
    assert got["whole.tar/0001.mp4"]["status"] == "ok"
    assert "cut short" in got["cut.tar/0001.mp4"]["error"]
    assert "decompress it" in got["packed.tar"]["error"]
    assert "headers cannot be read" in got["none.tar"]["error"]


def test_stored_members_of_a_zip_are_read_and_deflated_ones_refused(
    tmp_path: Path, videos: dict[str, bytes]
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/a.mp4", videos["a.mp4"])
        archive.writestr("x/b.mp4", videos["b.mp4"], zipfile.ZIP_DEFLATED)
        archive.writestr("x/c.webm", videos["c.webm"])
        archive.writestr("x/notes.txt", "no video")
    got = rows(make_index([str(tmp_path / "a.zip")]))
    assert list(got) == ["a.zip/x/a.mp4", "a.zip/x/b.mp4", "a.zip/x/c.webm"]
    assert shown(got["a.zip/x/a.mp4"]) == list(range(FRAMES))
    assert shown(got["a.zip/x/c.webm"])[0] == 200
    assert got["a.zip/x/b.mp4"]["status"] == "unreadable"
    assert "deflated" in got["a.zip/x/b.mp4"]["error"]
    assert "zip -0" in got["a.zip/x/b.mp4"]["error"]


def video_table(contents: list[bytes | None], labels: list[int]) -> pa.Table:
    """A table as `datasets` makes it: structs of bytes and path, features in the metadata."""
    values = [
        content and {"bytes": content, "path": f"{n}.mp4"} for n, content in enumerate(contents)
    ]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"video": pa.array(values, struct), "label": pa.array(labels, pa.int64())})
    features = {
        "video": {"_type": "Video"},
        "label": {"names": ["cup", "plate"], "_type": "ClassLabel"},
    }
    about = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": about})


PLAIN_VIDEO = {"video.bytes": "NONE", "video.path": "SNAPPY", "label": "SNAPPY"}


@pytest.mark.parametrize("page", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_values_of_a_parquet_table_are_read_in_place(
    tmp_path: Path, videos: dict[str, bytes], page: str, dictionary: bool
) -> None:
    contents = [
        videos["a.mp4"],
        None,
        videos["b.mp4"],
        videos["a.mp4"],
        b"no video",
        videos["c.webm"],
    ]
    pq.write_table(
        video_table(contents, [0, 1, 1, -1, 0, 1]), tmp_path / "train.parquet", row_group_size=4,
        compression=PLAIN_VIDEO, use_dictionary=dictionary, data_page_version=page,
    )  # fmt: skip
    got = rows(make_index([str(tmp_path)]))
    assert sorted(got) == [f"train.parquet/{n:08d}" for n in range(6)]
    ordered = [got[name] for name in sorted(got)]
    assert [row["label"] for row in ordered] == ["cup", "plate", "plate", "", "cup", "plate"]
    assert shown(ordered[0]) == shown(ordered[3]) == list(range(FRAMES))
    assert shown(ordered[2])[0] == 100
    assert shown(ordered[5])[0] == 200
    assert "holds no video" in ordered[1]["error"]
    assert "cannot be opened" in ordered[4]["error"]


@pytest.mark.parametrize("page", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["snappy", "zstd", "gzip", "lz4", "brotli"])
def test_values_of_compressed_pages_are_read_in_place(
    tmp_path: Path, videos: dict[str, bytes], codec: str, page: str
) -> None:
    table = video_table([videos["a.mp4"], None, videos["b.mp4"]], [0, 1, 0])
    pq.write_table(table, tmp_path / "a.parquet", compression=codec, data_page_version=page)
    got = sorted(make_index([str(tmp_path)]).to_pylist(), key=lambda row: row["video_id"])
    assert [row["status"] for row in got] == ["ok", "unreadable", "ok"]
    assert shown(got[0]) == list(range(FRAMES))
    assert shown(got[2])[0] == 100


def test_an_encoding_that_hides_values_is_refused_with_advice(
    tmp_path: Path, videos: dict[str, bytes]
) -> None:
    pq.write_table(
        video_table([videos["a.mp4"]], [0]), tmp_path / "a.parquet", use_dictionary=False,
        column_encoding={"video.bytes": "DELTA_LENGTH_BYTE_ARRAY"},
    )  # fmt: skip
    (row,) = make_index([str(tmp_path)]).to_pylist()
    assert row["status"] == "unreadable"
    assert "write it anew with plain encoding" in row["error"]


def test_a_layout_is_recognised_said_and_may_be_named(
    tmp_path: Path, videos: dict[str, bytes]
) -> None:
    write_tar(tmp_path / "shard.tar", videos)
    _, said = find_rows([str(tmp_path)], USUAL, layout_of)
    assert said == [f"{tmp_path}: webdataset"]
    (tmp_path / "loose.mp4").write_bytes(videos["a.mp4"])
    assert layout_of(str(tmp_path)) is None
    named = layout_of(str(tmp_path), name="webdataset")
    assert named is not None
    assert len(list(named.rows(str(tmp_path)))) == 5
    assert layout_of(str(tmp_path), name="files") is None
    with pytest.raises(UsageError, match="--layout tar: it is one of files, frames, huggingface"):
        layout_of(str(tmp_path), name="tar")
    with pytest.raises(UsageError, match="--frames-fps"):
        layout_of(str(tmp_path), name="frames")


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of 150 kB or so."""
    path = tmp_path_factory.mktemp("h") / "h.mp4"
    return encode_video(path, FRAMES, size=(128, 96), draw=noise).read_bytes()


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
def test_one_clip_costs_a_small_part_of_a_container_in_a_store(
    tmp_path: Path, heavy: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 40
    path = tmp_path / f"many.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            for n in range(count):
                add(tar, f"{n:04d}.mp4", heavy)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for n in range(count):
                archive.writestr(f"{n:04d}.mp4", heavy)
    else:
        table = video_table([heavy] * count, [0] * count)
        pq.write_table(table, path, compression=PLAIN_VIDEO, use_dictionary=False)
    store = Store(tmp_path, lambda number, start: False)
    monkeypatch.setattr(pyarrow.fs, "FileSystem", store)
    found, _ = find_rows([f"s3://{path.name}?endpoint_override=here"], USUAL, layout_of)
    assert len(found) == count
    assert probe(found[7].uri).frames == FRAMES
    store.reads.clear()
    frames = read(found[7].uri, [0.0, 0.2])
    assert frames.shape == (2, 96, 128, 3)
    fetched = sum(size for _, size in store.reads)
    assert 0 < fetched < 0.05 * path.stat().st_size


def test_a_container_that_is_gone_or_shrunk_says_so(
    tmp_path: Path, videos: dict[str, bytes]
) -> None:
    path = write_tar(tmp_path / "shard.tar", videos)
    write_index(make_index([str(path)]), str(tmp_path / "i.parquet"))
    index = Index.load(str(tmp_path / "i.parquet"))
    index.check_present()
    uri = rows(index.table)["shard.tar/0003.left.mp4"]["uri"]
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(Exception, match="index it again"):
        read(uri, [0.0])
    path.unlink()
    with pytest.raises(InputError, match="none is at its place"):
        index.check_present()


def test_a_run_asks_no_further_than_the_first_video_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million files are not asked for one by one before the first step."""
    for n in (1, 3):
        (tmp_path / f"{n}.mp4").write_bytes(b"")
    videos = [
        {"video_id": str(n), "uri": str(tmp_path / f"{n}.mp4"), "frames": 8, "fps": 4.0}
        for n in range(5)
    ]
    asked: list[Path] = []
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: asked.append(self) or exists(self))
    index = Index.of(videos, "here")
    index.check_present()
    assert [path.name for path in asked] == ["0.mp4", "1.mp4"]


def test_folders_of_frames_are_rows(tmp_path: Path) -> None:
    write_frames(tmp_path / "s" / "one", [1, 2, 3, 6, 7])
    write_frames(tmp_path / "s" / "deep" / "zero", [0, 1, 2], "{:05d}.jpg")
    write_frames(tmp_path / "s" / "two", [0, 1])
    (tmp_path / "s" / "two" / "img_00000.png").rename(tmp_path / "s" / "two" / "other_00007.png")
    layout = partial(layout_of, fps=10)
    got = rows(make_index([str(tmp_path / "s")], layout=layout))
    assert list(got) == ["deep/zero", "one", "two"]
    assert (got["one"]["frames"], got["one"]["status"], got["deep/zero"]["fps"]) == (5, "ok", 10)
    assert [frame_number(f) for f in read(got["one"]["uri"], [0.2, 0.45, 0.5])] == [3, 3, 6]
    assert "more than one series" in got["two"]["error"]


def test_episodes_of_lerobot_2_are_events_and_cameras_views(tmp_path: Path) -> None:
    places = write_v2(tmp_path, [12, 14, 12], fps=25, tasks=["pick", "push"])
    for (episode, camera), path in places.items():
        base = 100 * episode + 300 * CAMERAS.index(camera)
        encode_video(path, 12 + 2 * (episode == 1), draw=lambda k, base=base: picture(k + base))
    places[2, CAMERAS[1]].unlink()
    got = rows(make_index([str(tmp_path)]))
    assert list(got) == [f"episode_{n:06d}/{camera}" for n in range(3) for camera in CAMERAS]
    row = got[f"episode_000001/{CAMERAS[1]}"]
    assert (row["event"], row["view"], row["label"]) == ("episode_000001", CAMERAS[1], "push")
    assert row["split"] == "train"
    assert json.loads(row["extra"])["length"] == row["frames"] == 14
    assert shown(row) == list(range(400, 414))
    assert "no such file" in got[f"episode_000002/{CAMERAS[1]}"]["error"]


def test_episodes_of_lerobot_3_are_spans_by_each_cameras_own_times(tmp_path: Path) -> None:
    fps, lengths = 25, [12, 9, 14]
    # the second camera's episodes lie in two files
    files = {CAMERAS[0]: [[0, 1, 2]], CAMERAS[1]: [[0], [1, 2]]}
    episodes: list[dict] = [{"length": n, "tasks": [f"task {n}"]} for n in lengths]
    for camera, held in files.items():
        for number, inside in enumerate(held):
            frames, base = [], 500 * CAMERAS.index(camera)
            for episode in inside:
                start_s = len(frames) / fps
                frames += [base + 100 * episode + k for k in range(lengths[episode])]
                episodes[episode][camera] = number, start_s, len(frames) / fps
            path = tmp_path / VIDEO_V3.format(video_key=camera, chunk_index=0, file_index=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            encode_video(path, len(frames), gop=2, draw=lambda k, frames=frames: picture(frames[k]))
    write_v3(tmp_path, episodes, fps=fps)
    table = make_index([str(tmp_path)])
    for n, length in enumerate(lengths):
        for c, camera in enumerate(CAMERAS):
            row = rows(table)[f"episode_{n:06d}/{camera}"]
            assert (row["frames"], row["label"], row["status"]) == (length, f"task {length}", "ok")
            span = Span(row["start_s"], row["end_s"])
            got = read(row["uri"], np.arange(length) / fps, span=span)
            first = 500 * c + 100 * n
            assert [frame_number(frame) for frame in got] == list(range(first, first + length))


def test_states_of_a_lerobot_set_are_labels_of_its_frames(tmp_path: Path) -> None:
    write_v2(tmp_path, [3, 2], fps=10)
    for episode, count in enumerate((3, 2)):
        path = tmp_path / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "episode_index": [episode] * count,
            "timestamp": [k / 10 for k in range(count)],
            "observation.state": [[k + 0.5, float(episode)] for k in range(count)],
            "action": [[float(k)] for k in range(count)],
        }
        pq.write_table(pa.table(columns), path)
    time_s = np.array([0.0, 0.1, 0.15, 0.1, 3.0])
    events = ["episode_000000"] * 3 + ["episode_000001"] * 2
    names = np.array([f"{event}/top" for event in events], dtype=object)
    views = np.full(5, "top", dtype=object)
    numbers = np.arange(5)
    vectors = np.zeros((5, 2), np.float32)
    groups = np.array(events, dtype=object)
    embedded = Embeddings(names, groups, views, numbers, time_s, vectors)
    labels = load_labels(tmp_path, embedded)
    assert labels.values.tolist() == [(0.5, 0.0), (1.5, 0.0), (1.5, 0.0), (1.5, 1.0), None]
    actions = load_labels(tmp_path, embedded, attribute="action")
    assert actions.values[1] == (1.0,)
    with pytest.raises(SettingError, match="there are action, episode_index"):
        load_labels(tmp_path, embedded, attribute="force")


def test_what_lerobot_says_wrongly_is_named(tmp_path: Path) -> None:
    write_v2(tmp_path, [12], fps=25)
    info = json.loads((tmp_path / "meta" / "info.json").read_text())
    for change, said in (
        ({"codebase_version": "v9.0"}, "codebase_version 9.0 is not known"),
        ({"features": {"observation.state": {"dtype": "float32"}}}, "not stored as videos"),
    ):
        (tmp_path / "meta" / "info.json").write_text(json.dumps(info | change))
        with pytest.raises(InputError, match=said):
            make_index([str(tmp_path)])


LAYOUT_OF = {
    "tar": "webdataset", "zip": "zip", "parquet": "huggingface", "frames": "frames",
    "lerobot": "lerobot",
}  # fmt: skip


def every_layout(root: Path) -> dict[str, tuple[list[str], int, int]]:
    """For each layout what `marey index` is given, and how many videos and events it then has.

    Each holds one video that is none.
    """
    contents: list[bytes] = []
    for n in range(3):
        path = root / f"{n}.mp4"
        encode_video(path, 30, draw=lambda k, n=n: picture(k + 100 * n, 64, 64), size=(64, 64))
        contents.append(path.read_bytes())
        path.unlink()
    bad = b"this is no video"
    (root / "tar").mkdir()
    with tarfile.open(root / "tar" / "a.tar", "w") as tar:
        for n, content in enumerate([*contents, bad]):
            add(tar, f"{n:04d}.mp4", content)
    (root / "zip").mkdir()
    with zipfile.ZipFile(root / "zip" / "a.zip", "w") as archive:
        for n, content in enumerate([*contents, bad]):
            archive.writestr(f"{n:04d}.mp4", content)
    (root / "parquet").mkdir()
    table = video_table([*contents, bad], [0, 1, 0, 1])
    pq.write_table(table, root / "parquet" / "a.parquet", compression="snappy")
    for n in range(3):
        write_frames(root / "frames" / f"{n}", list(range(1, 31)))
    (root / "frames" / "bad").mkdir()
    (root / "frames" / "bad" / "img_00001.png").write_bytes(bad)
    for n, (_, path) in enumerate(write_v2(root / "lerobot", [30] * 2, fps=25).items()):
        path.write_bytes([*contents, bad][n])
    said = {name: [str(root / name)] for name in ("tar", "zip", "parquet", "frames", "lerobot")}
    said["frames"] += ["--frames-fps", "25"]
    events = {"lerobot": 2}
    return {name: (words, 4, events.get(name, 4)) for name, words in said.items()}


@pytest.mark.slow
def test_every_layout_is_trained_on_embedded_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (words, videos, events) in every_layout(tmp_path).items():
        index = str(tmp_path / f"{name}.parquet")
        assert main(["index", *words, "-o", index, "--workers", "1"]) == 3
        said = capsys.readouterr().err
        assert f"{videos} videos, {events} events" in said
        assert f"{words[0]}: {LAYOUT_OF[name]}" in said
        table = pq.read_table(index)
        assert table["status"].to_pylist().count("unreadable") == 1
        run, vectors = str(tmp_path / f"{name}-run"), str(tmp_path / f"{name}-vectors")
        settings = ["method.sampling.pairs=4", "trainer.steps=2", "trainer.batch_size=4"]
        words = ["train", "tcn_single", "--data", index, "-o", run, "--engine", "local"]
        assert main([*words, *settings]) in (0, 3), capsys.readouterr().err
        words = ["embed", run, "--data", index, "-o", vectors, "--engine", "local"]
        assert main(words) in (0, 3), capsys.readouterr().err
        frames = pq.read_table(f"{vectors}/parts")
        assert len(set(frames["video_id"].to_pylist())) == 3
        page = tmp_path / f"{name}.html"
        assert main(["report", vectors, "-o", str(page)]) == 0
        assert page.read_text().count("<img") > 3
