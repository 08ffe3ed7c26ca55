"""What is installed: the wheel holds marey alone, and no project and marey break each other."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from readme_renderer import markdown

from tests.corpora import VIEWS, encode_corpus
from tests.test_structure import PACKAGES, ROOT
from tests.test_train import TREE

BOUND_ELSEWHERE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "RAY_ADDRESS")
INSTALL = ("uv", "pip", "install", "--quiet", "--offline", "--no-deps")
OURS = """
import models.net, configs, pipeline, trackers
assert (models.net.MINE, configs.MINE, pipeline.MINE) == ("net", "configs", "pipeline")
"""
"""What a user's own program imports from the folder; with `trackers`, which is a bare folder."""


def run(*words, cwd: Path, **environment: str) -> str:
    """What a command prints, with nothing of the environment of the tests."""
    clean = {name: value for name, value in os.environ.items() if name not in BOUND_ELSEWHERE}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean | environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a wheel or a source distribution with the packages that are installed here."""
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out, cwd=source)
    return next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def environment(folder: Path) -> Path:
    """A new environment that has the dependencies of this one, and not marey; its Python.

    The line of a `.pth` file is no site of its own: an editable marey behind it is not seen.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    ).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The Python of an environment in which the wheel is installed."""
    python = environment(tmp_path_factory.mktemp("installed") / "env")
    run(sys.executable, "-m", *INSTALL, "--python", python, wheel, cwd=wheel.parent)
    return python


@pytest.fixture(scope="module", params=["packages", "bare folders"])
def project(request, tmp_path_factory) -> Path:
    """A user's folder in which every name of our top folders means something else."""
    home = tmp_path_factory.mktemp("project")
    for name in PACKAGES:
        (home / name).mkdir()
    (home / "models" / "net.py").write_text('MINE = "net"\n')
    (home / "configs" / "__init__.py").write_text('MINE = "configs"\n')
    (home / "pipeline").rmdir()
    (home / "pipeline.py").write_text('MINE = "pipeline"\n')
    if request.param == "packages":
        (home / "models" / "__init__.py").write_text("")
    (home / "train.yaml").write_text(yaml.safe_dump(TREE))
    return home


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return encode_corpus(tmp_path_factory.mktemp("videos"), events=2).parent


def job(project: Path, videos: Path, out: Path, *engine: str) -> str:
    """A user's program: imports its own modules, has marey index and train, looks again."""
    index = str(out / "index.parquet")
    commands = (
        ["index", str(videos), "-o", index, "--views", VIEWS],
        ["train", str(project / "train.yaml"), "--data", index, "-o", str(out / "run"), *engine],
    )
    calls = "".join(
        f"assert main({[*words, *(['trainer.steps=1'] if words[0] == 'train' else [])]}) == 0\n"
        for words in commands
    )
    return f"{OURS}from marey.pipeline.cli.main import main\n{calls}{OURS}"


def test_the_wheel_holds_marey_and_nothing_else(wheel):
    names = set(contents(wheel))
    parts = {name.split("/")[0] for name in names}
    assert len(parts) == 2
    assert parts - {"marey"} == {next(p for p in parts if p.endswith(".dist-info"))}
    tracked = run("git", "ls-files", *PACKAGES, cwd=ROOT).split()
    tracked = [name for name in tracked if (ROOT / name).is_file()]
    expected = {f"marey/{name}" for name in tracked}
    expected |= {f"marey/{path.name}" for path in (ROOT / "marey").iterdir() if path.is_file()}
    assert {name for name in names if name.startswith("marey/")} == expected
    assert any(name.endswith(".yaml") for name in names)
    assert any(name.endswith(".css") for name in names)
    assert "marey/py.typed" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_the_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    archive = build("sdist", ROOT, tmp_path)
    with tarfile.open(archive) as sources:
        sources.extractall(tmp_path, filter="data")
    folder = archive.with_name(archive.name.removesuffix(".tar.gz"))
    assert contents(build("wheel", folder, tmp_path / "again")) == contents(wheel)


def test_the_description_reads_outside_the_repository(wheel):
    """Its links and pictures lead somewhere from any page that shows it."""
    names = contents(wheel)
    metadata = next(name for name in names if name.endswith("METADATA"))
    message = message_from_string(names[metadata].decode())
    page = markdown.render(message.get_payload())
    assert page is not None
    assert "<h2" in page
    targets = [word for kind in ("href", "src") for word in page.split(f'{kind}="')[1:]]
    assert [t.split('"')[0] for t in targets if not t.startswith(("https://", "#"))] == []
    assert "](" not in page


def test_an_editable_installation_is_one_line(tmp_path):
    python = environment(tmp_path / "env")
    words = ("--no-build-isolation", "--editable", ROOT)
    run(sys.executable, "-m", *INSTALL, "--python", python, *words, cwd=tmp_path)
    site = next((tmp_path / "env" / "lib").glob("*/site-packages"))
    added = {path.name for path in site.iterdir() if not path.name.endswith("-info")}
    (line,) = added - {"dependencies.pth", "_virtualenv.py", "_virtualenv.pth"}
    assert (site / line).suffix == ".pth"
    assert (site / line).read_text().strip() == str(ROOT)
    where = run(python, "-c", "import marey; print(marey.__file__)", cwd=tmp_path)
    assert Path(where.strip()).parent == ROOT / "marey"


@pytest.mark.parametrize("place", ["working directory", "PYTHONPATH"])
def test_a_project_of_our_names_and_marey_leave_each_other_alone(
    installed, project, videos, tmp_path, place
):
    program = job(project, videos, tmp_path, "--engine", "local")
    if place == "PYTHONPATH":
        run(installed, "-c", program, cwd=tmp_path, PYTHONPATH=str(project))
    else:
        run(installed, "-c", program, cwd=project)
    about = json.loads((tmp_path / "run" / "encoder.json").read_text())
    assert about["provenance"]["marey"]


def test_the_command_runs_inside_a_project_of_our_names(installed, project, tmp_path):
    """As an installed command and as a module: the latter puts the working directory first."""
    for words in ([installed.parent / "marey"], [installed, "-m", "marey"]):
        shown = run(*words, "methods", "tcn", cwd=project, PYTHONPATH=str(project))
        assert "method.temperature" in shown


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ray_job_whose_working_directory_has_our_names_trains(
    installed, project, videos, tmp_path
):
    start = f"""
import ray
for left in (2, 1, 0):  # a busy machine needs longer than Ray's 30 s
    try:
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
                 runtime_env={{"working_dir": {str(project)!r}}})
        break
    except Exception:
        ray.shutdown()
        if not left:
            raise

@ray.remote
def theirs():
    {"; ".join(OURS.strip().splitlines())}
    import marey, marey.models.method
    return marey.__file__

assert ray.get(theirs.remote()).startswith({str(installed.parent.parent)!r})
"""
    program = tmp_path / "job.py"
    program.write_text(start + job(project, videos, tmp_path))
    run(installed, program, cwd=project, PYTHONPATH=str(project))
    assert (tmp_path / "run" / "encoder.safetensors").exists()


def test_types_of_the_installed_marey_are_known_to_a_checker(installed, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("from marey.pipeline.video import probe\nprobe(b'a.mp4').duration_s\n")
    checked = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", installed, "--outputjson", program],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    found = {d["rule"] for d in json.loads(checked.stdout)["generalDiagnostics"] if "rule" in d}
    assert found == {"reportArgumentType"}, checked.stdout
