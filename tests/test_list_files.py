"""Lists of videos and spans, as people have them: columns, times, templates, what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError, UsageError
from marey.pipeline.cli.main import main
from marey.pipeline.data.discover import find_rows
from marey.pipeline.data.grouping import group_views, label_rule
from marey.pipeline.data.index import Index
from marey.pipeline.data.list_files import USUAL, ListOptions, read_columns, read_list
from marey.pipeline.data.listing import LISTINGS, Listed, register_listing
from tests.videos import encode_video

CSV = """path,start,end,label,split,verb
a.mp4,1.5,00:00:02.250,cut,train,1
sub/b.mp4,01:01:05.5,,"cut, again",val,2
c.mp4,,,,,
"""


def written(folder, name, text):
    path = folder / name
    path.write_text(text)
    return str(path)


def keys(rows):
    return [(row.video_id, row.start_s, row.end_s, row.label, row.split, row.extra) for row in rows]


def test_columns_and_times_are_read_by_their_usual_names(tmp_path):
    rows = read_list(written(tmp_path, "l.csv", CSV), USUAL)
    assert keys(rows) == [
        ("a.mp4#1.500-2.250", 1.5, 2.25, "cut", "train", {"verb": "1"}),
        ("sub/b.mp4#3665.500-", 3665.5, None, "cut, again", "val", {"verb": "2"}),
        ("c.mp4", None, None, "", "", {}),
    ]
    assert [row.uri for row in rows] == [
        str(tmp_path / name) for name in ("a.mp4", "sub/b.mp4", "c.mp4")
    ]


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "json", "parquet", "txt"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, suffix):
    table = [{"video": "a.mp4", "class": "run"}, {"video": "b c.mp4", "class": "walk"}]
    path = tmp_path / f"l.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif suffix == "tsv":
        path.write_text("video\tclass\na.mp4\trun\nb c.mp4\twalk\n")
    elif suffix == "txt":
        path.write_text("a.mp4 run\n\n'b c.mp4' walk\n")
    else:
        lines = "\n".join(map(json.dumps, table))
        path.write_text(json.dumps(table) if suffix == "json" else lines)
    rows = read_list(str(path), USUAL)
    assert [(row.video_id, row.label) for row in rows] == [("a.mp4", "run"), ("b c.mp4", "walk")]


def test_names_are_made_by_templates(tmp_path):
    kinetics = "label,youtube_id,time_start,time_end,split\nabseiling,007,12,22,train\n"
    options = ListOptions(
        read_columns("uri={youtube_id}_{time_start:06d}_{time_end:06d}.mp4,start_s=,end_s="),
        root=str(tmp_path / "clips"),
    )
    (row,) = read_list(written(tmp_path, "k.csv", kinetics), options)
    assert row.video_id == "007_000012_000022.mp4"
    assert row.uri == str(tmp_path / "clips" / row.video_id)
    assert (row.span, row.label, row.split) == (None, "abseiling", "train")
    assert row.extra["time_start"] == "12"
    something = json.dumps([{"id": "78687", "label": "holding", "template": "Holding [x]"}])
    options = ListOptions({"uri": "{id}.webm"})
    (row,) = read_list(written(tmp_path, "s.json", something), options)
    assert (row.video_id, row.extra["template"]) == ("78687.webm", "Holding [x]")


def test_segments_of_a_json_file_are_rows(tmp_path):
    parts = [{"segment": [1.0, 2.5], "label": "hop"}, {"segment": [3, 4], "label": "run"}]
    tree = {"database": {"v1": {"subset": "training", "annotations": parts}}}
    path = written(tmp_path, "a.json", json.dumps(tree))
    with pytest.raises(InputError, match=r"it has|rows-at|names the videos"):
        read_list(path, ListOptions({"uri": "{video}.mp4"}, rows_at="nothing"))
    rows = read_list(path, ListOptions({"uri": "{video}.mp4"}, rows_at="database"))
    assert keys(rows) == [
        ("v1.mp4#1.000-2.500", 1.0, 2.5, "hop", "training", {"video": "v1"}),
        ("v1.mp4#3.000-4.000", 3.0, 4.0, "run", "training", {"video": "v1"}),
    ]


def test_frame_numbers_are_frame_numbers_when_it_is_said(tmp_path):
    text = "path,start,end\na.mp4,10,20\n"
    (row,) = read_list(written(tmp_path, "l.csv", text), ListOptions(times="frames"))
    assert (row.video_id, row.in_frames) == ("a.mp4#f10-20", True)
    text = "path,start_frame,stop_frame,start_timestamp\na.mp4,10,20,0.5\n"
    (row,) = read_list(written(tmp_path, "e.csv", text), USUAL)  # the times are what counts
    assert (row.span, row.extra) == ((0.5, float("inf")), {"start_frame": "10", "stop_frame": "20"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,start,end\na.mp4,5,4\n", r"line 2: the span 5.0..4.0 is none"),
        ("path,start\na.mp4,soon\n", r"line 2: start_s 'soon' is no number"),
        ("path\na.mp4\na.mp4\n", r"line 3: 'a.mp4' stands in line 2 already; a column `video_id`"),
        ("video_id,path\nx,a.mp4\nx,b.mp4\n", r"--columns video_id=` makes ids"),
        (
            "name,label\na.mp4,x\n",
            r"no column that names the videos .*it has name, label.*--columns",
        ),
        ("path,path\na.mp4,b.mp4\n", r"has the column path twice"),
        ("path,label\na.mp4\n", r"line 2: has other cells than the header's 2"),
        ("path,label\na.mp4,x,y\n", r"line 2: has other cells than the header's 2"),
        ("path,view\na.mp4,left\n", r"line 2: has the view 'left' and no event"),
        ("path,clock_rate\na.mp4,9\n", r"clock_rate 9.0 is not in"),
        ("path\n", r"lists nothing"),
    ],
)
def test_what_a_list_cannot_mean_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_list(written(tmp_path, "l.csv", text), USUAL)


def test_columns_that_are_not_there_are_refused(tmp_path):
    path = written(tmp_path, "l.csv", "path,lable\na.mp4,x\n")
    with pytest.raises(InputError, match=r"no column 'label'; did you mean lable"):
        read_list(path, ListOptions({"label": "label"}))
    with pytest.raises(UsageError, match=r"lable is nothing that a row says; did you mean label"):
        ListOptions({"lable": "x"})
    with pytest.raises(UsageError, match="not of the form"):
        read_columns("uri")
    with pytest.raises(InputError, match=r"cannot be filled in .*KeyError"):
        read_list(path, ListOptions({"uri": "{nothing}.mp4"}))


def test_the_camera_may_stand_anywhere_in_the_name():
    for names, rule in (
        (["cam0/ep1.mp4", "cam1/ep1.mp4"], r"(?P<view>cam\d)/(?P<event>ep\d+)"),
        (["d/top/x/e1.mp4", "d/left/x/e1.mp4"], r"d/(?P<view>\w+)/x/(?P<event>e\d)"),
        (["ep1_c0_x.mp4", "ep1_c1_x.mp4"], r"(?P<event>ep\d_(?P<view>c\d)_x)"),
        (["c0/e1_c0.mp4", "c1/e1_c1.mp4"], r"(?P<view>c\d)/(?P<event>e\d)_(?P=view)"),
    ):
        placed = group_views(names, rule)
        assert len({home.event for home in placed.values()}) == 1, rule
        assert len({home.view for home in placed.values()}) == 2
    placed = group_views(
        ["day/cam0/ep1.mp4", "night/cam0/ep1.mp4"], r"(?P<view>cam\d)/(?P<event>ep1)"
    )
    assert {home.event for home in placed.values()} == {"day/ep1", "night/ep1"}


def test_placements_refuse_what_they_would_drop(tmp_path):
    head = "video_id,event,view"
    with pytest.raises(InputError, match=r"column start_s, end_s, which placements do not have"):
        group_views(["a"], written(tmp_path, "v.csv", f"{head},start_s,end_s\na,e,0,1,2\n"))
    with pytest.raises(InputError, match=r"line 3: 'a' stands in line 2 already"):
        group_views(["a"], written(tmp_path, "w.csv", f"{head}\na,e,0\na,e,1\n"))


def test_labels_come_from_folders_or_expressions():
    assert label_rule("folder")("train/archery/abc.mp4#1.000-2.000") == "archery"
    assert label_rule(r"v_(?P<label>[A-Z][a-z]+)_")("v_Archery_g01.avi") == "Archery"
    with pytest.raises(UsageError, match="either `folder`"):
        label_rule("x")


def test_index_says_what_was_listed_and_how_it_was_grouped(tmp_path, capsys):
    for name in ("cam0/ep1.mp4", "cam1/ep1.mp4", "cam0/ep2.mp4"):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        encode_video(tmp_path / "v" / name, 6)
    out = str(tmp_path / "i.parquet")
    words = ["index", str(tmp_path / "v"), "-o", out, "--workers", "1", "--overwrite"]
    assert main([*words, "--views", r"(?P<view>cam\d)/(?P<event>ep\d)", "--json"]) == 0
    said = capsys.readouterr()
    assert "events: 1 with 1 view, 1 with 2 views" in said.err
    assert "ep1 (views cam0, cam1)" in said.err
    assert "grouped nothing" not in said.err
    assert json.loads(said.out.splitlines()[-1])["views"] == {"1": 1, "2": 1}
    assert main([*words, "--views", r"(?P<event>cam\d/ep\d)(?P<view>\.)"]) == 0
    assert "grouped nothing: every event has one view" in capsys.readouterr().err
    assert main([*words, "--labels-from", "folder"]) == 0
    assert Index.load(out).classes == ["cam0", "cam1"]
    text = "path,start,end,kind\ncam0/ep1.mp4,0,0.1,x\ncam0/ep1.mp4,0.1,9,y\n"
    capsys.readouterr()
    words[1] = written(tmp_path, "l.csv", text)
    assert main([*words, "--root", str(tmp_path / "v")]) == 0
    said = capsys.readouterr().err
    assert f"{words[1]}: list of videos" in said
    assert "cut: cam0/ep1.mp4#0.100-9.000" in said
    assert [v.extra for e in Index.load(out).events() for v in e.videos] == [
        '{"kind": "x"}',
        '{"kind": "y"}',
    ]


def test_a_layout_of_somebody_else_lists_videos(tmp_path):
    home = tmp_path / "set.somelayout"
    home.mkdir()
    encode_video(home / "all.mp4", 25)
    rows = [
        Listed("a", str(home / "all.mp4"), 1, 0.0, 0.2, event="e", label="x"),
        Listed("b", "no", error="broken member"),
    ]
    register_listing(
        "some layout", lambda location: location.endswith(".somelayout"), lambda location: rows
    )
    assert LISTINGS.names()[0] == "some layout"
    found, said = find_rows([str(home)], USUAL)
    assert found == rows
    assert said == [f"{home}: some layout"]
    out = str(tmp_path / "i.parquet")
    assert main(["index", str(home), "-o", out, "--workers", "1"]) == 3
    got = {row["video_id"]: row for row in pq.read_table(out).to_pylist()}
    assert (got["a"]["frames"], got["a"]["event"], got["a"]["label"]) == (5, "e", "x")
    assert (got["b"]["status"], got["b"]["error"]) == ("unreadable", "broken member")


def test_an_index_is_appended_to_and_refreshed(tmp_path, capsys):
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "i.parquet"
    for folder, names in ((first, ("a_0", "a_1", "b_0")), (second, ("c_0",))):
        folder.mkdir()
        for name in names:
            encode_video(folder / f"{name}.mp4", 6)
    views = ["--views", r"(?P<event>[a-z])_(?P<view>\d)", "--workers", "1"]

    def index(*words):
        code = main(["index", *map(str, words), "-o", str(out), *views])
        return code, capsys.readouterr().err

    assert index(first)[0] == 0
    digest = Index.load(str(out)).digest
    code, said = index(first, "--refresh")
    assert (code, Index.load(str(out)).digest) == (0, digest)
    assert "3 rows stay, 0 files are new" in said
    assert index(second, "--append")[0] == 0
    assert [event.event_id for event in Index.load(str(out)).events()] == ["a", "b", "c"]
    code, said = index(first, "--append")
    assert "4 rows stay" in said
    (first / "b_0.mp4").unlink()
    encode_video(first / "a_1.mp4", 9)
    encode_video(first / "d_0.mp4", 6)
    code, said = index(first, second, "--refresh")
    assert "2 rows stay, 1 files are new, 1 probed again (a_1.mp4), 1 gone (b_0.mp4)" in said
    rows = {row["video_id"]: row for row in pq.read_table(out).to_pylist()}
    assert sorted(rows) == ["a_0.mp4", "a_1.mp4", "c_0.mp4", "d_0.mp4"]
    assert (rows["a_1.mp4"]["frames"], rows["a_1.mp4"]["event"]) == (9, "a")
    other = tmp_path / "other"
    other.mkdir()
    encode_video(other / "a_0.mp4", 6)
    code, said = index(other, "--append")
    assert code == 1
    assert "has 'a_0.mp4' already, of another file" in said
    assert main(["index", str(first), "-o", str(tmp_path / "none.parquet"), "--append"]) == 1
    assert "no such file" in capsys.readouterr().err
