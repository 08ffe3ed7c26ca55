"""The same command on a finished result has nothing to do; another one is refused in a sentence."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from marey.pipeline.cli.demo import STATE, _begun
from marey.pipeline.cli.main import main
from marey.pipeline.runtime.storage import Folder
from tests.corpora import VIEWS, encode_corpus
from tests.test_train import TREE


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with everything that commands make, and the command of each."""
    home = tmp_path_factory.mktemp("made")
    videos = encode_corpus(home / "corpus", events=3, num_frames=24).parent
    shutil.copytree(videos, home / "videos", ignore=shutil.ignore_patterns("*.parquet"))
    (home / "preset.yaml").write_text(yaml.safe_dump(TREE))
    index = str(home / "index.parquet")
    local = ["--engine", "local"]
    small = ["trainer.epochs=1", "trainer.probe_every=1000"]
    commands = {
        "index": ["index", str(home / "videos"), "--views", VIEWS, "-o", index],
        "mine": ["mine", index, "-o", str(home / "shards"), "--kind", "frames", *local,
                 "data.decode_size=32"],
        "train": ["train", str(home / "preset.yaml"), "--data", index, "-o", str(home / "run"),
                  *local, *small],
        "embed": ["embed", str(home / "run"), "--data", index, "-o", str(home / "e"), "--fps", "10",
                  *local],
        "export": ["export", str(home / "e"), "--to", "atlas", "-o", str(home / "a.parquet")],
        "weights": ["export", str(home / "run"), "--to", "torch", "-o", str(home / "a.pt2")],
        "folder": ["export", str(home / "e"), "--to", "projector", "-o", str(home / "p")],
    }  # fmt: skip
    for words in commands.values():
        assert main(words) == 0
    return home, commands


OTHERWISE = {
    "index": (["--motion", "none"], "--overwrite makes it anew"),
    "mine": (["seed=1"], "mined with another settings"),
    "train": (["trainer.seed=1"], "trainer.seed=0 (now 1)"),
    "embed": (["--dtype", "float16"], "made with another dtype"),
    "export": (["--neighbors", "3"], "not of this export"),
    "folder": (["--thumbnail", "20"], "not of this export"),
}


def times(home: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["index", "mine", "train", "embed", "export", "weights", "folder"])
def test_the_same_command_again_has_nothing_to_do(name, made, capsys):
    home, commands = made
    before = times(home)
    assert main([*commands[name], "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("nothing to do: ")
    assert json.loads(shown.out)
    assert times(home) == before


@pytest.mark.parametrize("name", sorted(OTHERWISE))
def test_another_command_on_a_finished_result_is_refused(name, made, capsys):
    home, commands = made
    before = times(home)
    words, sentence = OTHERWISE[name]
    assert main([*commands[name], *words]) == 2
    assert sentence in capsys.readouterr().err
    assert times(home) == before


@pytest.mark.parametrize("name", sorted(OTHERWISE))
def test_overwriting_makes_it_anew_and_then_there_is_nothing_to_do(name, made, tmp_path, capsys):
    home, commands = made
    copy = tmp_path / "made"
    shutil.copytree(home, copy)
    here = [word.replace(str(home), str(copy)) for word in commands[name]]
    if name not in ("train", "index"):  # these name their data by where they lie
        here = [
            str(home / "index.parquet") if w == str(copy / "index.parquet") else w for w in here
        ]
    words = [*here, *OTHERWISE[name][0]]
    assert main([*words, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().err.startswith("nothing to do: ")


def test_an_export_that_was_cut_is_made_again(made, tmp_path, capsys):
    home, commands = made
    copy = tmp_path / "a.parquet"
    words = [*commands["export"][:-1], str(copy)]
    assert main(words) == 0
    copy.write_bytes(copy.read_bytes()[:-9])
    capsys.readouterr()
    assert main(words) == 0
    assert "nothing to do" not in capsys.readouterr().err
    assert copy.stat().st_size == (home / "a.parquet").stat().st_size


@pytest.mark.parametrize("kind", ["timm", "projector"])
def test_a_folder_with_other_things_is_left_alone(kind, made, tmp_path, capsys):
    home, _ = made
    (tmp_path / "config.json").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    target = str(home / ("run" if kind == "timm" else "e"))
    assert main(["export", target, "--to", kind, "-o", str(tmp_path)]) == 2
    assert f"give a folder of its own, for example -o {tmp_path}/export" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "mine"


def test_new_videos_are_taken_over_on_request_alone(made, tmp_path, capsys):
    home, _ = made
    shutil.copytree(home / "videos", tmp_path / "videos")
    index = str(tmp_path / "i.parquet")
    words = ["index", str(tmp_path / "videos"), "-o", index]
    assert main(words) == 0
    (tmp_path / "videos" / "e0_v0.mp4").rename(tmp_path / "videos" / "e9_v0.mp4")
    capsys.readouterr()
    assert main(words) == 2
    assert "--refresh takes over what has changed" in capsys.readouterr().err
    assert main([*words, "--refresh"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_a_finished_demo_has_nothing_to_do_and_another_is_refused(tmp_path, capsys):
    home, videos = tmp_path / "demo", tmp_path / "videos"
    given = {"videos": str(videos), "views": None}
    figures = {"page": str(home / "report.html"), "geometry": {}}
    Folder(home).write(STATE, json.dumps({"given": given, "done": figures}).encode())
    words = ["demo", "-o", str(home), "--json"]
    assert main([*words, "--videos", str(videos)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == figures
    assert f"nothing to do: this demo is finished; open {home}/report.html" in shown.err
    assert main(words) == 2
    assert f"holds a demo of {videos}, with --views None; --overwrite" in capsys.readouterr().err
    (tmp_path / "other" / "run").mkdir(parents=True)
    assert main(["demo", "-o", str(tmp_path / "other")]) == 2
    assert "other holds run and no demo.json: it is a demo of an earlier" in capsys.readouterr().err


def test_a_demo_that_is_made_anew_removes_what_it_made_and_no_video_of_its_owner(tmp_path):
    for own in (True, False):
        home = tmp_path / f"demo{own}"
        given = {"videos": str(home / "videos") if own else None, "views": None}
        (home / "videos").mkdir(parents=True)
        (home / "notes.txt").touch()
        Folder(home).write("run/config.yaml", b"")
        Folder(home).write(STATE, json.dumps({"given": given, "done": {"page": ""}}).encode())
        assert _begun(home, given, overwrite=True) == {}
        assert sorted(p.name for p in home.iterdir()) == [
            "demo.json", "notes.txt", *(["videos"] if own else []),
        ]  # fmt: skip
        # begun, and not finished: it goes on
        assert _begun(home, given, overwrite=False) == {}
