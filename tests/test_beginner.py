"""What a beginner does wrong: for each command its exit code, and the sentence that leads on.

Nothing here needs torch or ray: these are refused by their words and by what lies on disk. A last
test counts the imports.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest

from marey.pipeline.cli.main import main

RUN = ["--data", "index.parquet", "-o", "runs/a"]
MISTAKES = [
    # commands
    (["indx", "videos"], 2, "no command 'indx'; did you mean index?"),
    (["Train", "tcn"], 2, "did you mean train?"),
    (["evaluate", "knn"], 2, "did you mean eval"),
    (["fly"], 2, "`marey` alone says what each does"),
    (["--verion"], 2, "for example"),
    # index
    (["index"], 2, "source and -o are missing (for example: marey index videos/ -o index.parquet"),
    (["index", "videos"], 2, "-o is missing"),
    (["index", "videos", "-o", "index.csv"], 2, "for example -o index.parquet"),
    (["index", "videos", "-o", "index"], 2, "for example -o index.parquet"),
    (["index", "videos", "-o", "i.parquet", "--motion", "flo"], 2, "did you mean flow?"),
    (["index", "videos", "-o", "i.parquet", "--sync", "audio"], 2, "--sync needs --views"),
    (["index", "videos", "-o", "i.parquet", "--workers", "0"], 2, "--workers 0"),
    (["index", "videos", "-o", "i.parquet", "--workers", "two"], 2, "--workers: invalid int"),
    (["index", "videos", "-o", "i.parquet", "--view", "x", "--out"], 2, "expected one argument"),
    (["index", "videos", "-o", "i.parquet", "--recursive"], 2, "index has no option --recursive"),
    # find, export and explore
    (["find", "embeddings"], 2, "video and SECONDS are missing (for example: marey find"),
    (["find", "nowhere", "a.mp4", "1"], 1, "write it with `marey embed RUN --data INDEX"),
    (["find", "videos", "a.mp4", "soon"], 2, "SECONDS: invalid float value"),
    (["find", "videos", "a.mp4", "1", "--count", "0"], 2, "one moment or more"),
    (["find", "videos", "a.mp4", "1", "--page", "found"], 2, "for example -o found.html"),
    (["export", "embeddings", "-o", "x"], 2, "--to is missing"),
    (["export", "embeddings", "--to", "onxx", "-o", "x"], 2, "did you mean onnx?"),
    (["export", "embeddings", "--to", "atlas", "-o", "x.csv"], 2, "for example -o x.parquet"),
    (["export", "runs/a", "--to", "onnx", "-o", "x"], 2, "for example -o x.onnx"),
    (["export", "nowhere", "--to", "atlas", "-o", "x.parquet"], 1, "marey embed RUN --data INDEX"),
    (["export", "e", "--to", "atlas", "-o", "x.parquet", "--thumbnail", "-1"], 2, "0 for none"),
    (["explore"], 2, "embeddings is missing (for example: marey explore embeddings"),
    (["explore", "nowhere"], 1, "write it with `marey embed RUN --data INDEX -o EMBEDDINGS`"),
    (["explore", "videos", "--data", "x.mp4"], 2, "index it first"),
    (["explore", "videos", "--port", "99999"], 2, "or 0 for any free one"),
    # train: the method
    (["train"], 2, "method and --data and -o are missing"),
    (["train", "tcn"], 2, "--data and -o are missing"),
    (["train", *RUN], 2, "method is missing"),
    (["train", "TCN", *RUN], 2, "no method or preset 'TCN'; did you mean tcn?"),
    (["train", "tcnn", *RUN], 2, "did you mean tcn"),
    (["train", "tcn-single", *RUN], 2, "did you mean tcn_single?"),
    (["train", "SimCLR", *RUN], 2, "did you mean simclr?"),
    (["train", "moco", *RUN], 2, "several presets: give one of moco_v1, moco_v2"),
    (["train", "resnet50", *RUN], 2, "`marey methods` lists all"),
    (["train", "own.yaml", *RUN], 2, "no such file: own.yaml"),
    (["train", "old_run", *RUN], 2, "its settings are old_run/config.yaml"),
    # train: the data
    (["train", "tcn", "--data", "x.mp4", "-o", "r"], 2, "marey index x.mp4 -o index.parquet"),
    (["train", "tcn", "--data", "X.MOV", "-o", "r"], 2, "is a video; index it first"),
    (["train", "tcn", "--data", "none.parquet", "-o", "r"], 1, "marey index FOLDER -o"),
    (["train", "tcn", "--data", "videos", "-o", "r"], 2, "marey index videos -o index.parquet"),
    (["train", "tcn", *RUN, "--probe", "x.mp4"], 2, "--probe x.mp4"),
    (["train", "tcn", "--dta", "videos", "-o", "r"], 2, "no option --dta; did you mean --data?"),
    (["train", "tcn", *RUN, "--ouput", "r"], 2, "no option --ouput; did you mean --out?"),
    (
        ["train", "tcn", *RUN],
        1,
        r"marey index FOLDER -o index.parquet --overwrite --views '(?P<event>",
    ),
    (["train", "tcn", *RUN], 1, "or train tcn_single, for one camera"),
    # train: the settings
    (["train", "tcn", *RUN, "batch_size=32"], 2, "did you mean trainer.batch_size?"),
    (["train", "tcn", *RUN, "--batch-size", "32"], 2, "the setting is trainer.batch_size=32"),
    (["train", "tcn", *RUN, "--batch_size=32"], 2, "the setting is trainer.batch_size=32"),
    (["train", "tcn", *RUN, "--epochs", "3"], 2, "the setting is trainer.epochs=3"),
    (["train", "tcn", *RUN, "--lr", "0.1"], 2, "the setting is trainer.optimizer.lr=0.1"),
    (["train", "tcn", *RUN, "lr=0.1"], 2, "did you mean trainer.optimizer.lr?"),
    (["train", "tcn", *RUN, "learning_rate=0.1"], 2, "did you mean trainer.optimizer.lr?"),
    (["train", "tcn", *RUN, "trainer.lr=0.1"], 2, "did you mean trainer.optimizer.lr?"),
    (["train", "tcn", *RUN, "temperature=1"], 2, "did you mean method.temperature?"),
    (["train", "tcn", *RUN, "method.temprature=1"], 2, "did you mean method.temperature?"),
    (["train", "tcn", *RUN, "image_size=64"], 2, "did you mean encoder.image_size?"),
    (["train", "tcn", *RUN, "backbone=resnet18"], 2, "did you mean encoder.backbone?"),
    (["train", "tcn", *RUN, "workers=2"], 2, "did you mean trainer.workers?"),
    (["train", "tcn", *RUN, "encoder=resnet18"], 2, "such as encoder.backbone"),
    (["train", "tcn", *RUN, "frobnicate=1"], 2, "`marey methods PRESET` lists all"),
    (["train", "tcn", *RUN, "trainer.batch_size=0"], 2, "must be greater than or equal to 1"),
    (["train", "tcn", *RUN, "trainer.epochs=many"], 2, "trainer.epochs: must be a valid integer"),
    (["train", "tcn", *RUN, "method.loss=tripplet"], 2, "must be 'triplet', 'npairs'"),
    (["train", "tcn", *RUN, "data.backend=ffmpeg"], 2, "known are pyav"),
    (["train", "tcn", *RUN, "trainer.workers=3"], 2, "must be a multiple"),
    (["train", "tcn", *RUN, "trainer.epochs"], 2, "settings are typed as key=value"),
    (["train", "tcn", *RUN, "trainer.epochs=1", "trainer.steps=9"], 2, "give one of them"),
    (["train", "tcn", *RUN, "--engine", "dask"], 2, "it is one of ray, local"),
    # mine and track
    (["mine", "index.parquet", "-o", "m", "--kind", "track"], 2, "did you mean tracks"),
    (["mine", "x.mp4", "-o", "m"], 2, "marey index x.mp4"),
    (["mine", "index.parquet", "-o", "m", "tracker_settings.ratte=1"], 2, "tracker_settings.rate?"),
    (["mine", "index.parquet", "-o", "m", "patch=3"], 2, "did you mean patches"),
    (["track", "v.mp4", "-o", "out.avi"], 2, "for example -o out.mp4"),
    (["track", "v.mp4", "-o", "out.mp4", "--tracker", "KCF"], 2, "did you mean"),
    (["track", "none.mp4", "-o", "out.mp4"], 1, "no such file or folder"),
    (["track", "v.mp4", "-o", "out.mp4", "--box", "1,2,3"], 2, "x,y,w,h"),
    (["track", "v.mp4", "-o", "out.mp4", "--min-score", "0.2"], 2, "the setting is min_score=0.2"),
    (["track", "v.mp4", "-o", "out.mp4", "min_scor=0.2"], 2, "did you mean min_score?"),
    (["train", "tcn", "--data", "index.parquet=3", "-o", "runs/a"], 1, "--data index.parquet:3"),
    # embed
    (["embed", "old_run"], 2, "--data and -o are missing"),
    (["embed", "old_run", "--data", "x.mp4", "-o", "e"], 2, "marey index x.mp4"),
    (["embed", "old_run/encoder.safetensors", *RUN], 2, "give the folder of the run (old_run)"),
    (["embed", "old_run", *RUN, "--fps", "-1"], 2, "0 embeds every frame"),
    (["embed", "old_run", *RUN, "fps=2"], 2, "for example: marey embed"),
    # eval
    (["eval"], 2, "protocol and embeddings are missing"),
    (["eval", "knn"], 2, "embeddings is missing"),
    (["eval", "knnn", "e"], 2, "no protocol 'knnn'; did you mean knn?"),
    (["eval", "KNN", "e"], 2, "did you mean knn?"),
    (["eval", "knn", "e"], 1, "marey embed RUN --data INDEX -o EMBEDDINGS"),
    (["eval", "knn", "old_run", "kk=3"], 2, "did you mean k?"),
    (["eval", "knn", "old_run", "--k", "20"], 2, "the setting is k=20"),
    (["eval", "knn", "old_run", "k=0"], 2, "k: must be greater than or equal to 1"),
    (["eval", "knn", "old_run", "labels=x"], 2, "give --labels FOLDER"),
    (["eval", "geometry", "old_run", "--labels", "x"], 2, "geometry does not use --labels"),
    (["eval", "pretext", "old_run"], 2, "pretext needs --data"),
    (["eval", "copies", "old_run"], 2, "copies needs --gallery"),
    # report, methods, completion
    (["report", "old_run"], 2, "-o is missing"),
    (["report", "old_run", "-o", "page.htm"], 2, "for example -o page.html"),
    (["report", "none", "-o", "page.html"], 1, "no such file or folder"),
    (["methods", "tcnn"], 2, "did you mean tcn"),
    (["methods", "tcn", "simclr"], 2, "one word too many"),
    (["completion", "powershell"], 2, "it is one of bash, zsh, fish"),
    # how far is it
    (["status"], 2, "FOLDER is missing (for example: marey status runs/tcn)"),
    (["status", "none"], 1, "give the -o of the command that you ask for"),
    (["status", "videos"], 1, "videos has no status.json"),
    (["status", "old_run", "--watch", "0"], 2, "--watch 0.0: a number of seconds"),
    (["status", "old_run", "--refused-above", "5"], 2, "a share from 0 to 1"),
    (["status", "old_run", "--resume"], 2, "status has no option --resume"),
    # once more
    (["train", "tcn", *RUN, "--force"], 2, "train has no option --force"),
    (["train", "tcn", *RUN, "overwrite=true"], 2, "marey methods"),
]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder as a beginner has it: videos of two cameras that nobody has grouped, and a run."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"pour{n}_{side}.mp4" for n in range(3) for side in ("left", "right")]
    pq.write_table(pa.table({"video_id": names, "event": names}), tmp_path / "index.parquet")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "pour0_left.mp4").touch()
    (tmp_path / "v.mp4").touch()
    (tmp_path / "old_run").mkdir()
    (tmp_path / "old_run" / "config.yaml").write_text("config: {name: tcn}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "sentence"), MISTAKES, ids=[" ".join(row[0]) for row in MISTAKES]
)
def test_a_mistake_is_one_line_that_says_what_to_type(words, code, sentence, desk, capsys):
    before = sorted(desk.rglob("*"))
    assert main(words) == code
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.startswith("marey")
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.out == ""
    assert sorted(desk.rglob("*")) == before, "something was left"


def test_the_grouping_that_is_proposed_groups_the_videos(desk, capsys):
    from marey.pipeline.data.grouping import group_views

    assert main(["train", "tcn", *RUN]) == 1
    (rule,) = re.findall(r"--views '([^']+)'", capsys.readouterr().err)
    placed = group_views(["pour0_left.mp4", "pour0_right.mp4", "pour1_left.mp4"], rule)
    assert [(p.event, p.view) for p in placed.values()] == [
        ("pour0", "left"), ("pour0", "right"), ("pour1", "left"),
    ]  # fmt: skip


def test_marey_alone_lists_the_commands(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {name} " in shown for name in ("index", "train", "embed", "eval", "demo"))


LIGHT = [[], ["--help"], ["--version"], ["methods"], ["methods", "tcn"], ["methods", "dino"],
         ["train", "tcn", "--help"], ["eval", "--help"], ["eval", "knn", "--help"],
         ["mine", "--help"], ["track", "--help"], ["completion", "bash"],
         ["status", "--help"]]  # fmt: skip


def test_neither_help_nor_refusals_import_torch_or_ray(desk):
    """All in one process: whatever is imported by any of them is seen at the end."""
    code = f"""
import contextlib, io, json, sys
from marey.pipeline.cli.main import main
for words in {[*LIGHT, *(words for words, *_ in MISTAKES)]!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main(words)
    heavy = [m for m in ("torch", "ray", "cv2", "timm", "sklearn") if m in sys.modules]
    if heavy:
        break
print(json.dumps([heavy, words if heavy else []]))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == [[], []]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_one_that_its_shell_reads(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    made = tmp_path / "marey.completion"
    made.write_text(capsys.readouterr().out)
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(made)], check=True)
    if shell == "bash":
        ask = "COMP_WORDS=({}); COMP_CWORD={}; _marey; echo ${{COMPREPLY[@]}}"
        for words, wanted in (
            ("marey tr", "track train"), ("marey train tcn_s", "tcn_single"),
            ("marey eval kn", "knn"), ("marey train tcn --eng", "--engine"),
            ("marey train tcn --engine r", "ray"),
            ("marey track v --tracker kcf-hog-", "kcf-hog-scale"),
        ):  # fmt: skip
            code = f"source {made}; {ask.format(words, len(words.split()) - 1)}"
            shown = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
            assert shown.stdout.split() == wanted.split()
