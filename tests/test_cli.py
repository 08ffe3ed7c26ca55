"""The command line as a user meets it: exit codes, one line for an error, no half-written file."""

import json
import os
import signal
import sys

import pytest

from marey.pipeline.cli.main import main
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.evaluate.protocols import protocols
from marey.pipeline.video import probe
from tests.corpora import VIEWS, encode_corpus
from tests.test_train import TREE
from tests.videos import encode_video


@pytest.fixture
def preset(tmp_path):
    import yaml

    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(TREE))
    return str(path)


def fails(capsys, *words):
    """The exit code and the single line that an error prints."""
    code = main(list(words))
    error = capsys.readouterr().err.strip()
    assert code not in (0, 3)
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1, error
    return code, error


def test_index_train_embed_eval_report_one_after_the_other(tmp_path, preset, capsys):
    encode_corpus(tmp_path / "videos", events=4)
    index, run, out = (str(tmp_path / name) for name in ("i.parquet", "run", "embeddings"))
    assert main(["index", str(tmp_path / "videos"), "-o", index, "--views", VIEWS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == 4
    train = ["train", preset, "--data", index, "-o", run, "--engine", "local", "trainer.epochs=1"]
    assert main([*train, "--probe", index, "--json", "trainer.log_every=2"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 8
    embed = ["embed", run, "--data", index, "-o", out, "--engine", "local", "--fps", "6", "--json"]
    assert main(embed) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 4 * 2 * 12
    assert main(["eval", "alignment", out, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert 0 <= figures["alignment_error_symmetric"] <= 1
    for target, name in ((run, "run"), (index, "index"), (out, "embeddings")):
        page = tmp_path / f"{name}.html"
        assert main(["report", target, "-o", str(page)]) == 0
        assert page.read_text().startswith("<!doctype html>")


def test_an_index_with_bad_files_is_finished_with_code_3_and_lists_them(tmp_path, capsys):
    encode_video(tmp_path / "a.mp4", 4)
    (tmp_path / "text.mp4").write_text("no video")
    assert main(["index", str(tmp_path), "-o", str(tmp_path / "i.parquet")]) == 3
    assert "unreadable: text.mp4:" in capsys.readouterr().err
    assert (tmp_path / "i.parquet").exists()


def test_videos_that_give_nothing_are_counted_by_embedding_and_mining(tmp_path, capsys):
    encode_video(tmp_path / "a.mp4", 48, size=(64, 64))
    encode_video(tmp_path / "short.mp4", 2, size=(64, 64))
    (tmp_path / "text.mp4").write_text("no video")
    index = str(tmp_path / "i.parquet")
    assert main(["index", str(tmp_path), "-o", index]) == 3
    common = ["--engine", "local", "--json"]
    assert main(["embed", "pixels", "--data", index, "-o", str(tmp_path / "e"), *common]) == 3
    shown = capsys.readouterr()
    assert "refused: text.mp4: unreadable, without a frame (1)" in shown.err
    assert json.loads(shown.out)["refused"] == {"text.mp4: unreadable, without a frame": 1}
    meta = load_embeddings(tmp_path / "e").meta
    assert meta["refused"] == {"text.mp4: unreadable, without a frame": 1}
    assert main(["mine", index, "-o", str(tmp_path / "t"), "--kind", "tracks", *common]) == 3
    assert json.loads(capsys.readouterr().out)["reasons"]["video: no_frames"] == 1
    clips = ["--kind", "clips", "sampling.num_frames=8", "data.decode_size=32"]
    assert main(["mine", index, "-o", str(tmp_path / "c"), *clips, *common]) == 3
    reasons = json.loads(capsys.readouterr().out)["reasons"]
    assert sum(count for reason, count in reasons.items() if reason.startswith("event: ")) == 2


def test_a_command_that_a_scheduler_ends_ends_in_order(tmp_path, capsys, monkeypatch):
    ended = []

    def probe_corpus(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            ended.append("in order")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("marey.pipeline.data.build_index.probe_corpus", probe_corpus)
    code, error = fails(capsys, "index", str(tmp_path), "-o", str(tmp_path / "i.parquet"))
    assert code == 143
    assert error.startswith("marey index: interrupted; what is finished is kept, and this goes on:")
    assert ended
    assert signal.getsignal(signal.SIGTERM) == before


def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path, preset, capsys):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "i.parquet"
    for source in ("nothing", "empty"):
        code, error = fails(capsys, "index", str(tmp_path / source), "-o", str(out))
        assert code == 1
        assert source in error
    assert not out.exists()
    run = tmp_path / "run"
    common = ["-o", str(run), "--engine", "local"]
    code, error = fails(capsys, "train", preset, "--data", str(tmp_path / "no.parquet"), *common)
    assert (code, "no such file" in error) == (1, True)
    code, error = fails(capsys, "train", preset, "--data", str(tmp_path / "empty"), *common)
    assert (code, "marey index" in error) == (1, True)
    code, error = fails(capsys, "train", preset, "--data", "x", *common, "trainer.batchsize=3")
    assert (code, "did you mean trainer.batch_size" in error) == (2, True)
    code, error = fails(capsys, "train", preset, "--data", "x", *common, "trainer.batch_size=-3")
    assert (code, "greater than" in error) == (2, True)
    code, error = fails(capsys, "train", "tcnn", "--data", "x", *common)
    assert (code, "tcn" in error) == (2, True)
    assert not run.exists()
    code, error = fails(capsys, "embed", str(tmp_path / "empty"), "--data", "x", "-o", str(run))
    assert code == 1
    assert not run.exists()
    code, error = fails(capsys, "eval", "alignmnt", str(tmp_path))
    assert (code, "did you mean alignment" in error) == (2, True)
    code, error = fails(capsys, "eval", "zzz", str(tmp_path))
    assert (code, "alignment" in error, "finetune" in error) == (2, True, True)
    code, error = fails(capsys, "eval", "tracking", str(tmp_path), "start=2")
    assert (code, "did you mean starts" in error) == (2, True)
    code, error = fails(capsys, "report", str(tmp_path / "empty"), "-o", str(tmp_path / "p.html"))
    assert code == 1
    assert not (tmp_path / "p.html").exists()


def test_an_index_is_refused_before_anything_is_read(tmp_path, capsys):
    good = ["index", str(tmp_path), "-o", str(tmp_path / "i.parquet")]
    wrong = ["--workers", "0"], ["--time-limit", "-1"], ["--sync-within", "0"]
    for words in (*((*good, *more) for more in wrong), (*good[:-1], str(tmp_path / "index.csv"))):
        code, error = fails(capsys, *words)
        assert (code, words[-2] in error) == (2, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["encoder.backbone=tinny", "trainer.workers=2"])
def test_a_run_that_never_began_leaves_its_place_free(word, tmp_path, preset, capsys):
    index = str(encode_corpus(tmp_path / "videos", events=2))
    run = tmp_path / "run"
    words = ["train", preset, "--data", index, "-o", str(run), "--engine", "local"]
    assert main([*words, word]) == 2
    assert word.partition("=")[2] in capsys.readouterr().err
    assert not list(run.glob("*"))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    encode_video(tmp_path / "a.mp4", 4)
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / "file" / "i.parquet"
    code, error = fails(capsys, "index", str(tmp_path / "a.mp4"), "-o", str(out))
    assert (code, str(tmp_path / "file") in error) == (1, True)


@pytest.mark.parametrize("words", [["methods"], ["methods", "--json"]])
def test_output_that_nobody_reads_is_no_traceback(words, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(words) == 1


def test_an_index_whose_videos_have_moved_says_so(tmp_path, preset, capsys):
    index = encode_corpus(tmp_path / "videos", events=2)
    index = index.rename(tmp_path / "index.parquet")
    (tmp_path / "videos").rename(tmp_path / "moved")
    run = str(tmp_path / "run")
    code, error = fails(capsys, "train", preset, "--data", str(index), "-o", run)
    assert (code, "were they moved" in error) == (1, True)


def test_finished_embeddings_are_not_overwritten(tmp_path, preset, capsys):
    index = str(encode_corpus(tmp_path / "videos", events=2))
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    words = ["train", preset, "--data", index, "-o", run, "--engine", "local", "trainer.steps=1"]
    assert main(words) == 0
    capsys.readouterr()
    embed = ["embed", run, "--data", index, "-o", out, "--engine", "local"]
    for wrong in (["--fps", "-1"], ["--fps", "nan"], ["--copies", "-1"]):
        code, error = fails(capsys, *embed, *wrong)
        assert (code, " ".join(wrong) in error) == (2, True)
    assert main(embed) == 0
    capsys.readouterr()
    assert main(embed) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert fails(capsys, *embed, "--fps", "2")[0] == 2


def test_tracks_are_drawn_over_a_video(tmp_path, capsys):
    video, out = encode_video(tmp_path / "a.mp4", 24, size=(160, 120)), tmp_path / "out.mp4"
    assert main(["track", str(video), "-o", str(out), "--box", "60,40,50,50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 24
    assert probe(str(out)).frames == 24
    code, error = fails(capsys, "track", str(tmp_path / "none.mp4"), "-o", str(tmp_path / "no.mp4"))
    assert (code, error.count("none.mp4")) == (1, 1)
    wrong = (["--box", "1,2,3"], ["--box", "1,2,nan,9"], ["--start", "99"], ["--seconds", "0"])
    for words in wrong:
        code, _ = fails(capsys, "track", str(video), "-o", str(tmp_path / "no.mp4"), *words)
        assert code == 2
    assert not (tmp_path / "no.mp4").exists()


def test_methods_and_doctor_answer(capsys):
    assert main(["methods"]) == 0
    assert "arXiv" in capsys.readouterr().out
    assert main(["methods", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["trainer.batch_size"] == 2
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decoder pyav"]["state"] == "ok"


def test_help_lists_the_protocols_and_the_settings_of_the_one_that_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["eval", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in protocols())
    for name, protocol in protocols().items():
        with pytest.raises(SystemExit):
            main(["eval", name, "--help"])
        shown = capsys.readouterr().out
        assert all(f"  {key} = " in shown for key in protocol.settings.model_fields), name
    assert "starts = 1  (1 to 1,000)" in shown


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["mine", "--kind", "tracks"], "  proposals.max_boxes = 8  (1 to 256)"),
        (["mine", "--kind", "clips"], "  sampling.num_frames = 16  (1 to 512)"),
        (["track"], "  min_score = 0.1  (-1 to 1,000)"),
        (["track", "--tracker", "mosse"], "  min_score = 7.0  (-1 to 1,000)"),
    ],
)
def test_help_lists_the_settings_of_what_is_named(words, line, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    assert line in capsys.readouterr().out.splitlines()


def test_settings_that_an_evaluation_does_not_have_are_one_line(tmp_path, capsys):
    for protocol, word in (
        ("alignment", "labels=there"),
        ("knn", "protocol=linear"),
        ("tracking", "labels=there"),
        ("tracking", "root=there"),
        ("tracking", "starts=few"),
        ("tracking", "starts=0"),
        ("tracking", "trackers=3"),
        ("tracking", "tracker_settings.ratte=3"),
        ("geometry", "frames=0"),
        ("retrieval", "task=scenes"),
    ):
        code, error = fails(capsys, "eval", protocol, str(tmp_path), word)
        assert (code, word.partition("=")[0] in error) == (2, True)


def test_wrong_words_exit_with_2(capsys):
    for words in (["indx"], ["index"], ["train", "tcn", "--data", "x", "-o", "y", "--nope"]):
        assert fails(capsys, *words)[0] == 2
