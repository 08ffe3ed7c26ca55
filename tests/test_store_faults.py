"""What passes is waited out or left open; what stays is refused; what is damaged is made again."""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError, StoreError, UnfinishedError
from marey.configs.load import preset_with, run_config
from marey.configs.mining import SamplesMining, mining_settings
from marey.models.method import find_method
from marey.pipeline.cli.main import main
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.discover import find_rows
from marey.pipeline.data.list_files import USUAL
from marey.pipeline.data.shards import Shards
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.mining.mine import mine_corpus
from marey.pipeline.runtime import stores
from marey.pipeline.runtime.faults import fault_of_program
from marey.pipeline.runtime.seal import check_seal
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.checkpoint import load_state
from marey.pipeline.training.launch import prepare, run_training
from tests.faulty_store import FaultyStore
from tests.videos import encode_video

VIDEOS = ("a.mp4", "b.mp4", "c.mp4")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A store with an index of three videos in its bucket `b`; pyarrow's own client asks it."""
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(stores, "PAUSES_S", (0.01,))
    monkeypatch.setattr(stores, "_stores", {})
    (tmp_path / "b").mkdir()
    for name in VIDEOS:
        encode_video(tmp_path / "b" / name, 24, gop=8)
    served = FaultyStore(tmp_path)
    write_index(make_index([served.uri("b")]), served.uri("b/index.parquet"))
    yield served
    served.close()


def settings() -> SamplesMining:
    chosen = mining_settings("frames", ["data.decode_size=32", "sampling.per_video=2"])
    assert isinstance(chosen, SamplesMining)
    return chosen


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.parquet")}


def test_errors_that_pass_are_told_from_those_that_stay() -> None:
    passing = ("AWS Error UNKNOWN (HTTP status 503)", "AWS Error NETWORK_CONNECTION", "timed out")
    staying = ("AWS Error ACCESS_DENIED", "AWS Error NO_SUCH_BUCKET", "(HTTP status 403)")
    assert all(stores.passes(OSError(text)) for text in passing)
    assert not any(stores.passes(OSError(text)) for text in staying)
    assert not stores.passes(FileNotFoundError("x"))
    assert not stores.passes(OSError(28, "No space left on device"))


def test_results_ride_out_requests_that_fail(store: FaultyStore) -> None:
    """Index, parts, manifest and videos: every fourth request of each is refused or cut off."""
    undisturbed = store.folder / "b" / "whole"
    mine_corpus(store.uri("b/index.parquet"), str(undisturbed), settings(), engine="local")
    count = 0

    def fails(method: str, key: str) -> str:
        nonlocal count
        count += 1
        return ("", "", "503", "")[count % 4] if count % 8 else "cut"

    store.fails = fails
    out = store.uri("b/out")
    manifest = mine_corpus(store.uri("b/index.parquet"), out, settings(), engine="local")
    assert manifest["rows"] == 6
    assert digests(store.folder / "b" / "out") == digests(undisturbed)
    store.fails = lambda method, key: ""
    assert len(Shards(out)) == 6


def test_a_store_that_is_gone_ends_a_command_as_unfinished(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MAREY_STORE_PATIENCE_S", "0.1")
    out = tmp_path / "shards"
    words = ["mine", store.uri("b/index.parquet"), "-o", str(out), "--kind", "frames"]
    words += ["--engine", "local", "data.decode_size=32", "sampling.per_video=2"]
    store.fails = lambda method, key: "503" if key.endswith("b.mp4") else ""
    assert main(words) == 4
    assert "503" in capsys.readouterr().err
    assert not (out / "manifest.json").exists()
    store.fails = lambda method, key: "503"
    monkeypatch.setattr(stores, "_stores", {})
    assert main(words) == 4
    assert "not a Parquet file" not in capsys.readouterr().err
    store.fails = lambda method, key: ""
    monkeypatch.setattr(stores, "_stores", {})
    assert main(words) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["reasons"] == {"sample: accepted": 6}


def test_one_file_that_is_not_given_leaves_its_part_open(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store answers all else, so what else there is gets done."""
    monkeypatch.setattr(stores, "OBJECT_PATIENCE_S", 0.0)
    store.fails = lambda method, key: "423" if key.endswith("b.mp4") else ""
    index, out = store.uri("b/index.parquet"), str(tmp_path / "e")
    with pytest.raises(UnfinishedError, match=r"1 of 1 parts .*b\.mp4.*same command"):
        embed("pixels", index, out, rate=5, engine="local")
    monkeypatch.setattr("marey.pipeline.stream.plan.UNIT_FRAMES", 24)
    with pytest.raises(UnfinishedError, match=r"1 of 3 parts"):
        mine_corpus(index, str(tmp_path / "m"), settings(), engine="local")
    assert len(list((tmp_path / "m" / "parts").iterdir())) == 2
    store.fails = lambda method, key: ""
    assert embed("pixels", index, out, rate=5, engine="local").refused == {}
    assert mine_corpus(index, str(tmp_path / "m"), settings(), engine="local")["rows"] == 6


@pytest.mark.parametrize("name", ["", "set.tar"], ids=["a folder", "a tar"])
def test_sources_are_listed_in_spite_of_requests_that_fail(store: FaultyStore, name: str) -> None:
    """Folders of videos and layouts alike; and what is listed is what lies there."""
    if name:
        with tarfile.open(store.folder / "b" / name, "w") as tar:
            for video in VIDEOS:
                tar.add(store.folder / "b" / video, arcname=video)
    undisturbed, _ = find_rows([store.uri(f"b/{name}")], USUAL)
    count = 0

    def fails(method: str, key: str) -> str:
        nonlocal count
        count += 1
        return "503" if count % 2 else ""

    store.fails = fails
    rows, _ = find_rows([store.uri(f"b/{name}")], USUAL)
    assert count > 2
    assert rows == undisturbed
    assert [Path(row.video_id).name for row in rows] == [*VIDEOS]


def test_an_unfinished_index_is_not_written(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "OBJECT_PATIENCE_S", 0.0)
    store.fails = lambda method, key: "423" if key.endswith("b.mp4") else ""
    with pytest.raises(UnfinishedError, match=r"1 files could not be read .*b\.mp4"):
        make_index([store.uri("b")])
    store.fails = lambda method, key: ""
    assert make_index([store.uri("b")])["status"].to_pylist() == ["ok"] * 3


def test_training_asks_again_for_samples_that_could_not_be_read(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sample is trained on once, those of a file that comes late at the end."""
    monkeypatch.setattr(stores, "OBJECT_PATIENCE_S", 0.0)
    small = ["encoder.backbone=resnet18", "encoder.image_size=32", "trainer.epochs=1"]
    small += ["trainer.batch_size=2", "method.sampling.per_video=4", "data.decode_actors=1"]
    tree = preset_with("simclr", [*small, "trainer.checkpoint_every=100"])
    config = run_config(tree, find_method("simclr").Config)
    index = store.uri("b/index.parquet")
    store.fails = lambda method, key: "423" if key.endswith("b.mp4") else ""
    prepared = prepare(config, index, str(tmp_path / "run"))
    with pytest.raises(UnfinishedError, match=r"4 samples that are left .*--resume"):
        run_training(prepared, engine="local")
    state = load_state(Folder(tmp_path / "run"))
    assert state is not None
    assert state["refused"] == {}
    store.fails = lambda method, key: ""
    prepared = prepare(config, index, str(tmp_path / "run"), resume=True)
    summary = run_training(prepared, engine="local")
    assert (summary["samples"], summary["refused"]) == (12, {})


def test_a_pause_is_told_once(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stores, "QUIET_S", 0.0)
    count = 0

    def fails(method: str, key: str) -> str:
        nonlocal count
        count += 1
        return "423" if count < 3 else ""

    store.fails = fails
    with caplog.at_level(logging.WARNING, "marey"):
        Folder(store.uri("b")).read("index.parquet")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "does not answer" in said[0]
    assert "answers again" in said[1]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    for name in VIDEOS:
        encode_video(folder / name, 24, gop=8)
    write_index(make_index([str(folder)]), str(folder / "index.parquet"))
    return str(folder / "index.parquet")


def test_a_seal_tells_every_flipped_bit_and_every_cut(corpus: str, tmp_path: Path) -> None:
    mine_corpus(corpus, str(tmp_path / "m"), settings(), engine="local")
    (path, *_) = (tmp_path / "m" / "parts").iterdir()
    content = path.read_bytes()
    check_seal(content, "part")
    table = pq.read_table(pa.BufferReader(content))
    assert len(table) == 6
    rng = np.random.default_rng(0)
    seal = content.index(b"marey.blake2b:")
    for place in [4, len(content) - 9, len(content) - 5, *rng.integers(0, len(content), 60)]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        if seal <= place < seal + 14:
            continue  # the tag itself: the rows are right
        with pytest.raises(InputError, match="damaged"):
            check_seal(bytes(changed), "part")
    for size in (0, 3, 100, len(content) - 1):
        with pytest.raises(InputError, match="damaged"):
            check_seal(content[:size], "part")


def test_damaged_parts_are_named_and_made_again(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of unfinished work and of finished: the same command, and nothing else, mends it."""
    monkeypatch.setattr("marey.pipeline.stream.plan.UNIT_FRAMES", 24)
    out = tmp_path / "m"
    mine_corpus(corpus, str(out), settings(), engine="local")
    whole = digests(out)
    assert len(whole) == 3
    parts = sorted((out / "parts").iterdir())
    flip(parts[1], 300)
    with pytest.raises(InputError, match=r"part-000001.*damaged.*makes it again"):
        Shards(str(out)).part(1)
    parts[2].write_bytes(parts[2].read_bytes()[:-20])
    mine_corpus(corpus, str(out), settings(), engine="local")
    assert digests(out) == whole
    assert [n for n in ("000001", "000002") if n in caplog.text] == ["000001", "000002"]
    (out / "unfinished.json").write_text(
        json.dumps({k: v for k, v in json.loads((out / "manifest.json").read_text()).items()
                    if k in ("kind", "data", "data_digest", "settings")})
    )  # fmt: skip
    (out / "manifest.json").unlink()
    flip(parts[0], 200)
    mine_corpus(corpus, str(out), settings(), engine="local")
    assert digests(out) == whole


def test_damaged_embeddings_are_named_and_made_again(corpus: str, tmp_path: Path) -> None:
    out = str(tmp_path / "e")
    embed("pixels", corpus, out, rate=5, engine="local")
    whole = digests(tmp_path / "e")
    (part,) = (tmp_path / "e" / "parts").iterdir()
    flip(part, 500)
    with pytest.raises(InputError, match=r"part-000000\.parquet is damaged"):
        load_embeddings(out)
    embed("pixels", corpus, out, rate=5, engine="local")
    assert digests(tmp_path / "e") == whole
    assert len(load_embeddings(out)) == 12


def test_a_fault_of_the_program_is_told_from_a_lost_process() -> None:
    def shape() -> None:
        np.add(np.ones(3), np.ones(4))

    with pytest.raises(ValueError, match="broadcast") as caught:
        shape()
    told = fault_of_program(caught.value)
    assert told is not None
    assert "ValueError: operands could not be broadcast" in str(told)
    assert "in shape" in str(told)
    assert str(fault_of_program(KeyError("anchor"))).startswith("KeyError: 'anchor'")
    assert fault_of_program(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is not None
    for passing in (
        OSError("disk"), MemoryError(), RuntimeError("gloo: Connection closed by peer"),
        RuntimeError("NCCL error: unhandled system error"), TimeoutError(),
    ):  # fmt: skip
        assert fault_of_program(passing) is None


def test_a_store_error_has_a_code_of_its_own() -> None:
    assert StoreError("x").exit_code == UnfinishedError("x").exit_code == 4
