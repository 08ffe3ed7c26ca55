"""`marey status` tells how far work is: while it goes on, when it has ended, and after a kill."""

import json
import os
import signal
import socket
import sys
import time

import pytest

from marey.configs.errors import InputError
from marey.pipeline.cli.main import main
from marey.pipeline.runtime import status_file
from marey.pipeline.runtime.status_file import STATUS, read_status, report, reported
from marey.pipeline.runtime.storage import Folder
from tests.corpora import encode_corpus
from tests.test_interrupts import begin, logged, train_words, until


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus")))


def asked(capsys, *words) -> tuple[int, dict, str]:
    """Exit code, the figures, and what is said on the error stream."""
    capsys.readouterr()
    code = main(["status", *map(str, words), "--json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out), shown.err


def told(capsys, *words) -> str:
    capsys.readouterr()
    main(["status", *map(str, words)])
    return capsys.readouterr().out


def test_a_run_is_told_while_it_goes_on_and_after_it_was_killed(corpus, tmp_path, capsys):
    run = tmp_path / "run"
    words = train_words(tmp_path, corpus, "local", "trainer.epochs=4000", "--data", corpus)
    words.remove("--data")
    words.remove(corpus)
    process = begin(tmp_path, *words, "trainer.checkpoint_every=2")
    until(process, lambda: (read_status(Folder(run)) or {}).get("checkpoint"))
    code, figures, _ = asked(capsys, run)
    (work,) = figures["work"]
    assert code == 0
    assert (work["state"], work["alive"], work["pid"]) == ("running", True, process.pid)
    assert (work["kind"], work["name"], work["unit"]) == ("training", "tcn", "steps")
    assert 0 < work["done"] <= logged(run)
    assert work["total"] == 4000 * 4
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, figures, _ = asked(capsys, run)
    assert code == 1
    assert (figures["work"][0]["state"], figures["work"][0]["alive"]) == ("lost", False)
    shown = told(capsys, run)
    assert "lost: it was killed, or its machine is" in shown
    assert f"go on      {work['command']} --resume" in shown
    assert "checkpoint step-" in shown


def test_finished_and_failed_work_is_told_as_such(corpus, tmp_path, capsys):
    out = str(tmp_path / "e")
    assert main(["embed", "pixels", "--data", corpus, "-o", out, "--engine", "local"]) == 0
    code, figures, _ = asked(capsys, out)
    (work,) = figures["work"]
    assert (code, work["state"], work["kind"]) == (0, "finished", "embeddings")
    assert work["done"] == work["total"] == 4 * 2 * 2
    # readers of whole folders meet no file of another kind
    assert not (tmp_path / "e" / STATUS).exists()
    with pytest.raises(InputError), reported(Folder(tmp_path / "f"), "shards"):
        raise InputError("no readable video")
    code, figures, _ = asked(capsys, tmp_path / "f")
    assert code == 1
    assert (figures["work"][0]["state"], figures["work"][0]["error"]) == (
        "failed", "no readable video",
    )  # fmt: skip


def test_what_was_never_worked_in_is_refused_in_a_sentence(tmp_path, capsys):
    assert main(["status", str(tmp_path / "nothing")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["status", str(tmp_path)]) == 1
    assert f"has no {STATUS}" in capsys.readouterr().err


def test_a_rate_is_of_what_is_done_now_and_leaves_out_what_was_before(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(status_file.time, "monotonic", lambda: now[0])
    with reported(Folder(tmp_path), "embeddings"):
        report(done=900, total=1000, unit="frames")
        for _ in range(40):
            now[0] += 1
            report(done=900 + now[0] / 2)
        status_file._reports[-1].write()
        status = read_status(Folder(tmp_path))
        assert (status["rate"], status["best_rate"], status["left_s"]) == (0.5, 0.5, 160)


def write(folder, **values) -> None:
    status = {
        "kind": "training", "state": "running", "updated": time.time(), "every_s": 2.0,
        "host": socket.gethostname(), "pid": os.getpid(), "done": 5, "total": 10, "unit": "steps",
        "command": "marey train tcn -o run",
    }  # fmt: skip
    Folder(folder).write(STATUS, json.dumps(status | values).encode())


@pytest.mark.parametrize(
    ("values", "words", "alarm"),
    [
        ({"seen": 100, "refused": {"timeout": 6}}, ["--refused-above", "0.05"], "6.0% are refused"),
        ({"seen": 100, "refused": {"timeout": 5}}, ["--refused-above", "0.05"], None),
        ({"rate": 2.0, "best_rate": 10.0}, ["--rate-below", "0.3"], "less than 30% of the 10"),
        ({"rate": 4.0, "best_rate": 10.0}, ["--rate-below", "0.3"], None),
        ({"updated": 0}, ["--rate-below", "0.3"], "lost, last heard of"),
    ],
)
def test_alarms_have_an_exit_code_and_call_a_command_without_a_shell(
    values, words, alarm, tmp_path, capsys
):
    write(tmp_path, **values)
    heard = tmp_path / "heard; touch shell"
    script = f"import sys; open({str(heard)!r}, 'w').write(sys.stdin.read())"
    command = f'{sys.executable} -c "{script}"'
    code, figures, said = asked(capsys, tmp_path, *words, "--on-alarm", command)
    if alarm is None:
        assert (code, figures["alarms"]) == (0, [])
        assert not heard.exists()
        return
    assert code == 5
    assert alarm in figures["alarms"][0]
    assert f"alarm: {figures['alarms'][0]}" in said
    assert json.loads(heard.read_text())["alarms"] == figures["alarms"]
    assert not (tmp_path / "shell").exists()


@pytest.mark.parametrize("host", [None, "another"])
def test_work_of_a_process_that_is_no_more_is_lost(host, tmp_path, capsys):
    """At once on its own machine, elsewhere when nothing was heard of it for a while."""
    gone = begin(tmp_path, "--version")
    gone.wait()
    write(tmp_path, pid=gone.pid, **({"host": host} if host else {}))
    _, figures, _ = asked(capsys, tmp_path)
    assert figures["work"][0]["alive"] == bool(host)
    write(tmp_path, pid=gone.pid, updated=time.time() - 20, **({"host": host} if host else {}))
    _, figures, _ = asked(capsys, tmp_path)
    assert figures["work"][0]["state"] == "lost"
