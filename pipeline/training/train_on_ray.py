"""How is a prepared run trained on Ray: its processes, what each is given, and how they end?"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from typing import Any

from marey.configs import plugins
from marey.configs.errors import MareyError, SettingError, error_named
from marey.configs.schema import TrainerConfig
from marey.pipeline.runtime import counters, messages, stopping, telling
from marey.pipeline.runtime.cores import default_workers, set_threads
from marey.pipeline.runtime.engine import for_a_person, gpu_count, ray_session
from marey.pipeline.runtime.faults import fault_of_program
from marey.pipeline.runtime.storage import Folder, is_remote, local_path
from marey.pipeline.stream.resources import Budget, budget, budget_on_gpus
from marey.pipeline.stream.samples import rows_of_shard, stream_ray
from marey.pipeline.training.checkpoint import load_state, position_of
from marey.pipeline.training.held_out import build_probe
from marey.pipeline.training.job import training_device
from marey.pipeline.training.prepared import REFUSED, Prepared
from marey.pipeline.training.record import (
    SUMMARY,
)
from marey.pipeline.training.trainer import train
from marey.pipeline.video.backends import decodes_on_gpu

_log = logging.getLogger("marey")


def train_on_ray(prepared: Prepared) -> None:
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
        stopping.tell(0)
        telling.now("starting the training processes")
        while not run.exists(SUMMARY) and not stopping.asked():  # one turn after the other
            try:
                _fit(TorchTrainer(_worker, **settings))
            except Exception as error:
                raise _refusal(run) or error from error
            if refusal := _refusal(run):
                raise refusal
            _forget(prepared.job.run, name)


def _fit(trainer: Any) -> None:
    """Run a Ray trainer; its processes are told when this one is asked to stop."""
    raised: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            raised.append(error)

    # in the main thread it would answer Ctrl-C itself, by ending the trainers at once
    thread = threading.Thread(target=fit, name="fit", daemon=True)
    thread.start()
    told = False
    while thread.is_alive():
        thread.join(stopping.HEAR_S)
        if stopping.asked() and not told:
            stopping.tell(stopping.asked())
            told = True
    if raised:
        raise raised[0]


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
    stopping.hear()
    messages.send_here()
    counters.export_here()
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
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            counters.count("marey_restarts", stage="training")
            _log.warning("a training process was lost (%s): the run goes on from its last "
                         "checkpoint with another", what)  # fmt: skip
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
