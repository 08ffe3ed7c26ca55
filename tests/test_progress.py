"""What is shown of long work: its rate and the time left are those of the work that is done now."""

import json
import sys
import time

import pytest

from marey.pipeline.cli.main import main
from marey.pipeline.runtime import progress, telling
from marey.pipeline.runtime.json_lines import json_lines
from marey.pipeline.runtime.progress import Progress, each, showing, training_words


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_what_an_earlier_run_did_is_not_in_the_rate_of_this_one(clock, capsys):
    bar = Progress("embed", "parts")
    bar.update(900, 1000)
    clock[0] = 20
    bar.update(910, 1000)
    assert capsys.readouterr().err == "embed: 910/1000 parts, 0.5 parts/s, 3:00 left\n"


def test_a_bar_on_a_terminal_counts_from_there_too(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    bar = Progress("embed", "parts")
    bar.update(900, 1000)
    bar.update(910, 1000)
    assert bar._bar.n == 910
    assert bar._bar.format_dict["initial"] == 900
    bar.close()


def test_a_start_that_is_known_counts(clock, capsys):
    bar = Progress("tcn", "steps", 1000, 100)
    clock[0] = 10
    bar.update(200, 1000)
    assert capsys.readouterr().err == "tcn: 200/1000 steps, 10 steps/s, 1:20 left\n"


def test_loops_are_shown_only_where_a_command_asks_for_it(clock, capsys):
    def work():
        for n in each(range(3), "linear probe", "penalties"):
            clock[0] += 20
            yield n

    assert list(work()) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    with showing():
        assert list(work()) == [0, 1, 2]
    assert capsys.readouterr().err == (
        "linear probe: 1/3 penalties, 0.05 penalties/s, 0:40 left\n"
        "linear probe: 2/3 penalties, 0.05 penalties/s, 0:20 left\n"
    )
    assert list(work()) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_note_is_a_line_of_its_own(clock, capsys):
    bar = Progress("tcn", "steps")
    bar.note("warning: step 3: all rows are one")
    assert capsys.readouterr().err == "warning: step 3: all rows are one\n"


def test_time_before_the_first_step_is_in_no_rate(clock, capsys):
    bar = Progress("tcn", "steps", 1000)
    clock[0] = 100  # Ray, workers, the first batch
    bar.update(10, 1000)
    clock[0] = 120
    bar.update(50, 1000)
    assert capsys.readouterr().err == (
        "tcn: 10/1000 steps\ntcn: 50/1000 steps, 2 steps/s, 7:55 left\n"
    )


def test_metrics_are_told_in_plain_words_with_units():
    line = {"step": 10, "loss": 1.23456, "samples_per_s": 12.345, "data_wait": 0.00273}
    assert training_words(line) == {
        "loss": "1.235", "samples": "12.3/s", "waiting for data": "0.3 %",
    }  # fmt: skip
    assert training_words({"warning": "all rows are one"}) == {}


def said(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_what_takes_a_moment_is_said_and_again_while_it_lasts(capsys, monkeypatch):
    for name, value in {"FIRST_S": 0.1, "SILENCE_S": 0.3, "BEAT_S": 0.02}.items():
        monkeypatch.setattr(telling, name, value)
    with telling.telling(["train"]):
        telling.now("reading the data")
        telling.now("starting Ray")
        time.sleep(1.1)
        telling.now("waiting for the first batch")
        time.sleep(0.2)
    telling.now("nobody is told")
    lines = said(capsys)
    assert lines[0] == "train: starting Ray"
    assert lines[-1] == "train: waiting for the first batch"
    # in a log after twice as long each time: 0.3 and 0.6 seconds
    assert [line.partition(", for ")[0] for line in lines[1:-1]] == ["train: starting Ray"] * 2


def test_a_short_command_says_nothing_of_what_it_does(capsys, monkeypatch):
    monkeypatch.setattr(telling, "FIRST_S", 1.0)
    with telling.telling(["methods"]):
        telling.now("reading the settings")
    assert said(capsys) == []


def test_what_a_command_says_is_lines_of_json_where_that_is_asked_for(
    tmp_path, clock, capsys, monkeypatch
):
    monkeypatch.setenv("MAREY_LOG", "json")
    assert main(["status", str(tmp_path / "nothing")]) == 1
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert line["command"] == "status"
    assert "no such folder" in line["message"]
    assert line["time"].endswith("+00:00")
    with json_lines("embed"):
        bar = Progress("embed", "frames")
        bar.update(900, 1000)
        clock[0] = 20
        bar.update(910, 1000, refused=3)
        print("a line that is not", end="", file=sys.stderr)
        print(" whole yet", file=sys.stderr)
    *_, last, whole = map(json.loads, capsys.readouterr().err.splitlines())
    fields = {"done": 910, "total": 1000, "unit": "frames", "rate": 0.5, "refused": 3}
    assert fields.items() <= last.items()
    assert whole["message"] == "a line that is not whole yet"
