"""Images in Parquet tables: every row is found, in little memory, however the file is cut."""

import os
import pickle
import struct
import zlib
from collections import Counter

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError
from marey.configs.load import read_preset, run_config
from marey.configs.sampling import FramesSampling
from marey.configs.schema import DataConfig
from marey.models.method import methods
from marey.pipeline.data import row_groups
from marey.pipeline.data.images import ImageFolder, ImageTable
from marey.pipeline.data.row_groups import RowGroups
from marey.pipeline.data.source import open_source
from marey.pipeline.stream.plan import make_plan
from marey.pipeline.training.held_out import build_probe
from tests.corpora import decoder

MIB = 2**20


def write(path, images, group, **columns):
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=group)
    return str(path)


def numbered(count):
    return [f"image {n}".encode() * (1 + n % 7) for n in range(count)]


@pytest.mark.parametrize("group", [1, 7, 100, 1000])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), "struct"])
def test_every_row_is_found_however_the_table_is_cut(tmp_path, monkeypatch, group, kind):
    monkeypatch.setattr(row_groups, "KEEP_BYTES", 100)
    monkeypatch.setattr(row_groups, "BATCH_BYTES", 300)  # a group is several arrays
    wanted = numbered(300)
    images = (
        pa.StructArray.from_arrays([pa.array([None] * 300, pa.string()), wanted], ["path", "bytes"])
        if kind == "struct"
        else pa.array(wanted, kind)
    )
    names = [f"n{n}" for n in range(300)]
    labels = [n % 3 for n in range(300)]
    table = ImageTable(write(tmp_path / "t.parquet", images, group, name=names, label=labels))
    order = np.random.default_rng(0).permutation(300).tolist()
    assert [table.encoded(n) for n in order] == [wanted[n] for n in order]
    assert list(table.names) == names
    assert table.event(5).event_id == "n5"
    assert table.labels() == labels
    again = pickle.loads(pickle.dumps(table))
    assert again.encoded(299) == wanted[299]
    assert again.digest == table.digest
    for absent in (-1, 300):
        with pytest.raises(IndexError):
            table.encoded(absent)


def test_few_row_groups_are_in_memory_and_none_before_an_image_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "KEEP_BYTES", 8 * MIB)
    path = tmp_path / "t.parquet"
    with pq.ParquetWriter(path, pa.schema([("image", pa.binary())]), compression="zstd") as writer:
        for value in range(48):
            writer.write_table(pa.table({"image": [bytes([value]) * MIB] * 4}))
    before = pa.total_allocated_bytes()
    table = ImageTable(str(path))
    assert pa.total_allocated_bytes() - before < MIB
    most = 0
    for n in range(len(table)):
        assert table.encoded(n)[0] == n // 4
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 32 * MIB  # of 192; a group is 4, while it is read twice that


def test_neighbours_in_the_shuffled_order_read_a_group_once(tmp_path, monkeypatch):
    picture = cv2.imencode(".png", np.eye(8, dtype=np.uint8) * 200)[1].tobytes()
    path = write(tmp_path / "t.parquet", [picture] * 3000, 1000)
    reads: Counter[int] = Counter()
    read = RowGroups._read

    def counted(self, number):
        reads[number] += 1
        return read(self, number)

    monkeypatch.setattr(RowGroups, "_read", counted)
    monkeypatch.setattr(row_groups, "KEEP_BYTES", 0)
    source = open_source(path)
    plan = make_plan(source, FramesSampling(), seed=0, epochs=1)
    stage = decoder(plan, source, DataConfig(decode_size=32))
    rows = [rows for unit in plan.units() for rows in stage(unit)]
    assert sum(len(r["sample"]) for r in rows) == 3000
    assert not any(r["refused"].any() for r in rows)
    assert max(reads.values()) <= 2


def test_a_row_without_an_image_is_refused_and_the_others_are_read(tmp_path):
    picture = cv2.imencode(".png", np.eye(8, dtype=np.uint8) * 200)[1].tobytes()
    path = write(tmp_path / "t.parquet", pa.array([picture, None, picture], pa.binary()), 2)
    source = open_source(path)
    plan = make_plan(source, FramesSampling(), seed=0, epochs=1)
    stage = decoder(plan, source, DataConfig(decode_size=32))
    (rows,) = [rows for unit in plan.units() for rows in stage(unit)]
    refused = dict(zip(rows["instance"].tolist(), rows["refused"].tolist(), strict=True))
    assert refused == {0: "", 1: "000000001: the row holds no image", 2: ""}


def test_a_column_that_is_no_image_is_named(tmp_path):
    path = write(tmp_path / "t.parquet", ["text"], 1)
    with pytest.raises(InputError, match=r"column `image` must hold encoded images.*not string"):
        ImageTable(path)


@pytest.mark.slow
def test_one_row_group_may_exceed_two_gib(tmp_path):
    path = tmp_path / "t.parquet"
    halves = [pa.array([bytes([n]) * (300 * MIB) for n in range(k, k + 4)]) for k in (0, 4)]
    pq.write_table(pa.table({"image": pa.chunked_array(halves)}), path, compression="zstd")
    del halves
    assert pq.ParquetFile(path).num_row_groups == 1
    table = ImageTable(str(path))
    assert [table.encoded(n)[0] for n in range(8)] == list(range(8))


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header, checksum and all, names another size than its picture has."""
    content = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", claiming(200_000, 200_000)],
    ids=["empty", "no_picture", "huge"],
)
def test_files_that_are_no_image_are_refused_and_the_others_are_read(content, tmp_path):
    good = cv2.imencode(".png", np.eye(8, dtype=np.uint8) * 200)[1].tobytes()
    (tmp_path / "a.png").write_bytes(good)
    (tmp_path / "b.png").write_bytes(content)
    source = open_source(str(tmp_path))
    plan = make_plan(source, FramesSampling(), seed=0, epochs=1)
    stage = decoder(plan, source, DataConfig(decode_size=32))
    refused = [why for unit in plan.units() for rows in stage(unit) for why in rows["refused"]]
    assert sum(why == "" for why in refused) == 1
    assert sum("b.png: " in why for why in refused) == 1


def test_a_file_whose_name_is_no_utf_8_is_an_image_with_an_escaped_name(tmp_path):
    good = cv2.imencode(".png", np.eye(8, dtype=np.uint8) * 200)[1].tobytes()
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(good)
    source = ImageFolder(str(tmp_path))
    assert list(source.names) == ["caf\\xe9.png"]
    assert source.encoded(0) == good
    assert len(source.digest) == 16


def test_an_image_that_a_probe_cannot_read_is_named(tmp_path):
    good = cv2.imencode(".png", np.eye(8, dtype=np.uint8) * 200)[1].tobytes()
    path = write(tmp_path / "t.parquet", [good, b"none", good], 3, label=[0, 1, 0])
    with pytest.raises(InputError, match="000000001: not an image"):
        build_probe(path, run_config(read_preset("simclr"), methods()["simclr"].Config))
