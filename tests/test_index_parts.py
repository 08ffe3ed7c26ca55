"""An index in parts: a folder that reads as one file, whatever the sizes of its parts."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from marey.configs.errors import InputError, UsageError
from marey.configs.sampling import FramesSampling
from marey.pipeline.cli.main import main
from marey.pipeline.data import index_writer
from marey.pipeline.data.build_index import make_index, probe_corpus, write_index
from marey.pipeline.data.corpus import Corpus
from marey.pipeline.data.index import Index
from marey.pipeline.data.index_files import IndexFiles, read_table
from marey.pipeline.data.index_manifest import MANIFEST, is_index_folder
from marey.pipeline.data.source import Reopened, open_source
from marey.pipeline.stream import index_stage
from marey.pipeline.stream.plan import Position, make_plan
from marey.pipeline.stream.supply import UnitSupply
from tests.test_index import made_up
from tests.videos import encode_video


def shuffled_rows(count: int) -> pa.Table:
    order = np.random.default_rng(0).permutation(count)
    return made_up(
        count, event=[f"e{n // 2:04d}" for n in order], view=[f"{n % 2}" for n in order],
        video_id=[f"v{n}" for n in order], frames=[1 + int(n) % 7 for n in order],
    )  # fmt: skip


@pytest.fixture(params=[1, 7, 1000], ids=lambda rows: f"parts_of_{rows}")
def both(request, tmp_path, monkeypatch):
    """One index as a file and as a folder."""
    monkeypatch.setattr(index_writer, "ROWS", request.param)
    table = shuffled_rows(60)
    write_index([table.slice(0, 11), table.slice(11)], str(tmp_path / "i.parquet"))
    write_index([table.slice(0, 11), table.slice(11)], f"{tmp_path}/parts/")
    return str(tmp_path / "i.parquet"), f"{tmp_path}/parts"


@pytest.mark.parametrize("held", [0, 2**30], ids=["in_a_file", "in_memory"])
def test_a_folder_is_the_same_corpus_as_a_file(both, held, monkeypatch):
    monkeypatch.setattr("marey.pipeline.data.index.HELD_BYTES", held)
    one, other = map(open_source, both)
    assert isinstance(one, Index)
    assert isinstance(other, Index)
    assert (one.digest, one.labels(), len(one)) == (other.digest, other.labels(), len(other))
    assert read_table(both[0]).equals(read_table(both[1]))
    assert one.column("frames").tolist() == other.column("frames").tolist()
    plans = [make_plan(source, FramesSampling(), seed=0, epochs=2) for source in (one, other)]
    works = [
        [UnitSupply(plan, Reopened(source), Position())(unit) for unit in plan.units()]
        for plan, source in zip(plans, (one, other), strict=True)
    ]
    names = [
        [
            (v.event.event_id, [x.video_id for x in v.event.videos], v.first)
            for w in some
            for v in w.visits
        ]
        for some in works
    ]
    assert names[0] == names[1]


def test_the_manifest_says_what_the_parts_hold(both):
    said = json.loads(Path(both[1], MANIFEST).read_text())
    table = read_table(both[0])
    assert (said["rows"], said["events"]) == (60, 30)
    assert said["frames"] == sum(table["frames"].to_pylist())
    assert sum(part["rows"] for part in said["parts"]) == IndexFiles(both[1]).num_rows == 60
    assert sorted(part["name"] for part in said["parts"]) == [
        part["name"] for part in said["parts"]
    ]


def test_parts_that_did_not_change_stay_and_those_that_went_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(index_writer, "ROWS", 10)
    table, place = shuffled_rows(40), tmp_path / "parts"
    write_index(table, f"{place}/")
    before = {path.name: path.stat().st_mtime_ns for path in place.glob("*.parquet")}
    write_index(pa.concat_tables([table.slice(0, 25), table.slice(30)]), f"{place}/")
    after = {path.name: path.stat().st_mtime_ns for path in place.glob("*.parquet")}
    same = {name for name in after if before.get(name) == after[name]}
    assert (len(before), len(after), len(same)) == (4, 4, 2)
    assert len(read_table(str(place))) == 35


def test_a_part_that_is_cut_or_gone_is_named_with_what_makes_it_again(both):
    name = json.loads(Path(both[1], MANIFEST).read_text())["parts"][0]["name"]
    path = Path(both[1], name)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=rf"{name} is damaged: .* `marey index` makes it again"):
        Index.load(both[1])
    path.unlink()
    with pytest.raises(InputError, match=rf"no such file: .*{name}; .* makes it again"):
        Index.load(both[1])


@pytest.mark.parametrize(
    "manifest",
    ["{", '{"format": 1}', '{"format": 1, "parts": [{"name": "a"}]}',
     '{"format": 1, "parts": [{"name": "../x.parquet", "rows": 1, "frames": 1, "seconds": 1, '
     '"bytes": 1, "digest": ""}]}', '{"format": 99, "parts": []}'],
)  # fmt: skip
def test_a_manifest_of_a_stranger_is_refused(manifest, tmp_path):
    (tmp_path / MANIFEST).write_text(manifest)
    assert is_index_folder(str(tmp_path))
    with pytest.raises(InputError, match=r"damaged|later version|no part of it"):
        open_source(str(tmp_path))


def test_an_empty_index_can_be_read(tmp_path):
    write_index(shuffled_rows(4).slice(0, 0), f"{tmp_path}/none/")
    assert len(Index.load(f"{tmp_path}/none/")) == 0


def test_the_command_writes_appends_and_refreshes_a_folder(tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a", "b"):
        encode_video(videos / f"{name}.mp4", 6, size=(32, 32))
    out = f"{tmp_path}/parts/"
    assert main(["index", str(videos), "-o", out, "--workers", "1"]) == 0
    encode_video(videos / "c.mp4", 6, size=(32, 32))
    assert main(["index", str(videos), "-o", out, "--append", "--workers", "1"]) == 0
    assert "2 rows stay, 1 files are new" in capsys.readouterr().err
    assert Index.load(out).digest == Index(make_index([str(videos)]), "").digest
    (videos / "a.mp4").unlink()
    assert main(["index", str(videos), "-o", out, "--refresh", "--workers", "1"]) == 0
    assert [event.event_id for event in Index.load(out).events()] == ["b.mp4", "c.mp4"]
    assert not list(tmp_path.glob("*.unfinished"))
    assert main(["index", str(videos), "-o", f"{tmp_path}/nothing", "--workers", "1"]) == 2
    assert "nothing.parquet or -o" in capsys.readouterr().err
    with pytest.raises(UsageError, match="a folder of parts"):
        write_index(shuffled_rows(2), str(tmp_path / "x.csv"))


def test_actors_make_the_parts_of_an_index_and_go_on_where_they_were(tmp_path, monkeypatch):
    """The stage of the cluster, in threads: the rows of one process, part by part, each once."""
    monkeypatch.setattr("marey.pipeline.data.corpus.PART_ROWS", 2)
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in "abcde":
        encode_video(videos / f"{name}.mp4", 6, size=(32, 32))
    (videos / "broken.mp4").write_bytes(b"no video")
    made: list[int] = []
    store = index_stage.store_part

    def failing(folder, number, table):
        if number == 1 and -1 not in made:
            made.append(-1)
            raise KeyboardInterrupt
        made.append(number)
        store(folder, number, table)

    monkeypatch.setattr(index_stage, "store_part", failing)
    out = str(tmp_path / "i.parquet")
    here = partial(index_stage.index_parts, engine="local")
    monkeypatch.setattr("marey.pipeline.runtime.cores.default_workers", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        probe_corpus([str(videos)], out, elsewhere=here)
    before = set(made)
    seen: list[tuple[int, int]] = []
    parts = probe_corpus(
        [str(videos)],
        out,
        elsewhere=here,
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert sorted(made) == [-1, 0, 1, 2]
    assert before - {-1} <= {0, 2}
    assert seen[-1] == (6, 6)
    assert parts.table().equals(make_index([str(videos)]))


def test_a_part_of_a_corpus_alone_gives_the_rows_that_it_has_in_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("marey.pipeline.data.corpus.PART_ROWS", 3)
    for name in "abcdefg":
        (tmp_path / f"{name}.mp4").write_bytes(b"no video")
    corpus = Corpus.find([str(tmp_path)], None, "packets")
    alone = [corpus.alone(number) for number in range(corpus.parts)]
    assert [len(one.rows) for one in alone] == [3, 3, 1]
    assert all(one.parts == 1 for one in alone)
    assert [row for one in alone for row in one.rows] == corpus.rows
    assert [set(one.placed) for one in alone] == [{r.video_id for r in one.rows} for one in alone]
