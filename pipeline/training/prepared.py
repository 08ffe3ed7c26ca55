"""What is checked before a run starts: its settings, its data, the folder that it is to fill."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from marey.configs import plugins
from marey.configs.errors import UsageError
from marey.configs.schema import RunConfig
from marey.models.encoders.pretrained import check_weights
from marey.models.method import find_method
from marey.pipeline.data.mixture import Mixture
from marey.pipeline.data.mixture_location import members_of
from marey.pipeline.data.source import LAYOUTS, open_source
from marey.pipeline.runtime.storage import Folder, absolute, is_remote
from marey.pipeline.stream.graph import TURN_UNITS
from marey.pipeline.stream.plan import make_plan
from marey.pipeline.training.checkpoint import LATEST, load_state
from marey.pipeline.training.job import Job, build_method
from marey.pipeline.training.lockstep import Used
from marey.pipeline.training.loggers import check_loggers
from marey.pipeline.training.record import (
    METRICS,
    NOT_SAMPLED,
    PICTURES,
    REFUSED_SAMPLES,
    SAMPLES,
    SUMMARY,
    UNTRAINED,
)
from marey.pipeline.training.run_settings import (
    as_begun,
    changes,
    check_length,
    differing,
    holds_a_run,
    read_settings,
)
from marey.pipeline.training.single_sample import check_single_sample
from marey.pipeline.training.start import started_method
from marey.pipeline.video.backends import check_backend

NAMED_CLASSES = 10_000
"""With more classes than this a run does not keep the names that their numbers stand for."""
REFUSED = "refused.json"
"""A worker's own error, for the driver and for the workers that Ray starts next."""
_RESULTS = (
    "checkpoints", LATEST, "config.yaml", "chance.json", "encoder.safetensors", "encoder.json",
    "tensorboard",
)  # fmt: skip
"""What a run has written, beside what `_clear` removes, once it has a checkpoint."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run whose settings, data and folder have been checked."""

    job: Job
    data: str
    probe_data: str | None
    resumed_step: int
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings that a resumed run changes: key -> (before, now)."""
    turn: int = TURN_UNITS
    """Units of work that are handed to Ray at a time."""
    plugins: Mapping[str, bool] = field(default_factory=plugins.active)
    """What the run's processes import first."""
    started: tuple[str, ...] = ()
    """What fitted of `encoder.weights`, a line each."""
    doubts: tuple[str, ...] = ()
    """Why the method's task may not exist on the data, a sentence each."""
    finished: bool = False
    """Whether the folder holds this run, finished: there is nothing to do."""


def prepare(
    config: RunConfig,
    data: str,
    run: str,
    *,
    resume: bool = False,
    probe_data: str | None = None,
    overwrite: bool = False,
) -> Prepared:
    """Check data, networks, plan and run folder, and write `config.yaml`.

    A folder whose run failed before its first checkpoint is begun again, also without `resume` and
    with other settings; with `overwrite` any run is. One that holds this very run, finished, is
    left as it is. Raises InputError when the data, the checkpoints or pretrained weights
    cannot be used, UsageError when the folder holds another run, or one that is unfinished and
    `resume` is not set,
    SettingError when the method or its encoder cannot be built as set or cannot train on batches of
    that size, and when a resumed run would change what its checkpoint depends on (see
    `FREE_ON_RESUME`).
    """
    data, run = absolute(data), absolute(run)
    fresh = overwrite or not Folder(run).names("checkpoints", ".pt")
    config = config if fresh else as_begun(config, Folder(run))
    source = open_source(data)
    source.check_present()
    config = _with_plugins(config, data)
    check_backend(config.data.backend)
    check_loggers(config.trainer.log)
    method = build_method(config, fetch=False)
    started: list[str] = []
    if config.encoder.weights is not None:
        where = absolute(config.encoder.weights)  # workers have folders of their own
        located = config.encoder.model_copy(update={"weights": where})
        config = config.model_copy(update={"encoder": located})
        if fresh:
            started = started_method(config)[1].lines()
    if probe_data is not None:
        probe_data = absolute(probe_data)
        open_source(probe_data).check_present()
    trainer = config.trainer
    sampling = find_method(config.name).samples(config.method)
    plan = make_plan(source, sampling, seed=trainer.seed, epochs=trainer.epochs)
    if trainer.steps is not None:
        plan.epochs = math.ceil(trainer.steps * trainer.batch_size / plan.samples_per_epoch)
    folder = Folder(run)
    if config.encoder.pretrained and fresh:
        check_weights(config.encoder.backbone)
    labels = source.labels()
    classes = max(labels) + 1 if labels else 0
    provenance = {
        "method": config.name, "data": data, "data_digest": source.digest,
        "places": plan.samples_per_epoch, "classes": classes,
    }  # fmt: skip
    if classes and 0 < len(names := getattr(source, "classes", ())) <= NAMED_CLASSES:
        provenance["class_names"] = list(names)
    settings = {"config": config.model_dump(mode="json"), "provenance": provenance}
    members: tuple[tuple[str, int], ...] = ()
    if isinstance(source, Mixture):
        members = tuple(zip(source.names, source.starts[:-1].tolist(), strict=True))
    job = Job(config, plan, run, provenance, classes, members)
    check_single_sample(job, method, source)
    changed: dict[str, tuple[Any, Any]] = {}
    with folder.held():
        begun = folder.exists("config.yaml")
        if overwrite and begun:
            _clear(folder)
            for name in _RESULTS:
                folder.remove(name)
        state = load_state(folder)
        begun = folder.exists("config.yaml")
        if state is None and begun:
            # where others cannot be kept out, another process may be at work here
            if is_remote(run) and not resume:
                raise UsageError(
                    f"{run} holds a run without a checkpoint; --resume begins it again"
                )
            _clear(folder)
        elif state is not None:
            if not begun:
                raise UsageError(f"{run} holds checkpoints but no config.yaml: give another -o")
            before = read_settings(folder)
            other = differing(before, settings)
            used = Used(state)
            # where the last checkpoint is damaged, its steps are made again
            over = used.trained >= job.samples or len(used.position) == plan.total
            finished = folder.exists(SUMMARY) and over
            if finished and not other:
                return Prepared(job, data, probe_data, int(state["step"]), finished=True)
            if not resume:
                raise UsageError(holds_a_run(run, finished, other))
            changed = changes(before, settings, run)
            check_length(used.trained, job)
        if plan.refused:
            folder.write(NOT_SAMPLED, json.dumps(plan.refused_by_name(), indent=1).encode())
        folder.write("config.yaml", yaml.safe_dump(settings, sort_keys=False).encode())
    return Prepared(
        job, data, probe_data, int(state["step"]) if state else 0, changed,
        started=tuple(started), doubts=method.doubts(job.corpus),
    )  # fmt: skip


def _with_plugins(config: RunConfig, data: str) -> RunConfig:
    """The settings, with all plugins that the run needs: those named, and those that brought parts.

    So a run's folder says what to import before it can be resumed or evaluated.
    """
    sampling = find_method(config.name).samples(config.method)
    known = [LAYOUTS.at(location) for location, _ in members_of(data)]
    brought = [
        plugins.bringer("method", config.name),
        plugins.bringer("sampling", sampling.kind),
        plugins.bringer("decoder", config.data.backend),
        plugins.bringer("backbone", config.encoder.backbone),
        *(plugins.bringer("layout", layout.name) for layout in known if layout),
    ]
    needed = [*config.plugins, *plugins.named(), *filter(None, brought)]
    return config.model_copy(update={"plugins": tuple(dict.fromkeys(needed))})


def _clear(folder: Folder) -> None:
    """Remove what a run left that failed before its first checkpoint."""
    for name in (
        METRICS, SUMMARY, NOT_SAMPLED, REFUSED_SAMPLES, SAMPLES, PICTURES, UNTRAINED, REFUSED,
        "ray",
    ):  # fmt: skip
        folder.remove(name)
