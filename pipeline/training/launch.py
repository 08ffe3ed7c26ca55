"""How a training run is started and watched: checked, then trained in this process or on Ray."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from marey.configs import plugins
from marey.configs.errors import InputError, MareyError, SettingError, UsageError, error_named
from marey.configs.load import flat, run_config
from marey.configs.renamed import renamed
from marey.configs.schema import OptimizerConfig, RunConfig, TrainerConfig
from marey.models.encoders.pretrained import check_weights
from marey.models.method import find_method
from marey.pipeline.data.mixture import Mixture
from marey.pipeline.data.mixture_location import members_of
from marey.pipeline.data.source import LAYOUTS, open_source
from marey.pipeline.runtime.cores import default_workers, set_threads
from marey.pipeline.runtime.engine import for_a_person, gpu_count, ray_session
from marey.pipeline.runtime.faults import fault_of_program
from marey.pipeline.runtime.storage import Folder, absolute, is_remote, local_path
from marey.pipeline.stream.graph import TURN_UNITS
from marey.pipeline.stream.plan import make_plan
from marey.pipeline.stream.resources import Budget, budget, budget_on_gpus
from marey.pipeline.stream.samples import rows_of_shard, stream_here, stream_ray
from marey.pipeline.training.checkpoint import load_state, position_of
from marey.pipeline.training.held_out import build_probe
from marey.pipeline.training.job import Job, build_method, training_device
from marey.pipeline.training.lockstep import Used
from marey.pipeline.training.loggers import check_loggers
from marey.pipeline.training.record import (
    METRICS,
    NOT_SAMPLED,
    PICTURES,
    REMOTE_WRITE_S,
    SAMPLES,
    SUMMARY,
    UNTRAINED,
    NewMetrics,
)
from marey.pipeline.training.single_sample import check_single_sample
from marey.pipeline.training.start import started_method
from marey.pipeline.training.trainer import train
from marey.pipeline.video.backends import check_backend, decodes_on_gpu

FREE_ON_RESUME = frozenset(
    [
        "trainer.steps", "trainer.epochs",
        # the course of the optimisation: no sample depends on it
        *(f"trainer.optimizer.{name}" for name in OptimizerConfig.model_fields
          if name not in ("name", "decay_on", "layer_decay")),
        "trainer.batch_size", "trainer.accumulate", "trainer.ema", "trainer.sync_batch_norm",
        "trainer.skip_spikes",
        # where and how fast it runs
        "trainer.workers", "trainer.min_workers", "trainer.device", "trainer.precision",
        "trainer.parallel",
        "trainer.compile", "trainer.recompute", "trainer.max_failures", "data.decode_actors",
        "data.prefetch_batches", "data.backend", "data.shuffle_buffer",
        # where the first step began
        "encoder.weights",
        # what it tells
        "trainer.log", "trainer.log_every", "trainer.checkpoint_every", "trainer.probe_every",
    ]
)  # fmt: skip
"""Settings that `--resume` may change. The others decide which samples there are, or what shape
the weights and the optimiser's state have: a checkpoint cannot go on with them."""
NAMED_CLASSES = 10_000
"""With more classes than this a run does not keep the names that their numbers stand for."""
REFUSED = "refused.json"
"""A worker's own error, for the driver and for the workers that Ray starts next."""
Watch = Callable[[list[dict[str, Any]]], None]
"""Called from time to time with the new lines of metrics."""


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


def prepare(
    config: RunConfig, data: str, run: str, *, resume: bool = False, probe_data: str | None = None
) -> Prepared:
    """Check data, networks, plan and run folder, and write `config.yaml`.

    A folder whose run failed before its first checkpoint is begun again, also without `resume` and
    with other settings. Raises InputError when the data, the checkpoints or pretrained weights
    cannot be used, UsageError when the folder holds a checkpoint and `resume` is not set,
    SettingError when the method or its encoder cannot be built as set or cannot train on batches of
    that size, and when a resumed run would change what its checkpoint depends on (see
    `FREE_ON_RESUME`).
    """
    data, run = absolute(data), absolute(run)
    config = _as_begun(config, Folder(run))
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
        if not Folder(run).names("checkpoints", ".pt"):
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
    if config.encoder.pretrained and not folder.names("checkpoints", ".pt"):
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
            if not resume or not begun:
                raise UsageError(
                    f"{run} holds a run already; give --resume to go on, or another -o"
                    if begun
                    else f"{run} holds checkpoints but no config.yaml: give another -o"
                )
            changed = _changes(_read_settings(folder), settings, run)
            _check_length(Used(state).trained, job)
        if plan.refused:
            folder.write(NOT_SAMPLED, json.dumps(plan.refused_by_name(), indent=1).encode())
        folder.write("config.yaml", yaml.safe_dump(settings, sort_keys=False).encode())
    return Prepared(
        job, data, probe_data, int(state["step"]) if state else 0, changed, started=tuple(started)
    )


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


def _as_begun(config: RunConfig, folder: Folder) -> RunConfig:
    """Settings with the input scale that a run in this folder was begun with, where it is unset.

    Runs of versions before `encoder.mean` could be unset have ImageNet's for all weights.
    """
    if not folder.names("checkpoints", ".pt") or not folder.exists("config.yaml"):
        return config
    before = _read_settings(folder)["config"].get("encoder") or {}
    kept = {
        name: tuple(before[name])
        for name in ("mean", "std")
        if getattr(config.encoder, name) is None and before.get(name) is not None
    }
    return config.model_copy(update={"encoder": config.encoder.model_copy(update=kept)})


def _clear(folder: Folder) -> None:
    """Remove what a run left that failed before its first checkpoint."""
    for name in (METRICS, SUMMARY, NOT_SAMPLED, SAMPLES, PICTURES, UNTRAINED, REFUSED, "ray"):
        folder.remove(name)


def _read_settings(folder: Folder) -> dict[str, Any]:
    """A run's `config.yaml`. Raises InputError where it is damaged."""
    try:
        settings = yaml.safe_load(folder.read("config.yaml"))
        return {"config": renamed(settings["config"]), "provenance": settings["provenance"]}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder.join('config.yaml')} is damaged ({' '.join(str(error).split())[:200]}); "
            "restore it, or start a new run with another -o"
        ) from error


def _changes(before: dict[str, Any], now: dict[str, Any], run: str) -> dict[str, tuple[Any, Any]]:
    """What a resumed run sets otherwise. Raises SettingError where its checkpoint depends on it."""
    old, new = flat(_filled(before["config"])), flat(now["config"])
    changed = {
        key: (old.get(key), new.get(key))
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and key != "plugins"  # code may move to other modules
    }
    for key, (was, wanted) in changed.items():
        if key not in FREE_ON_RESUME:
            raise SettingError(
                f"--resume: {key} was {was!r} in {run} and is {wanted!r} now; start a new run to "
                "change it"
            )
    if before["provenance"]["data_digest"] != now["provenance"]["data_digest"]:
        raise InputError(f"--resume: the data are not those that {run} was started on")
    return changed


def _filled(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings of an older version with today's defaults for those that it had not."""
    try:
        return run_config(tree, find_method(tree["name"]).Config).model_dump(mode="json")
    except SettingError:
        return tree  # what is wrong with them shows in what is compared


def _check_length(trained: int, job: Job) -> None:
    """A resumed run may be made longer, but not shorter than it has trained."""
    if trained > job.samples:
        trainer = job.config.trainer
        key = "steps" if trainer.steps else "epochs"
        raise SettingError(
            f"--resume: {job.run} has trained on {trained} samples, and trainer.{key}="
            f"{getattr(trainer, key)} are {job.samples}; give as many or more"
        )


def run_training(
    prepared: Prepared, *, engine: Literal["ray", "local"] = "ray", watch: Watch | None = None
) -> dict[str, Any]:
    """Train to the end; returns the run's summary.

    engine: `ray` (decoding actors and trainers in processes of their own, on this machine or a
    cluster) or `local` (everything in this process: for debugging and tests).
    """
    folder = Folder(prepared.job.run)
    try:
        with folder.held(), _watching(folder, prepared.resumed_step, watch):
            folder.remove(SUMMARY)  # a finished run that is made longer is unfinished
            if engine == "local":
                _train_here(prepared)
            else:
                _train_on_ray(prepared)
    except MareyError:
        if not folder.exists(METRICS):  # nothing began: the folder is as free as before
            folder.remove("config.yaml")
            folder.remove(NOT_SAMPLED)
        raise
    return json.loads(folder.read(SUMMARY))


def _train_here(prepared: Prepared) -> None:
    job = prepared.job
    if job.config.trainer.workers != 1:
        raise SettingError("--engine local trains in one process: trainer.workers must be 1")
    source = open_source(prepared.data)
    probe = build_probe(prepared.probe_data, job.config) if prepared.probe_data else None
    run = Folder(job.run)
    while not run.exists(SUMMARY):  # again, for samples that could not be read the first time
        train(job, lambda done: stream_here(job.plan, source, job.config.data, done), probe)


def _train_on_ray(prepared: Prepared) -> None:
    with ray_session() as cpus:
        from ray.train import FailureConfig, ScalingConfig
        from ray.train import RunConfig as RayRunConfig
        from ray.train.torch import TorchTrainer

        from marey.pipeline.training.row_shards import OrderedShards

        config = prepared.job.config
        trainer = config.trainer
        use_gpu = wants_gpus(trainer, gpu_count())
        actors = config.data.decode_actors
        if decodes_on_gpu(config.data.backend):
            share = budget_on_gpus(
                cpus, trainer.workers, gpu_count(), actors, trainers=use_gpu,
                backend=config.data.backend,
            )  # fmt: skip
        else:
            share = budget(cpus, trainer.workers, actors)
        lowest = trainer.min_workers or trainer.workers
        storage, name = _ray_storage(prepared.job.run)
        settings: dict[str, Any] = {
            "train_loop_config": {"prepared": prepared},
            "scaling_config": ScalingConfig(
                num_workers=(lowest, trainer.workers)
                if lowest < trainer.workers
                else trainer.workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": share.trainer_cpus}
                | ({"GPU": share.trainer_gpus} if use_gpu else {}),
            ),
            "run_config": RayRunConfig(
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=trainer.max_failures),
            ),
            "datasets": {"train": lambda: _dataset(prepared, share)},
            "dataset_config": OrderedShards(),
        }
        run = Folder(prepared.job.run)
        run.remove(REFUSED)
        while not run.exists(SUMMARY):  # one turn after the other
            try:
                TorchTrainer(_worker, **settings).fit()
            except Exception as error:
                raise _refusal(run) or error from error
            if refusal := _refusal(run):
                raise refusal
            _forget(prepared.job.run, name)


def wants_gpus(trainer: TrainerConfig, gpus: int) -> bool:
    """Whether each training process takes one of the `gpus` that the cluster has.

    Raises SettingError where these are fewer than the run needs: Ray would wait for more for ever.
    """
    if trainer.device == "cpu" or (trainer.device == "auto" and not gpus):
        return False
    name = "workers" if trainer.min_workers is None else "min_workers"
    if gpus < (least := getattr(trainer, name)):
        raise SettingError(
            f"trainer.{name}={least} needs as many GPUs, and the cluster has {gpus}; "
            "lower it, or set trainer.device=cpu"
        )
    return True


def _forget(run: str, name: str) -> None:
    """Remove Ray Train's own state of a finished fit: the next one starts from our checkpoint."""
    if is_remote(run):
        Folder(run).remove(name)
    else:
        shutil.rmtree(local_path(run) / name, ignore_errors=True)


def _ray_storage(run: str) -> tuple[str, str]:
    """Where Ray Train keeps its own state: beside ours, removed after the run."""
    base = run if is_remote(run) else str(local_path(run).absolute())
    return base, "ray"


def _dataset(prepared: Prepared, share: Budget) -> Any:
    """The remaining samples. Called whenever workers start, also after a failure."""
    from marey.pipeline.runtime.engine import quiet_data

    quiet_data()
    plugins.adopt(prepared.plugins)
    done = position_of(load_state(Folder(prepared.job.run)))
    return stream_ray(
        prepared.job.plan, prepared.data, prepared.job.config.data, done, share, prepared.turn
    )


def _worker(config: dict[str, Any]) -> None:
    """One training process under Ray Train."""
    import ray.train

    prepared: Prepared = config["prepared"]
    plugins.adopt(prepared.plugins)
    context = ray.train.get_context()
    shard = ray.train.get_dataset_shard("train")
    data = prepared.job.config.data
    run = Folder(prepared.job.run)
    if run.exists(REFUSED):
        return
    try:
        # Ray sets one thread to a logical CPU; a trainer on the CPU wants its share of the machine
        if training_device(prepared.job.config.trainer.device).type == "cpu":
            set_threads(max(1, default_workers() // context.get_local_world_size()))
        probe = None
        if prepared.probe_data and context.get_world_rank() == 0:
            probe = build_probe(prepared.probe_data, prepared.job.config)
        # the dataset was built without the samples that the latest checkpoint holds
        train(prepared.job, lambda done: rows_of_shard(shard, data.prefetch_batches), probe)
    except Exception as error:
        # an error that is meant for a person, or is one of a program, comes again each time, and
        # Ray would try for long; others are of lost processes
        told = for_a_person(error) or fault_of_program(error)
        if told is None:
            raise
        note = {"kind": type(told).__name__, "message": str(told)}
        run.write(REFUSED, json.dumps(note).encode())
        if context.get_world_size() > 1:
            raise  # the others wait for this one; the next attempt ends at once


def _refusal(run: Folder) -> MareyError | None:
    """The MareyError that ended the run, if a worker raised one."""
    if not run.exists(REFUSED):
        return None
    note = json.loads(run.read(REFUSED))
    run.remove(REFUSED)
    return error_named(note["kind"], note["message"])


@contextmanager
def _watching(folder: Folder, step: int, watch: Watch | None) -> Iterator[None]:
    """Pass new lines of metrics to `watch`, from a thread."""
    if watch is None:
        yield
        return
    seen = step
    over = threading.Event()
    metrics = NewMetrics(folder)
    pause_s = REMOTE_WRITE_S if is_remote(folder.location) else 1.0

    def look() -> None:
        nonlocal seen
        fresh = [line for line in metrics.take() if line["step"] > seen]
        if fresh:
            seen = fresh[-1]["step"]
            watch(fresh)

    def poll() -> None:
        while not over.wait(pause_s):
            look()

    thread = threading.Thread(target=poll, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
