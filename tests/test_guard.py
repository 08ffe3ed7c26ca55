"""Steps that are left out, the time of a step's parts, and where else numbers go."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from marey.configs.errors import MareyError, SettingError
from marey.models.method import methods
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.guard import HOPELESS, USUAL_AFTER, Guard
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.loggers import TensorBoard, check_loggers, open_loggers
from marey.pipeline.training.meter import Meter
from marey.pipeline.training.record import read_metrics
from tests.corpora import encode_corpus
from tests.test_train import make_config


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus")))


def _takes(guard: Guard, *norms: float) -> list[bool]:
    return [guard.takes(torch.tensor(norm)) for norm in norms]


def test_a_norm_out_of_all_proportion_is_left_out_once_the_usual_one_is_known() -> None:
    guard = Guard(4.0)
    assert all(_takes(guard, 100.0, *[1.0] * (USUAL_AFTER - 1)))  # the start may be rough
    usual = (100.0 + USUAL_AFTER - 1) / USUAL_AFTER
    assert _takes(guard, 4 * usual + 0.1, 4 * usual - 0.1) == [False, True]
    assert guard.skipped == 1
    # what was left out does not count as usual
    assert all(_takes(guard, *[1.0] * 500))
    assert _takes(guard, 4.5, 3.5) == [False, True]


def test_what_is_not_finite_is_left_out_from_the_first_step_on() -> None:
    guard = Guard(10.0)
    assert _takes(guard, math.nan, math.inf, 1.0) == [False, False, True]
    assert guard.hopes()
    _takes(guard, *[math.nan] * HOPELESS)
    assert not guard.hopes()


def test_without_a_factor_every_step_is_taken() -> None:
    assert _takes(Guard(None), math.nan, 1e9) == [True, True]


def _poisoned(monkeypatch, number: int) -> None:
    """The loss of the step of that number, from 0, is NaN."""
    method = methods()["tcn"]
    steps = iter(range(1000))
    whole = method.forward

    def forward(self, batch):
        values = whole(self, batch)
        if next(steps) == number:
            values["loss"] = values["loss"] * math.nan
        return values

    monkeypatch.setattr(method, "forward", forward)


def test_a_run_with_a_guard_goes_on_behind_a_loss_that_is_not_finite(
    corpus, tmp_path, monkeypatch
) -> None:
    _poisoned(monkeypatch, 4)
    prepared = prepare(make_config("trainer.skip_spikes=10"), corpus, str(tmp_path / "run"))
    assert run_training(prepared, engine="local")["step"] == 12
    lines = read_metrics(Folder(str(tmp_path / "run")))
    told = [line["warning"] for line in lines if "warning" in line]
    assert told == ["a loss was not finite (since step 5)"]
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert trained[-1]["skipped_steps"] == 1
    assert all(math.isfinite(line["loss"]) for line in trained)


def test_without_one_it_ends_and_says_since_which_step(corpus, tmp_path, monkeypatch) -> None:
    _poisoned(monkeypatch, 4)
    words = ("trainer.log_every=6",)
    with pytest.raises(MareyError, match=r"the loss is nan \(since step 5\) at step 6"):
        run_training(prepare(make_config(*words), corpus, str(tmp_path / "run")), engine="local")


def test_the_parts_of_a_step_make_up_its_time(corpus, tmp_path) -> None:
    run_training(prepare(make_config(), corpus, str(tmp_path / "run")), engine="local")
    parts = ("copy", "augment", "forward", "backward", "update")
    lines = [line for line in read_metrics(Folder(str(tmp_path / "run"))) if "loss" in line]
    for line in lines:
        shares = [line[f"time_{part}"] for part in parts]
        assert all(share > 0 for share in shares)
        assert sum(shares) + line["data_wait"] <= 1.001
        assert line["gradient_norm"] > 0


def test_the_first_bad_round_is_known_without_waiting_for_it() -> None:
    meter = Meter()
    for value in (1.0, 2.0, math.inf, math.nan):
        meter.add({"loss": torch.tensor(value)}, 2)
    meter.take(1)
    assert meter.first_bad == 2
    meter.add({"loss": torch.tensor(1.0)}, 2)
    assert meter.take(1)["loss"] == 1.0
    assert meter.first_bad == -1


def test_a_logger_whose_package_is_absent_is_refused_before_the_run(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"trainer\.log=wandb needs the package wandb: pip"):
        check_loggers(["wandb"])


def test_what_a_run_logs_to_is_a_setting(corpus, tmp_path) -> None:
    for log, there in (("[]", False), ("tensorboard", True)):
        folder = tmp_path / log
        config = make_config(f"trainer.log={log}", "trainer.steps=2")
        run_training(prepare(config, corpus, str(folder)), engine="local")
        assert (folder / "tensorboard").is_dir() == there


def test_tensorboard_s_file_reaches_an_object_store(corpus, tmp_path) -> None:
    remote = _Remote(tmp_path / "store")
    board = open_loggers(["tensorboard"], remote, 0, {})["tensorboard"]
    board.log(1, {"train/loss": 2.0})
    board.close()
    (event,) = (tmp_path / "store" / "tensorboard").iterdir()
    assert b"train/loss" in event.read_bytes()


class _Remote(Folder):
    """A local folder that says it is an object store."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.location = "s3://bucket/run"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_gets_the_numbers_of_a_run(corpus, tmp_path, monkeypatch, name: str) -> None:
    pytest.importorskip(name, reason=f"needs {name}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    for steps, resume in ((2, False), (4, True)):
        config = make_config(f"trainer.log={name}", f"trainer.steps={steps}")
        prepared = prepare(config, corpus, str(tmp_path / "run"), resume=resume)
        run_training(prepared, engine="local")
    lines = read_metrics(Folder(str(tmp_path / "run")))
    assert not [line for line in lines if "warning" in line]
    if name == "mlflow":
        import mlflow  # pyright: ignore[reportMissingImports]

        (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
        losses = mlflow.MlflowClient().get_metric_history(found.info.run_id, "train/loss")
        assert [metric.step for metric in losses] == [1, 2, 3, 4]
    else:
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_a_service_that_fails_is_left_out_and_the_run_goes_on(corpus, tmp_path, monkeypatch):
    def away(self, step, values):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(TensorBoard, "log", away)
    run_training(prepare(make_config(), corpus, str(tmp_path / "run")), engine="local")
    told = [line for line in read_metrics(Folder(str(tmp_path / "run"))) if "warning" in line]
    assert [line["warning"] for line in told] == [
        "trainer.log=tensorboard takes no more numbers: no route to host"
    ]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["step"] == 12
