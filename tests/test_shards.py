"""Parts are written once and whole; an unfinished folder is finished, a foreign one left alone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from marey.configs.errors import InputError
from marey.configs.mining import ImageConfig
from marey.pipeline.data.shards import (
    MANIFEST,
    UNFINISHED,
    Shards,
    decode_images,
    encode_image,
    finish,
    part_counts,
    part_name,
    parts_left,
    sample_table,
    write_part,
)
from marey.pipeline.runtime.storage import Folder
from tests.tracked_scenes import texture

KEY = {"kind": "tracks", "data_digest": "abc", "settings": {"a": 1}}


def table(first: int, rows: int) -> pa.Table:
    return pa.table({"sample": pa.array(range(first, first + rows), pa.int64())})


def test_rows_come_back_in_order_by_iteration_and_by_place(tmp_path):
    folder = Folder(tmp_path / "s")
    for number, (first, rows) in enumerate([(0, 3), (3, 0), (3, 5)]):
        write_part(folder, number, table(first, rows), {"track: fb": number})
    manifest = finish(folder, KEY, 3)
    shards = Shards(str(tmp_path / "s"))
    assert len(shards) == manifest["rows"] == 8
    assert [row["sample"] for row in shards.rows()] == list(range(8))
    assert [shards.row(n)["sample"] for n in (7, 0, 3, 2)] == [7, 0, 3, 2]
    assert shards.table(["sample"]).column("sample").to_pylist() == list(range(8))
    assert manifest["reasons"] == {"track: fb": 3}
    with pytest.raises(IndexError):
        shards.row(8)


def test_equal_parts_are_equal_bytes(tmp_path):
    one, other = Folder(tmp_path / "a"), Folder(tmp_path / "b")
    write_part(one, 0, table(0, 4), {"x": 1, "a": 2})
    write_part(other, 0, table(0, 4), {"a": 2, "x": 1})
    assert one.read(part_name(0)) == other.read(part_name(0))
    (counts,) = part_counts(one, [0])
    assert (counts.rows, counts.reasons) == (4, {"a": 2, "x": 1})


def bytes_read() -> int:
    """Bytes that this process has read from files so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar:")))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's /proc")
def test_finishing_and_reading_a_column_leave_the_pictures_unread(tmp_path):
    folder = Folder(tmp_path / "s")
    random = np.random.default_rng(0)
    for number in range(6):
        images = pa.array([[random.bytes(2**20)] for _ in range(4)], pa.list_(pa.binary()))
        write_part(folder, number, table(4 * number, 4).append_column("images", images), {"a": 1})
    before = bytes_read()
    assert finish(folder, KEY, 6)["rows"] == 24
    shards = Shards(str(tmp_path / "s"))
    assert shards.table(["sample"]).column("sample").to_pylist() == list(range(24))
    assert bytes_read() - before < 2**20  # of 24


def test_missing_parts_are_found_by_one_listing(tmp_path, monkeypatch):
    folder = Folder(tmp_path / "s")
    for number in (0, 2, 3):
        write_part(folder, number, table(0, 1), {})
    monkeypatch.setattr(Folder, "exists", None)
    assert parts_left(folder, 6) == [1, 4, 5]


def test_unfinished_shards_are_not_read(tmp_path):
    folder = Folder(tmp_path / "s")
    with pytest.raises(InputError, match="no shards"):
        Shards(folder.location)
    folder.write(UNFINISHED, b"{}")
    with pytest.raises(InputError, match="unfinished"):
        Shards(folder.location)


def test_a_missing_part_stops_the_manifest(tmp_path):
    folder = Folder(tmp_path / "s")
    write_part(folder, 0, table(0, 1), {})
    with pytest.raises(InputError, match="part-000001"):
        finish(folder, KEY, 2)
    assert not folder.exists(MANIFEST)


def test_pictures_keep_their_colours(tmp_path):
    image = texture(40, 56, 1)
    png = decode_images([encode_image(image, ImageConfig(format="png"))])
    np.testing.assert_array_equal(png[0], image)
    jpeg = decode_images([encode_image(image, ImageConfig())])
    assert np.abs(jpeg[0].astype(int) - image).mean() < 6
    with pytest.raises(InputError, match="damaged"):
        decode_images([b"nothing"])


def test_samples_become_rows_and_refused_ones_do_not():
    frames = np.stack([[texture(16, 16, n), texture(16, 16, n + 9)] for n in range(3)])
    rows = {
        "sample": np.array([5, 6, 7]),
        "instance": np.array([0, 1, 1]),
        "frames": frames,
        "refused": np.array(["", "past_end", ""]),
        "time_s": np.arange(6, dtype=np.float32).reshape(3, 2),
        "label": np.array([1, 0, 2]),
    }
    made = sample_table(rows, ImageConfig(format="png"))
    got = made.to_pylist()
    assert [row["sample"] for row in got] == [5, 7]
    np.testing.assert_array_equal(decode_images(got[1]["images"]), frames[2])
    assert got[1]["time_s"] == [4.0, 5.0]
    shapes = json.loads(made.schema.metadata[b"shapes"])
    assert shapes == {"label": [], "time_s": [2]}
