"""Other programs read a folder of embeddings as one table, and each row says what it is of."""

import io
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError, UsageError
from marey.pipeline.data.index import Index
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.embedding.folder_meta import META, read_meta
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.video import read
from tests.corpora import encode_corpus

EVENTS, VIEWS, FRAMES, FPS = 2, 2, 24, 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return encode_corpus(tmp_path_factory.mktemp("corpus"), events=EVENTS, num_frames=FRAMES)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedded") / "embeddings"
    embed("pixels", str(corpus), str(out), rate=0, engine="local")
    return out


def _pandas(folder):
    return pytest.importorskip("pandas").read_parquet(folder)["time_s"].tolist()


def _polars(folder):
    return pytest.importorskip("polars").read_parquet(folder)["time_s"].to_list()


def _duckdb(folder):
    rows = pytest.importorskip("duckdb").sql(f"select time_s from read_parquet('{folder}/**')")
    return [row[0] for row in rows.fetchall()]


def _dataset(folder):
    return ds.dataset(folder).to_table()["time_s"].to_pylist()


@pytest.mark.parametrize("reader", [_pandas, _polars, _duckdb, _dataset])
def test_the_whole_folder_reads_as_one_table(folder, reader):
    times = sorted(reader(folder))
    assert len(times) == EVENTS * VIEWS * FRAMES
    assert times == sorted(load_embeddings(folder).time_s.tolist())


def test_a_row_says_where_its_frame_is_first_shown(folder, corpus):
    rows = load_embeddings(folder)
    uris = {row["video_id"]: row["uri"] for row in Index.load(str(corpus)).table.to_pylist()}
    assert rows.uri is not None
    assert [uris[name] for name in rows.video_id] == rows.uri.tolist()
    np.testing.assert_allclose(rows.time_s, rows.frame / FPS, atol=1e-9)
    row = 17
    frame = read(rows.uri[row], [float(rows.time_s[row]) + 1e-6], 32)[0]
    grey = cv2.resize(frame, (32, 32)).astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.corrcoef(grey.ravel(), rows.features[row])[0, 1] > 0.99


def _pictures(folder: Path, count: int) -> list[bytes]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return [(folder / f"{number}.png").read_bytes() for number in range(count)]


def test_rows_of_images_name_the_file_or_the_row_of_the_table(tmp_path):
    encoded = _pictures(tmp_path / "pictures", 3)
    embed("pixels", str(tmp_path / "pictures"), str(tmp_path / "a"), engine="local")
    uris = load_embeddings(tmp_path / "a").uri
    assert uris.tolist() == [str(tmp_path / "pictures" / f"{n}.png") for n in range(3)]
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": encoded}), table)
    embed("pixels", str(table), str(tmp_path / "b"), engine="local")
    assert load_embeddings(tmp_path / "b").uri.tolist() == [f"{table}#{n}" for n in range(3)]


def test_parts_without_a_label_have_the_columns_of_the_others(tmp_path):
    """1,024 frames a part: the first has no label at all, the second has some."""
    encoded = _pictures(tmp_path / "pictures", 1)[0]
    label = pa.array([None] * 1024 + [7, None], pa.int64())
    pq.write_table(pa.table({"image": [encoded] * 1026, "label": label}), tmp_path / "t.parquet")
    embed("pixels", str(tmp_path / "t.parquet"), str(tmp_path / "e"), engine="local")
    parts = sorted((tmp_path / "e" / "parts").iterdir())
    assert len(parts) == 2
    files = [*parts, tmp_path / "e" / META]
    assert len({str(pq.read_schema(path).remove_metadata()) for path in files}) == 1
    labels = ds.dataset(tmp_path / "e").to_table()["label"].to_pylist()
    assert labels.count(7) == 1
    assert labels.count(None) == 1025


def test_progress_counts_frames_up_to_all_of_them(corpus, tmp_path):
    told = []
    embed("pixels", str(corpus), str(tmp_path / "e"), rate=0, engine="local",
          progress=lambda *counts: told.append(counts))  # fmt: skip
    assert told[0] == (0, EVENTS * VIEWS * FRAMES)
    assert told[-1] == (EVENTS * VIEWS * FRAMES, EVENTS * VIEWS * FRAMES)


def test_finished_folders_of_any_version_are_left_alone(folder, corpus, tmp_path):
    again = embed("pixels", str(corpus), str(folder), rate=0, engine="local")
    assert (again.made, again.frames) == (False, EVENTS * VIEWS * FRAMES)
    with pytest.raises(UsageError, match="finished embeddings already"):
        embed("pixels", str(corpus), str(folder), rate=1, engine="local")
    old = shutil.copytree(folder, tmp_path / "old")
    (old / META).unlink()
    (old / "meta.json").write_text(json.dumps({"encoder": "pixels", "format": 1}))
    assert load_embeddings(old).meta["encoder"] == "pixels"
    with pytest.raises(UsageError, match="finished embeddings already"):
        embed("pixels", str(corpus), str(old), rate=0, engine="local")


@pytest.mark.parametrize("content", [b"", b"{}", "rowless"])
def test_damaged_metadata_are_refused_in_a_sentence(tmp_path, content):
    if content == "rowless":
        buffer = io.BytesIO()
        pq.write_table(pa.table({"a": [1]}), buffer)
        content = buffer.getvalue()
    (tmp_path / META).write_bytes(content)
    with pytest.raises(InputError, match=r"_meta\.parquet is damaged .*: embed again"):
        read_meta(Folder(str(tmp_path)))
