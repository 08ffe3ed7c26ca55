"""How a training run is started: prepared, then trained in this process or on Ray."""

from __future__ import annotations

import json
from typing import Any, Literal

from marey.configs.errors import MareyError, SettingError
from marey.pipeline.data.source import open_source
from marey.pipeline.runtime import stopping
from marey.pipeline.runtime.status_file import STATUS
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.samples import stream_here
from marey.pipeline.training.checkpoint import load_state
from marey.pipeline.training.held_out import build_probe
from marey.pipeline.training.prepared import Prepared, prepare
from marey.pipeline.training.record import METRICS, NOT_SAMPLED, SUMMARY
from marey.pipeline.training.train_on_ray import train_on_ray
from marey.pipeline.training.trainer import train
from marey.pipeline.training.watch_run import Watch, report_run, watching

__all__ = ["Prepared", "Watch", "prepare", "run_training"]


def run_training(
    prepared: Prepared, *, engine: Literal["ray", "local"] = "ray", watch: Watch | None = None
) -> dict[str, Any]:
    """Train to the end; returns the run's summary. Raises StoppedError when a signal asked for it,
    after the step in hand and a checkpoint.

    engine: `ray` (decoding actors and trainers in processes of their own, on this machine or a
    cluster) or `local` (everything in this process: for debugging and tests).
    """
    folder = Folder(prepared.job.run)
    if prepared.finished:
        return json.loads(folder.read(SUMMARY))
    try:
        with (
            folder.held(),
            report_run(prepared, folder),
            watching(folder, prepared.resumed_step, prepared.job.config.trainer.batch_size, watch),
            stopping.gently("the step in hand ends, and a checkpoint is written"),
        ):
            folder.remove(SUMMARY)  # a finished run that is made longer is unfinished
            if engine == "local":
                _train_here(prepared)
            else:
                train_on_ray(prepared)
    except MareyError:
        if not folder.exists(METRICS):  # nothing began: the folder is as free as before
            for name in ("config.yaml", NOT_SAMPLED, STATUS):
                folder.remove(name)
        raise
    if not folder.exists(SUMMARY):
        raise _stopped(folder)
    return json.loads(folder.read(SUMMARY))


def _stopped(run: Folder) -> stopping.StoppedError:
    if (state := load_state(run)) is None:
        return stopping.StoppedError("stopped before the first step")
    return stopping.StoppedError(f"stopped; the checkpoint of step {state['step']} is written")


def _train_here(prepared: Prepared) -> None:
    job = prepared.job
    if job.config.trainer.workers != 1:
        raise SettingError("--engine local trains in one process: trainer.workers must be 1")
    source = open_source(prepared.data)
    probe = build_probe(prepared.probe_data, job.config) if prepared.probe_data else None
    run = Folder(job.run)
    # again, for samples that could not be read the first time
    while not run.exists(SUMMARY) and not stopping.asked():
        train(job, lambda done: stream_here(job.plan, source, job.config.data, done), probe)
