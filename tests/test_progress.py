"""What is shown of long work: its rate and the time left are those of the work that is done now."""

import pytest

from marey.pipeline.runtime import progress
from marey.pipeline.runtime.progress import Progress, each, showing


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
    assert capsys.readouterr().err == "embed: 910/1000 parts, 0.5/s, 3:00 left\n"


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
    assert capsys.readouterr().err == "tcn: 200/1000 steps, 10/s, 1:20 left\n"


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
        "linear probe: 1/3 penalties, 0.05/s, 0:40 left\n"
        "linear probe: 2/3 penalties, 0.05/s, 0:20 left\n"
    )
    assert list(work()) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_note_is_a_line_of_its_own(clock, capsys):
    bar = Progress("tcn", "steps")
    bar.note("warning: step 3: all rows are one")
    assert capsys.readouterr().err == "warning: step 3: all rows are one\n"
