"""With which settings was a run begun, and which may it go on with?"""

from __future__ import annotations

from typing import Any

import yaml

from marey.configs.errors import InputError, SettingError
from marey.configs.load import flat, run_config
from marey.configs.renamed import renamed
from marey.configs.schema import OptimizerConfig, RunConfig
from marey.models.method import find_method
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.job import Job

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


def as_begun(config: RunConfig, folder: Folder) -> RunConfig:
    """Settings with the input scale that a run in this folder was begun with, where it is unset.

    Runs of versions before `encoder.mean` could be unset have ImageNet's for all weights.
    """
    if not folder.exists("config.yaml"):
        return config
    before = read_settings(folder)["config"].get("encoder") or {}
    kept = {
        name: tuple(before[name])
        for name in ("mean", "std")
        if getattr(config.encoder, name) is None and before.get(name) is not None
    }
    return config.model_copy(update={"encoder": config.encoder.model_copy(update=kept)})


def differing(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings, and the data, that differ from those that a run has: key -> (before, now)."""
    old, new = flat(_filled(before["config"])), flat(now["config"])
    old["data"], new["data"] = (tree["provenance"]["data_digest"] for tree in (before, now))
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and key != "plugins"  # code may move to other modules
    }


def holds_a_run(run: str, finished: bool, differing: dict[str, tuple[Any, Any]]) -> str:
    """What to do where a run would be begun in the folder of another."""
    if not differing:
        return f"{run} holds a run already; give --resume to go on, or another -o"
    named = ", ".join(
        "other data" if key == "data" else f"{key}={was} (now {now})"
        for key, (was, now) in differing.items()
    )
    return (
        f"{run} holds a{' finished' if finished else ''} run with {named}; --resume goes on with "
        "it where that may change, --overwrite starts anew, or give another -o"
    )


def read_settings(folder: Folder) -> dict[str, Any]:
    """A run's `config.yaml`. Raises InputError where it is damaged."""
    try:
        settings = yaml.safe_load(folder.read("config.yaml"))
        return {"config": renamed(settings["config"]), "provenance": settings["provenance"]}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder.join('config.yaml')} is damaged ({' '.join(str(error).split())[:200]}); "
            "restore it, or start a new run with another -o"
        ) from error


def changes(before: dict[str, Any], now: dict[str, Any], run: str) -> dict[str, tuple[Any, Any]]:
    """What a resumed run sets otherwise. Raises SettingError where its checkpoint depends on it."""
    changed = differing(before, now)
    if changed.pop("data", None):
        raise InputError(f"--resume: the data are not those that {run} was started on")
    for key, (was, wanted) in changed.items():
        if key not in FREE_ON_RESUME:
            raise SettingError(
                f"--resume: {key} was {was!r} in {run} and is {wanted!r} now; start a new run to "
                "change it"
            )
    return changed


def _filled(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings of an older version with today's defaults for those that it had not."""
    try:
        return run_config(tree, find_method(tree["name"]).Config).model_dump(mode="json")
    except SettingError:
        return tree  # what is wrong with them shows in what is compared


def check_length(trained: int, job: Job) -> None:
    """A resumed run may be made longer, but not shorter than it has trained."""
    if trained > job.samples:
        trainer = job.config.trainer
        key = "steps" if trainer.steps else "epochs"
        raise SettingError(
            f"--resume: {job.run} has trained on {trained} samples, and trainer.{key}="
            f"{getattr(trainer, key)} are {job.samples}; give as many or more"
        )
