"""Storage: whole files or none, the same through a folder and through a pyarrow file system."""

import pickle
import threading

import pytest
from pyarrow import fs

from configs.errors import InputError
from pipeline.storage import Folder, is_remote, sweep


@pytest.fixture(params=["local", "arrow"])
def folder(request, tmp_path, monkeypatch):
    """A folder, and the same behind a URI that only pyarrow knows."""
    if request.param == "local":
        return Folder(str(tmp_path))

    def from_uri(uri):
        return fs.LocalFileSystem(), str(tmp_path / uri.removeprefix("s3://"))

    (tmp_path / "bucket" / "sub").mkdir(parents=True)
    monkeypatch.setattr("pipeline.storage._remote", from_uri)
    return Folder("s3://bucket")


def test_what_is_written_can_be_read_listed_and_removed(folder):
    folder.write("sub/a.bin", b"one")
    folder.write("sub/b.txt", lambda stream: stream.write(b"two"))
    assert folder.exists("sub/a.bin")
    assert not folder.exists("sub/c.bin")
    assert folder.read("sub/b.txt") == b"two"
    assert folder.names("sub") == ["a.bin", "b.txt"]
    assert folder.names("sub", ".bin") == ["a.bin"]
    assert folder.names("nowhere") == []
    folder.append("sub/b.txt", b" three")
    assert folder.read("sub/b.txt") == b"two three"
    folder.remove("sub/a.bin")
    folder.remove("sub/a.bin")
    assert folder.names("sub") == ["b.txt"]
    with pytest.raises(InputError, match=r"cannot read .*a\.bin"):
        folder.read("sub/a.bin")


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("a", b"old")

    def fails(stream):
        stream.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.write("a", fails)
    assert folder.read("a") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_readers_never_see_half_a_file(tmp_path):
    folder = Folder(str(tmp_path))
    contents = {letter.encode() * 200_000 for letter in "ab"}
    folder.write("a", max(contents))
    seen, over = set(), threading.Event()

    def look():
        while not over.is_set():
            seen.add(folder.read("a"))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(50):
        for content in contents:
            folder.write("a", content)
    over.set()
    reader.join()
    assert seen <= contents


def test_what_killed_writers_left_is_not_listed_and_swept(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("part.parquet", b"x")
    (tmp_path / "part2.parquet.tmp-12ab34cd").write_bytes(b"half")
    assert folder.names() == ["part.parquet"]
    sweep(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["part.parquet"]


def test_a_folder_travels_to_other_processes(tmp_path):
    folder = pickle.loads(pickle.dumps(Folder(str(tmp_path))))
    folder.write("a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_uris_are_told_from_paths():
    assert is_remote("s3://bucket/x")
    assert is_remote("gs://bucket/x")
    assert not is_remote("file:///tmp/x")
    assert not is_remote("/tmp/a:b")
