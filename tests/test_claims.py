"""Folders of results: one piece of work's, one process's at a time."""

import contextlib
import json
import multiprocessing
import os

import pytest

from marey.configs.errors import UsageError
from marey.pipeline.runtime.claims import UNFINISHED, claimed
from marey.pipeline.runtime.storage import Folder

KEY = {"data_digest": "abc", "settings": {"a": 1}}
DONE = "done.json"


def claim(folder, key=KEY):
    return claimed(folder, key, things="shards", finished=DONE)


def interrupted(folder, key=KEY):
    """A piece of work that ends half way."""
    with contextlib.suppress(KeyboardInterrupt), claim(folder, key):
        folder.write("parts/0", b"whole")
        raise KeyboardInterrupt


def test_unfinished_work_is_finished_by_the_same_work_alone(tmp_path):
    folder = Folder(tmp_path / "s")
    interrupted(folder)
    folder.append("parts/1.tmp-dead", b"half")
    with pytest.raises(UsageError, match="another settings"), claim(folder, KEY | {"settings": 2}):
        pass
    with claim(folder):
        assert os.listdir(tmp_path / "s" / "parts") == ["0"]  # what was half written is gone
        assert json.loads(folder.read(UNFINISHED)) == KEY
        folder.write(DONE, b"")
    assert not folder.exists(UNFINISHED)
    with pytest.raises(UsageError, match="holds finished shards"), claim(folder):
        pass


def test_files_of_something_else_are_left_alone(tmp_path):
    folder = Folder(tmp_path)
    folder.write("parts/0", b"somebody's")
    with pytest.raises(UsageError, match="something else"), claim(folder):
        pass
    assert folder.names("parts") == ["0"]
    assert not folder.exists(UNFINISHED)


def hold(folder, held, over):
    with folder.held():
        held.set()
        over.wait(60)


def test_one_process_works_in_a_folder_at_a_time_and_a_killed_one_leaves_it_free(tmp_path):
    folder = Folder(tmp_path / "s")
    context = multiprocessing.get_context("spawn")
    held, over = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder, held, over))
    other.start()
    assert held.wait(60)
    with pytest.raises(UsageError, match="another process is at work"), claim(folder):
        pass
    assert not folder.exists(UNFINISHED)
    other.kill()
    other.join()
    with claim(folder):
        pass


def test_a_folder_without_locks_is_used_all_the_same(tmp_path, monkeypatch):
    def refuse(handle, how):
        raise OSError("no locks here")

    monkeypatch.setattr("marey.pipeline.runtime.storage.fcntl.flock", refuse)
    with Folder(tmp_path).held(), Folder(tmp_path).held():
        pass
