"""Where a run's numbers are shown beside its own files: TensorBoard, Weights & Biases, MLflow.

Each is a `Logger`; only what `trainer.log` names is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from marey.configs.errors import SettingError
from marey.pipeline.runtime.storage import Folder, is_remote, local_path

UPLOAD_S = 30.0
"""TensorBoard's file goes to an object store at most this often: it is sent whole each time."""
PROJECT = "marey"
"""Project (W&B) or experiment (MLflow) of all runs; both have their own variable to change it."""
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


class Logger(Protocol):
    """Takes numbers by name and step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step; names have a group before a slash (`train/loss`)."""
        ...

    def close(self) -> None:
        """The run is finished."""
        ...


def check_loggers(names: Sequence[str]) -> None:
    """Raises SettingError where a package is not installed."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise SettingError(
                f"trainer.log={name} needs the package {PACKAGES[name]}: pip install "
                f"{PACKAGES[name]}, or leave {name} out"
            )


def open_loggers(
    names: Sequence[str], run: Folder, step: int, settings: Mapping[str, Any]
) -> dict[str, Logger]:
    """The loggers of a run that begins, or goes on after `step`, by name.

    settings: the run's configuration, for those that show it.
    """
    known: dict[str, Callable[[Folder, int, Mapping[str, Any]], Logger]] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "mlflow": MLflow,
    }
    return {name: known[name](run, step, settings) for name in names}


class TensorBoard:
    """Writes `tensorboard/` in the run's folder, also where that is an object store."""

    def __init__(self, run: Folder, step: int, settings: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        self._run = run if is_remote(run.location) else None
        self._there = tempfile.TemporaryDirectory() if self._run else None
        folder = self._there.name if self._there else local_path(run.location) / "tensorboard"
        self._board = SummaryWriter(str(folder), purge_step=step)
        self._sent_s = time.monotonic()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        if self._run and time.monotonic() - self._sent_s >= UPLOAD_S:
            self._send()

    def close(self) -> None:
        self._board.close()
        if self._run:
            self._send()

    def _send(self) -> None:
        assert self._run is not None
        assert self._there is not None
        for file in Path(self._there.name).iterdir():
            self._run.write(f"tensorboard/{file.name}", file.read_bytes())
        self._sent_s = time.monotonic()


class WeightsAndBiases:
    """A run of W&B with the same id whenever the folder's run goes on."""

    def __init__(self, run: Folder, step: int, settings: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        local = None if is_remote(run.location) else str(local_path(run.location))
        self._run: Any = wandb.init(
            project=None if _is_set("WANDB_PROJECT") else PROJECT,
            id=_id_of(run.location),
            name=_name_of(run.location),
            resume="allow",
            dir=local,
            config=dict(settings),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, found again by its tag when the folder's run goes on."""

    def __init__(self, run: Folder, step: int, settings: Mapping[str, Any]) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow: Any = mlflow
        if not _is_set("MLFLOW_EXPERIMENT_NAME") and not _is_set("MLFLOW_EXPERIMENT_ID"):
            mlflow.set_experiment(PROJECT)
        key = _id_of(run.location)
        found: Any = mlflow.search_runs(
            filter_string=f"tags.marey = '{key}'", max_results=1, output_format="list"
        )
        if found:
            mlflow.start_run(run_id=found[0].info.run_id)
            return
        mlflow.start_run(run_name=_name_of(run.location), tags={PROJECT: key})
        mlflow.log_dict(dict(settings), "config.yaml")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def _is_set(variable: str) -> bool:
    return bool(os.environ.get(variable))


def _id_of(location: str) -> str:
    """A short name of a folder that is the same each time."""
    return hashlib.blake2b(location.encode(), digest_size=6).hexdigest()


def _name_of(location: str) -> str:
    return location.partition("?")[0].rstrip("/").rpartition("/")[2]
