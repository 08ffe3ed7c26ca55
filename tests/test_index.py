"""Indexing: every file a row, ids that travel, views grouped, faults named."""

import multiprocessing
import os

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError, MareyError, UsageError
from marey.pipeline.data import build_index as indexing
from marey.pipeline.data import corpus, discover, index_rows
from marey.pipeline.data.build_index import (
    StoredParts,
    make_index,
    probe_corpus,
    summarise,
    write_index,
)
from marey.pipeline.data.discover import find_videos
from marey.pipeline.data.grouping import group_views
from marey.pipeline.data.index import Index
from marey.pipeline.data.index_files import LATER_COLUMNS, SCHEMA
from tests.corpora import make_video
from tests.videos import encode_video, picture


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    encode_video(tmp_path / "a.mp4", 12)
    encode_video(tmp_path / "sub" / "b.mkv", 24, fps=12)
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mov").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path


def rows(table):
    return {row["video_id"]: row for row in table.to_pylist()}


def test_every_video_file_is_a_row_and_bad_ones_say_why(folder):
    table = make_index([str(folder)])
    assert table.schema == SCHEMA
    got = rows(table)
    assert list(got) == ["a.mp4", "empty.mov", "sub/b.mkv", "text.mp4"]
    assert (got["a.mp4"]["frames"], got["a.mp4"]["status"]) == (12, "ok")
    assert got["sub/b.mkv"]["duration_s"] == pytest.approx(2.0, abs=0.1)
    for name in ("text.mp4", "empty.mov"):
        assert got[name]["status"] == "unreadable"
        assert got[name]["error"]
        assert got[name]["frames"] == 0


def test_a_link_to_nothing_is_a_row_that_says_so(folder):
    (folder / "b.mp4").symlink_to(folder / "gone.mp4")
    row = rows(make_index([str(folder)]))["b.mp4"]
    assert row["status"] == "unreadable"
    assert row["error"].endswith("no such file")


def test_linked_folders_are_searched_once_and_loops_end(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    encode_video(elsewhere / "c.mp4", 2)
    (folder / "0").symlink_to(folder / "sub")  # sub/b.mkv keeps its name
    (folder / "far").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(folder)
    found = [file.video_id for file in find_videos([str(folder)])]
    assert found == ["a.mp4", "empty.mov", "far/c.mp4", "sub/b.mkv", "text.mp4"]


def test_a_folder_that_may_not_be_listed_is_a_row_that_says_so(folder, monkeypatch):
    access, scandir = os.access, os.scandir

    def refuse(path):  # as for everyone but root, who may list all
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda p, m: not str(p).endswith("sub") and access(p, m))
    row = rows(make_index([str(folder)]))["sub"]
    assert row["status"] == "unreadable"
    assert row["error"].endswith("sub: is a folder, may not be listed")


def test_a_file_whose_name_is_no_utf_8_is_a_row_that_says_so(tmp_path):
    encode_video(tmp_path / "good.mp4", 2)
    os.rename(tmp_path / "good.mp4", os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    encode_video(tmp_path / "good.mp4", 2)
    got = rows(make_index([str(tmp_path)]))
    assert got["good.mp4"]["status"] == "ok"
    assert got["caf\\xe9.mp4"]["status"] == "unreadable"
    assert "its name is no UTF-8" in got["caf\\xe9.mp4"]["error"]


def test_every_video_stream_is_a_row_and_the_first_keeps_the_files_name(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64, 48 + 16 * number, "yuv420p"
        for n in range(12):
            for stream in streams[: 1 if n >= 8 else 2]:
                picture = np.full((stream.height, 64, 3), 20 * n, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    table = make_index([str(tmp_path)], views="(?P<label>tw)")
    got = [(r["video_id"], r["event"], r["label"], r["stream"], r["height"], r["frames"])
           for r in table.to_pylist()]  # fmt: skip
    assert got == [
        ("two.mkv", "two.mkv", "tw", 0, 48, 12), ("two.mkv#1", "two.mkv#1", "tw", 1, 64, 8),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_thumbnail_without_its_flag_is_no_stream(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    tags = {"NUMBER_OF_FRAMES": "1"}
    with av.open(str(path), "w") as container:
        still = container.add_stream("mjpeg", rate=25)
        still.width, still.height, still.pix_fmt = 64, 48, "yuvj420p"
        still.metadata.update(tags)
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.metadata.update({"NUMBER_OF_FRAMES": "12"})
        for stream, count in ((still, 1), (video, 12)):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    (row,) = make_index([str(path)]).to_pylist()
    assert (row["video_id"], row["codec"], row["frames"]) == (path.name, "h264", 12)


@pytest.mark.parametrize("remote", [False, True])
def test_leavings_of_macos_and_typescript_are_no_videos(remote, tmp_path, monkeypatch):
    encode_video(tmp_path / "a.mp4", 2)
    (tmp_path / "._a.mp4").write_bytes(b"\0\5\x16\7" + bytes(200))
    (tmp_path / "main.ts").write_text("export const zoë = 'a';\n", encoding="utf-8")
    (tmp_path / "mod.mts").write_text("// module\r\nimport x from './x';\n" * 200)
    encode_video(tmp_path / "b.ts", 2)
    (tmp_path / "cut.ts").write_bytes((tmp_path / "b.ts").read_bytes()[:501])
    (tmp_path / "empty.ts").write_bytes(b"")
    if remote:  # the way of object stores, to a local folder
        monkeypatch.setattr(discover, "is_remote", lambda uri: uri.startswith("file://"))
    source = tmp_path.as_uri() if remote else str(tmp_path)
    assert [file.video_id for file in find_videos([source])] == [
        "a.mp4", "b.ts", "cut.ts", "empty.ts",
    ]  # fmt: skip


def test_processes_give_the_rows_of_one(folder):
    assert make_index([str(folder)], workers=2).equals(make_index([str(folder)]))


def test_a_process_that_is_killed_costs_no_row(folder):
    killed = []

    def kill_one(done, total, seconds):
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    assert make_index([str(folder)], workers=1, progress=kill_one).equals(make_index([str(folder)]))
    assert killed


def test_a_file_that_takes_too_long_is_a_row_that_says_so(tmp_path):
    encode_video(tmp_path / "long.mp4", 300)  # seconds of optical flow
    options = {"motion": "flow", "workers": 2, "limit_s": 0.05}
    parts = probe_corpus([str(tmp_path)], str(tmp_path / "index.parquet"), **options)
    (row,) = rows(parts.table()).values()
    assert row["status"] == "unreadable"
    assert row["error"].endswith("long.mp4: took longer than 0.05 s and was ended")
    assert summarise(parts).bad == [("unreadable", "long.mp4", row["error"])]


def test_a_reader_s_own_limit_does_not_cut_the_limit_of_indexing_short(tmp_path, monkeypatch):
    monkeypatch.setattr("marey.pipeline.video.isolate.TIME_LIMIT_S", 1e-9)
    monkeypatch.setattr("marey.pipeline.video.isolate.GRACE_S", 0.0)
    encode_video(tmp_path / "a.mp4", 12)
    assert rows(make_index([str(tmp_path)], motion="flow"))["a.mp4"]["status"] == "ok"


def test_an_index_goes_on_where_it_was_interrupted_and_leaves_nothing(folder, monkeypatch):
    for module in (corpus, indexing):
        monkeypatch.setattr(module, "PART_ROWS", 1)
    out = str(folder / "out" / "index.parquet")
    steps = []

    def stop(done, total, seconds):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe_corpus([str(folder)], out, workers=0, progress=stop)
    parts = probe_corpus(
        [str(folder)], out, workers=0, progress=lambda done, total, seconds: steps.append(done)
    )
    assert steps == [3, 4]
    write_index(parts, out)
    parts.remove()
    assert pq.read_table(out).equals(make_index([str(folder)]))
    assert pq.ParquetFile(out).num_row_groups == 4
    assert [p.name for p in (folder / "out").iterdir()] == ["index.parquet"]


def test_an_index_is_made_by_one_process_at_a_time(folder):
    out = str(folder / "out" / "index.parquet")
    with StoredParts.folder(out).held(), pytest.raises(UsageError, match="another process"):
        probe_corpus([str(folder)], out, workers=0)


def test_parts_of_other_files_are_not_taken_for_these(folder, monkeypatch):
    for module in (corpus, indexing):
        monkeypatch.setattr(module, "PART_ROWS", 1)
    out = str(folder / "out" / "index.parquet")
    probe_corpus([str(folder)], out, workers=0)
    (folder / "a.mp4").unlink()
    encode_video(folder / "a.mp4", 30)
    table = probe_corpus([str(folder)], out, workers=0).table()
    assert rows(table)["a.mp4"]["frames"] == 30


def test_ids_do_not_depend_on_where_the_folder_stands(folder, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "else"
    folder.rename(moved)
    assert next(f.video_id for f in find_videos([str(moved)])) == "a.mp4"
    by_glob = {f.video_id for f in find_videos([str(moved / "*.mp4")])}
    assert by_glob == {"a.mp4", "text.mp4"}
    assert [f.video_id for f in find_videos([str(moved / "sub" / "b.mkv")])] == ["b.mkv"]


def test_sources_that_are_not_there_or_empty_are_named(folder):
    with pytest.raises(InputError, match=r"no such file or folder: .*nothing"):
        find_videos([str(folder / "nothing")])
    (folder / "hollow").mkdir()
    with pytest.raises(InputError, match=r"hollow holds no video \(looked for"):
        find_videos([str(folder / "hollow")])
    with pytest.raises(InputError, match="holds no video"):
        find_videos([str(folder / "*.webm")])


def test_two_sources_may_not_give_one_id(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    encode_video(other / "a.mp4", 4)
    with pytest.raises(InputError, match=r"two files would be called 'a\.mp4'"):
        find_videos([str(folder), str(other)])


def test_two_sources_may_not_give_one_file_two_ids(folder):
    with pytest.raises(InputError, match=r"in two of the sources, as 'sub/b\.mkv' and 'b\.mkv'"):
        find_videos([str(folder), str(folder / "sub")])
    assert len(find_videos([str(folder), str(folder / "a.mp4")])) == 4


def test_views_are_grouped_by_named_groups():
    names = ["day/seq1_view0.mp4", "day/seq1_view1.mp4", "night/seq1_view0.mp4", "lone.mp4"]
    placed = group_views(names, r"(?P<event>seq\d+)_view(?P<view>\d)")
    assert placed["day/seq1_view0.mp4"].event == placed["day/seq1_view1.mp4"].event == "day/seq1"
    assert placed["night/seq1_view0.mp4"].event == "night/seq1"
    assert placed["day/seq1_view1.mp4"].view == "1"
    assert placed["lone.mp4"].event == "lone.mp4"


def test_views_are_grouped_by_a_table_with_clocks(tmp_path):
    table = tmp_path / "views.csv"
    table.write_text(
        "video_id,event,view,clock_offset_s,clock_rate\na.mp4,e,left,0.5,1.0001\nb.mp4,e,right,,\n"
    )
    placed = group_views(["a.mp4", "b.mp4"], str(table))
    assert (placed["a.mp4"].clock_offset_s, placed["a.mp4"].clock_rate) == (0.5, 1.0001)
    assert (placed["b.mp4"].view, placed["b.mp4"].clock_rate) == ("right", 1.0)
    table.write_text("video_id,event,view,clock_rate\na.mp4,e,left,7\n")
    with pytest.raises(InputError, match=r"line 2: clock_rate 7\.0 is not in"):
        group_views(["a.mp4"], str(table))


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ("(?P<event>x", "no regular expression"),
        (r"seq\d+", "must name the groups"),
        (r"(?P<event>zzz)(?P<view>\d)", "covers none"),
        (r"(?P<event>se)q\d_(?P<view>v)", "same event"),
    ],
)
def test_wrong_groupings_are_refused(views, message):
    with pytest.raises(UsageError, match=message):
        group_views(["seq1_view0.mp4", "seq2_view0.mp4"], views)


def test_an_index_comes_back_as_it_was_written(folder):
    table = make_index([str(folder)])
    write_index(table, str(folder / "out" / "index.parquet"))
    index = Index.load(str(folder / "out" / "index.parquet"))
    assert len(index) == 4
    video = index.event(0).videos[0]
    assert (video.video_id, video.frames) == ("a.mp4", 12)
    assert video.motion.dtype == np.float32
    assert index.digest == Index(table, "").digest
    assert not list((folder / "out").glob("*.tmp-*"))


def made_up(rows: int, **columns) -> pa.Table:
    """An index of videos that nobody has."""
    values = {
        "video_id": [f"v{n}" for n in range(rows)], "uri": [f"s3://b/{n}" for n in range(rows)],
        "event": [f"v{n}" for n in range(rows)], "view": ["0"] * rows, "label": [""] * rows,
        "keyframes": [np.arange(60.0)] * rows, "motion": [np.ones(50, np.float32)] * rows,
        "cuts": [[1.0]] * rows, "status": ["ok"] * rows, "error": [None] * rows,
        "codec": ["h264"] * rows, **{name: [None] * rows for name in LATER_COLUMNS},
    } | columns  # fmt: skip
    numbers = {f.name: np.ones(rows) for f in SCHEMA if f.name not in values}
    kinds = {field.name: field.type for field in SCHEMA}
    return pa.table(
        {n: pa.array((values | numbers)[n]).cast(kinds[n]) for n in SCHEMA.names}, schema=SCHEMA
    )


def test_events_and_their_views_are_sorted_by_name(tmp_path):
    random = np.random.default_rng(0)
    events = [f"{'éaZ😀b'[n % 5]}{n // 15}" for n in range(150)]
    views = [f"{n % 3}" for n in range(150)]
    labels = ["", "walk", "run"]
    rows = random.permutation(sorted({*zip(events, views, strict=True)}))
    table = made_up(len(rows), event=rows[:, 0].tolist(), view=rows[:, 1].tolist(),
                    label=[labels[sum(map(ord, e)) % 3] for e in rows[:, 0]],
                    frames=list(range(len(rows))))  # fmt: skip
    write_index(table, str(tmp_path / "i.parquet"))
    index = Index.load(str(tmp_path / "i.parquet"))
    wanted = sorted((str(e), str(v)) for e, v in rows)
    got = [(event.event_id, video.view) for event in index.events() for video in event.videos]
    assert got == wanted
    assert [(v.event, v.view) for v in map(index.video, range(len(rows)))] == wanted
    flat = [video.frames for event in index.events() for video in event.videos]
    assert index.column("frames").tolist() == flat
    known = {"": -1, "run": 0, "walk": 1}
    assert index.labels() == [known[event.videos[0].label] for event in index.events()]


def test_a_loaded_index_holds_what_videos_are_made_of_and_little_more(tmp_path):
    table = made_up(25_000)
    write_index(table, str(tmp_path / "i.parquet"))
    needed = table.drop(["keyframes", "error", "codec", "bytes", "rotation"]).nbytes
    before = pa.total_allocated_bytes()
    index = Index.load(str(tmp_path / "i.parquet"))
    assert len(index) == 25_000
    assert pa.total_allocated_bytes() - before < 1.1 * needed
    assert index.event(7).videos[0].motion.tolist() == [1.0] * 50


def test_rows_are_read_together_not_one_by_one(folder, monkeypatch):
    take, asked = index_rows.HeldRows.take, []
    monkeypatch.setattr(
        index_rows.HeldRows, "take", lambda self, rows: asked.append(len(rows)) or take(self, rows)
    )
    index = Index(make_index([str(folder)]), "nowhere")
    assert len(list(index.events())) == sum(asked) > 1
    assert len(asked) == 1


@pytest.mark.parametrize("cameras", [1, 3])
def test_rows_of_a_large_index_wait_in_a_file_and_are_the_same(cameras, tmp_path, monkeypatch):
    """Null, empty and full cells, in all orders; more batches than are kept."""
    rows = 600
    numbers = np.random.default_rng(0).permutation(rows)
    knots = [{"frame": 0, "time_s": 0.0}, {"frame": 9, "time_s": 0.4}]
    table = made_up(
        rows, event=[f"e{n // cameras}" for n in numbers], view=[f"{n % cameras}" for n in numbers],
        motion=[[None, [], [0.5, float(n)]][n % 3] for n in numbers],
        cuts=[[[], [1.0, float(n)]][n % 2] for n in numbers],
        frame_times=[[None, knots][n % 2] for n in numbers],
        start_s=[[None, float(n)][n % 2] for n in numbers],
        end_s=[[None, n + 1.0][n % 2] for n in numbers],
        split=[[None, "", "train"][n % 3] for n in numbers],
    )  # fmt: skip
    write_index(table, str(tmp_path / "i.parquet"))
    monkeypatch.setattr("marey.pipeline.data.index_rows.KEPT_BATCHES", 2)
    held = Index.load(str(tmp_path / "i.parquet"))
    monkeypatch.setattr("marey.pipeline.data.index.HELD_BYTES", 0)
    spooled = Index.load(str(tmp_path / "i.parquet"))
    assert isinstance(spooled._rows, index_rows.SpooledRows)

    def plain(video):
        values = {name: getattr(video, name) for name in index_rows.VIDEO_COLUMNS}
        clock = values.pop("frame_times")
        lists = (
            values.pop("motion").tolist(),
            clock and (clock.numbers.tolist(), clock.times_s.tolist()),
        )
        return values, lists

    for some in (np.arange(len(held)), np.random.default_rng(1).permutation(len(held))[:50]):
        for one, other in zip(held.take(some), spooled.take(some), strict=True):
            assert one.event_id == other.event_id
            assert list(map(plain, one.videos)) == list(map(plain, other.videos))
    assert (held.digest, held.labels()) == (spooled.digest, spooled.labels())
    assert held.take(np.array([], np.int64)) == spooled.take(np.array([], np.int64)) == []
    assert held.table.equals(spooled.table)


def test_a_full_temporary_folder_is_said_with_what_to_do(monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_rows.tempfile, "TemporaryFile", lambda prefix: Full())
    with pytest.raises(MareyError, match=r"\(No space left on device\); set TMPDIR"):
        index_rows.SpooledRows(made_up(3).to_batches())


def test_what_is_no_index_is_refused_by_what_it_lacks(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Index.load(str(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="not a Parquet file"):
        Index.load(str(tmp_path / "text.parquet"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"is not an index: it lacks video_id, .* \(it has x\)"):
        Index.load(str(tmp_path / "other.parquet"))


def test_times_of_the_event_are_shown_at_their_place_on_a_cameras_own_clock():
    video = make_video(offset_s=-2.0, rate=1.5)
    assert video.shown_at(4.0) == 4.0
    assert video.shown_at(2.0) == 1.0
    times_s = np.array([0.0, 2.0, 7.25])
    assert np.allclose(video.event_time(video.shown_at(times_s)), times_s)


@pytest.mark.data
def test_all_development_videos_are_rows(shared_data):
    table = make_index([str(shared_data / "videos")], workers=2)
    got = rows(table)
    assert len(got) == 35  # 34 files, one of two streams
    assert not [name for name, row in got.items() if row["status"] == "unreadable"]
    assert got["odd/video_90.mov"]["rotation"] % 180 == 90
    assert got["vtest.avi"]["frames"] == 795
