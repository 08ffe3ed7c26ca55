"""What a run tells: each line of metrics reaches its readers once, also while it is written."""

import json
from collections import Counter

import pytest
from pyarrow import fs

from marey.models.method import Progress
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import Position
from marey.pipeline.training import record
from marey.pipeline.training.record import METRICS, NewMetrics, Record, read_metrics


def _line(step: int) -> str:
    return json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\n"


def _steps(lines):
    return [line["step"] for line in lines]


def test_one_that_watches_gets_each_line_once_and_reads_only_what_is_new(tmp_path, monkeypatch):
    run = Folder(str(tmp_path))
    watching = NewMetrics(run)
    assert watching.take() == []
    run.append(METRICS, (_line(0) + _line(1)).encode())
    assert _steps(watching.take()) == [0, 1]
    assert watching.take() == []
    read: list[int] = []
    whole = Folder.read

    def counted(self, name, start=0):
        content = whole(self, name, start)
        read.append(len(content))
        return content

    monkeypatch.setattr(Folder, "read", counted)
    run.append(METRICS, _line(2).encode())
    assert _steps(watching.take()) == [2]
    assert read == [len(_line(2)) + 1]


def test_a_line_that_is_half_written_waits_for_its_end(tmp_path):
    run = Folder(str(tmp_path))
    watching = NewMetrics(run)
    text = _line(0) + _line(1)
    for cut in range(1, len(text)):
        run.write(METRICS, text[:cut].encode())
        got = _steps(NewMetrics(run).take())
        assert got == _steps(read_metrics(run)) == [0][: cut // len(_line(0))]
    run.write(METRICS, text[:-3].encode())
    assert _steps(watching.take()) == [0]
    run.append(METRICS, text[-3:].encode())
    assert _steps(watching.take()) == [1]


@pytest.mark.parametrize("kept", range(4))
@pytest.mark.parametrize("again", range(12))
def test_a_run_that_goes_back_is_followed_from_its_new_beginning(tmp_path, kept, again):
    run = Folder(str(tmp_path))
    watching = NewMetrics(run)
    run.write(METRICS, "".join(_line(step) for step in range(10)).encode())
    assert len(watching.take()) == 10
    lines = [_line(step) for step in range(kept)] + [_line(100 + step) for step in range(again)]
    run.write(METRICS, "".join(lines).encode())
    new = [step for step in _steps(watching.take()) if step >= 100]
    assert new == [100 + step for step in range(again)][-len(new) :]
    # no line is torn, and no line is lost but where the file looks just as it did
    assert len(new) == again or kept + again >= 10


def test_an_object_store_gets_the_metrics_now_and_then_and_all_of_them_in_the_end(
    tmp_path, monkeypatch
):
    (tmp_path / "bucket").mkdir()
    local = fs.LocalFileSystem()
    monkeypatch.setattr(
        "marey.pipeline.runtime.storage._remote",
        lambda uri: (local, str(tmp_path / uri[len("s3://") :])),
    )
    appended: list[int] = []
    append = Folder.append

    def counted(self, name, content):
        appended.append(content.count(b"\n"))
        append(self, name, content)

    monkeypatch.setattr(Folder, "append", counted)
    now = [100.0]
    monkeypatch.setattr(record.time, "perf_counter", lambda: now[0])
    run = Folder("s3://bucket")
    kept = Record(run, 0, {})
    for step in range(1, 101):
        now[0] += 1.0
        kept.metrics(Progress(step, 100, 0), 0.1, {"loss": 1.0})
    kept.finish(100, Position(100), Counter())
    assert _steps(read_metrics(run)) == list(range(1, 101))
    assert sum(appended) == 100
    assert len(appended) <= 100 / record.REMOTE_WRITE_S + 1


def test_a_run_in_which_few_samples_count_is_told_so_once(tmp_path):
    kept = Record(Folder(str(tmp_path)), 0, {})
    for step, valid in enumerate((1.0, 0.5, 0.04, 0.0), start=1):
        kept.metrics(Progress(step, 9, 0), 0.1, {"loss": 1.0, "valid": valid})
    told = [line for line in read_metrics(Folder(str(tmp_path))) if "warning" in line]
    assert [line["step"] for line in told] == [3]
    assert told[0]["warning"].startswith("4.0% of the samples count in the loss")
