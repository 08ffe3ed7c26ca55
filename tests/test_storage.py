"""Storage: whole files or none, the same through a folder and through a pyarrow file system."""

import pickle
import resource
import threading
from contextlib import contextmanager

import pytest
from pyarrow import fs

from marey.configs.errors import InputError
from marey.pipeline.runtime.storage import Folder, is_remote, join, split


@pytest.fixture(params=["local", "arrow", "store"])
def folder(request, tmp_path, monkeypatch):
    """A folder, the same behind a URI that only pyarrow knows, and one that has no renames."""
    if request.param == "local":
        return Folder(str(tmp_path))
    arrow = fs.LocalFileSystem()

    def from_uri(uri):
        return arrow, str(tmp_path / uri.removeprefix("s3://"))

    (tmp_path / "bucket" / "sub").mkdir(parents=True)
    monkeypatch.setattr("marey.pipeline.runtime.storage._remote", from_uri)
    if request.param == "store":
        monkeypatch.setattr("marey.pipeline.runtime.storage.OBJECT_STORES", (arrow.type_name,))
    return Folder("s3://bucket")


@contextmanager
def full_after(size):
    """As on a full disk: no file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_can_be_read_listed_and_removed(folder):
    folder.write("sub/a.bin", b"one")
    folder.write("sub/b.txt", b"two")
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


def test_what_macos_leaves_beside_files_is_none_of_them(folder):
    folder.write("sub/a.parquet", b"one")
    folder.write("sub/._a.parquet", b"\0\5\x16\7")
    assert folder.names("sub", ".parquet") == ["a.parquet"]


@pytest.mark.parametrize("folder", ["local", "arrow"], indirect=True)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(folder, tmp_path):
    folder.write("a", b"old")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for name in ("a", "b"):
        with full_after(10), pytest.raises(OSError, match=f"File too large.*/{name}'"):
            folder.write(name, b"longer than ten bytes")
    assert folder.read("a") == b"old"
    assert folder.names() == ["a"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == files


def test_a_file_system_of_pyarrow_gets_folders_and_whole_files(monkeypatch):
    made, base = fs.FileSystem.from_uri("mock:///bucket/run")
    monkeypatch.setattr("marey.pipeline.runtime.storage._remote", lambda uri: (made, base))
    folder = Folder("mock:///bucket/run")
    for content in (b"one", b"two"):
        folder.write("deep/er/a", content)
        assert folder.read("deep/er/a") == content
    found = made.get_file_info(fs.FileSelector("bucket", recursive=True))
    assert [info.path for info in found if info.is_file] == ["bucket/run/deep/er/a"]


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


def test_what_killed_writers_left_is_not_listed_and_swept(folder):
    folder.write("sub/part.parquet", b"x")
    folder.append("sub/part2.parquet.tmp-12ab34cd", b"half")
    assert folder.names("sub") == ["part.parquet"]
    folder.sweep()
    assert folder.exists("sub/part2.parquet.tmp-12ab34cd")
    folder.sweep("sub")
    assert not folder.exists("sub/part2.parquet.tmp-12ab34cd")
    assert folder.names("sub") == ["part.parquet"]


def test_a_folder_travels_to_other_processes(tmp_path):
    folder = pickle.loads(pickle.dumps(Folder(str(tmp_path))))
    folder.write("a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_uris_are_told_from_paths():
    assert is_remote("s3://bucket/x")
    assert is_remote("gs://bucket/x")
    assert not is_remote("file:///tmp/x")
    assert not is_remote("/tmp/a:b")


def test_the_options_of_a_uri_stay_at_its_end():
    options = "?endpoint_override=http://here:9000&scheme=http"
    assert join(f"s3://bucket/run/{options}", "a/b.mp4") == f"s3://bucket/run/a/b.mp4{options}"
    assert split(f"s3://bucket/run/i.parquet{options}") == (
        f"s3://bucket/run{options}",
        "i.parquet",
    )
    assert split("/tmp/what?/i.parquet") == ("/tmp/what?", "i.parquet")
    assert split("i.parquet") == (".", "i.parquet")
