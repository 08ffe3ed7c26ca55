"""How Ray is started and asked for resources: one place for its settings and its known faults."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from marey.configs import errors, plugins
from marey.configs.errors import MareyError, error_named
from marey.pipeline.runtime import messages, telling
from marey.pipeline.runtime.cores import WAIT_POLICY, default_workers, wait_asleep
from marey.pipeline.runtime.stopping import answers_kept

NO_CODE = re.compile(r"No module named '([\w.]+)'")
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells a submitted job, as JSON, what its processes are given (`runtime_env`)."""
RAISED = re.compile(r"marey\.configs\.errors\.(\w+): ([^\n]+)")
STARTS = 3
"""How often a local instance is started before that counts as failed."""
TOO_BUSY = "timed out during startup"
"""What Ray says when its processes were not ready within a time that cannot be set."""
MAX_RESTARTS = 1000
"""How often one Ray Data actor is started again."""
MAX_DEATHS = 3
"""So many processes may die at one unit of work, each but the first while it was suspected."""
SUSPECTED_CALLS = 16
"""A restarted actor suspects so many units of work: Ray hands back the few that it held."""
LOGICAL_PER_CORE = 2
"""Logical CPUs that a local instance counts for each core."""


LONGEST_TEMP = 40
"""Characters of a temporary folder's path from which Ray's socket paths get too long."""


@contextmanager
def ray_session() -> Iterator[float]:
    """A connection to the cluster that RAY_ADDRESS names, or a local instance that ends with it.

    Yields the CPUs that a run may budget: a cluster's logical ones, or this machine's cores. A
    local instance counts two logical CPUs a core, so that while a run budgets the cores there is
    always a slot for Ray's own tasks, and for new actors while those of a failed attempt still
    stand: Ray Data waits for ever where there is none. A connection that stands already is used
    and left open. An error that an actor raised on purpose is raised as that error.
    """
    # read by ray when it is imported: no usage report, no metrics agents where nobody asks
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    local_instance = "RAY_ADDRESS" not in os.environ
    wait_asleep()
    if local_instance:
        # each spares processes on a small machine; no node of it is preempted, and actors are
        # started when they are asked for, as there are no tasks that wait for a process
        os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_enable_worker_prestart", "0")
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # two busy cores need longer than Ray's 30 s to import torch in every worker
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
    import ray

    started = not ray.is_initialized()
    if started:
        telling.now("starting Ray" if local_instance else "connecting to the Ray cluster")
        with answers_kept():
            _start(**(_local_options() if local_instance else _cluster_options()))
    quiet_data()
    try:
        cpus = float(ray.cluster_resources().get("CPU", 1))
        with messages.heard() if started and telling.is_told() else nullcontext():
            yield cpus / LOGICAL_PER_CORE if local_instance else cpus
    except Exception as error:
        # Ray's wrapper is also of the class of what it wraps
        ours = type(error).__module__ == errors.__name__
        if ours or (told := for_a_person(error)) is None:
            raise
        raise told from error
    finally:
        if started:
            ray.shutdown()


def for_a_person(error: Exception) -> MareyError | None:
    """What an exception of Ray wraps, if a process of ours raised it on purpose.

    Ray hands over the text of what was raised, several exceptions deep.
    """
    if (found := NO_CODE.search(str(error))) and found[1] == "marey":
        return MareyError(
            "processes of the Ray cluster cannot import marey: start the command in its checkout, "
            "submit it as a job, or install marey on every node (docs/cluster.md)"
        )
    if found and found[1].split(".")[0] in {name.split(".")[0] for name in plugins.active()}:
        return MareyError(
            f"processes of Ray cannot import the plugin {found[1]!r}: start the command in the "
            "folder that holds it, submit that folder as a job's working directory, or install it "
            "on every node (docs/extending.md)"
        )
    if found := RAISED.search(str(error)):
        return error_named(found[1], found[2])
    return None


def _start(**options: Any) -> None:
    """Connect, or start a local instance; again where the machine was too busy for Ray's 30 s.

    Raises MareyError when that was so every time, and when there is no cluster to connect to.
    """
    import ray

    for left in reversed(range(STARTS)):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except ConnectionError as error:
            raise MareyError(
                f"no connection to the Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: "
                f"{error} (is it running? One that asks for a token needs RAY_AUTH_MODE=token)"
            ) from error
        except Exception as error:  # Ray has no class of its own for it
            if TOO_BUSY not in str(error):
                raise
            ray.shutdown()
            if not left:
                raise MareyError(
                    f"Ray did not start within its 30 s, {STARTS} times: is this machine busy with "
                    "something else, or out of memory?"
                ) from error


def _local_options() -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_cpus": LOGICAL_PER_CORE * default_workers(),
        "address": "local",  # not the node of a cluster that runs on this machine
        "include_dashboard": False,
    }
    if len(tempfile.gettempdir()) > LONGEST_TEMP:
        options["_temp_dir"] = "/tmp/ray"
    return options


def _cluster_options() -> dict[str, Any]:
    """What the processes of a cluster need of this one: how threads wait, which a cluster's own
    environment says nothing of, and plugins that are not installed. What a job has brought stays.
    """
    brought = json.loads(os.environ.get(JOB, "{}")).get("runtime_env") or {}
    sent: dict[str, Any] = {}
    if WAIT_POLICY not in brought.get("env_vars", {}):
        sent["env_vars"] = {WAIT_POLICY: os.environ[WAIT_POLICY]}
    here = Path.cwd() if "working_dir" in brought else None
    paths = [path for path in _plugin_files() if here is None or here not in path.parents]
    if paths and "py_modules" not in brought:
        sent["py_modules"] = [str(path) for path in paths]
    return {"runtime_env": sent} if sent else {}


def _plugin_files() -> list[Path]:
    """The files, or folders of packages, of the plugins that lie in no installed package."""
    paths = []
    for name in dict.fromkeys(module.split(".")[0] for module in plugins.active()):
        spec = importlib.util.find_spec(name)
        places = [*(spec.submodule_search_locations or [])] or [spec.origin] if spec else []
        paths += [Path(place).absolute() for place in places if place and os.path.exists(place)]
    libraries = [Path(path) for path in sys.path if path.endswith(("site-packages", "lib-dynload"))]
    libraries.append(Path(os.__file__).parent)
    return [path for path in paths if not any(place in path.parents for place in libraries)]


def quiet_data() -> None:
    """Settings of Ray Data for this process: rows in order, blocks kept whole, no bars."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    # a damaged video is a row with a reason; an exception is a fault and ends the run
    context.max_errored_blocks = 0
    # Ray shows this one to everybody; its version is pinned, and no user can act on it
    warnings.filterwarnings("ignore", message=r"\s*`ray_remote_args_fn` is deprecated")
    for name in ("ray.data", "ray.train", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def actor_retries() -> dict[str, int]:
    """How often Ray Data's actors may be lost, for its `ray_remote_args_fn`.

    A unit of work is handed out again without end: while a lost node is not yet known as such, Ray
    spends tries in seconds. That a unit kills its process each time is counted here (`Suspicion`).
    """
    return {"max_restarts": MAX_RESTARTS, "max_task_retries": -1}


class Suspicion:
    """Whether the next unit of work of this actor may be the one that killed its process.

    Ray tries a unit again in the restarted actor, among the first that it is given. Its videos are
    read in processes of their own then. How often processes died at a unit stands in the cluster's
    key-value store.
    """

    def __init__(self) -> None:
        import ray

        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self.restarted = bool(restarted)
        self._left = SUSPECTED_CALLS if restarted else 0

    def next(self) -> bool:
        """To be asked once a unit of work."""
        self._left -= 1
        return self._left >= 0

    def deaths(self, unit: bytes) -> int:
        """Processes that may have died at a suspected unit of work, this call among them."""
        import ray
        from ray.experimental import internal_kv

        job = ray.get_runtime_context().get_job_id()
        key = f"marey:{job}:{hashlib.blake2b(unit, digest_size=16).hexdigest()}".encode()
        count = int(internal_kv._internal_kv_get(key) or 0) + 1
        internal_kv._internal_kv_put(key, str(count).encode())
        return count


def gpu_count() -> int:
    """GPUs that the connected cluster has."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))
