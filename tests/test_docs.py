"""The documentation speaks of commands, settings and files that exist."""

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from marey.configs.load import override, presets, read_preset, run_config
from marey.models.method import methods
from marey.pipeline.cli.main import build_parser
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.encoder_files import export_encoder
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.job import build_method
from tests.corpora import encode_corpus
from tests.test_train import make_config
from tests.videos import encode_video

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"faiss-cpu": "faiss"}
"""Packages whose module has another name."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands():
    """Every `marey` command line in a shell block, without the comment after it."""
    for page in PAGES:
        if page.name == "extending.md":
            continue  # tests/test_extending.py gives its commands
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for name in {"marey"}.intersection(words):
                    yield page.name, words[words.index(name) + 1 :]


@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_every_command_is_one_that_marey_understands(page, words):
    options, rest = build_parser().parse_known_args(words)
    settings = [*getattr(options, "settings", []), *rest]
    assert all(re.match(r"[a-z_.]+=", word) for word in settings), page
    if options.command == "train":
        tree = override(read_preset(options.method), settings)
        run_config(tree, methods()[tree["name"]].Config)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "docs/methods.md"])
def test_every_preset_has_a_row_and_every_row_a_preset(page):
    lines = (ROOT / page).read_text(encoding="utf-8").split("## Measured")[0].splitlines()
    tables = "".join(
        line.split("|")[2 if page == "README.md" else 1] for line in lines if "|" in line
    )
    assert sorted(re.findall(r"`(\w+)`", tables)) == sorted(set(presets()) - {"demo"})


def test_the_readme_counts_the_presets():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{len(presets()) - 1} presets" in readme


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the files that the examples speak of: a video, embeddings, labels."""
    home = tmp_path_factory.mktemp("desk")
    encode_video(home / "talk.mp4", 36, fps=12)
    index = str(encode_corpus(home / "videos", events=2))
    export_encoder(Folder(str(home / "run")), build_method(make_config()).encoder, {})
    for name in ("test", "untrained"):
        embed(str(home / "run"), index, str(home / "embeddings" / name), rate=0, engine="local")
    (home / "labels").mkdir()
    frames = [{"phase": n // 8} for n in range(24)]
    for event in ("e0", "e1"):
        labels = {"fps": 12, "phases": ["a", "b", "c"], "frames": frames}
        (home / "labels" / f"{event}.json").write_text(json.dumps(labels))
    return home


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_python_example_runs(page, desk, monkeypatch):
    monkeypatch.chdir(desk)
    absent = []
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        needed = re.findall(r"^# pip install (\S+)", block)
        absent += (lacking := [name for name in needed if not find_spec(MODULES.get(name, name))])
        if lacking:
            continue
        exec(compile(block, str(page), "exec"), {})
    if absent:
        pytest.skip(f"all but the examples of packages that are not installed: {', '.join(absent)}")
