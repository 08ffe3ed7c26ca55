"""How is a cluster shared among the stages of a graph, and what is asked for an actor of each?

Ray Data waits for ever when actors hold every logical CPU and a task needs one: whatever is asked
for here leaves a slot free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from marey.configs.errors import SettingError

GPU_DECODERS = 2
"""Decoding actors to a GPU that decodes, if none are asked for."""
DECODERS_GPU = 0.25
"""What actors that decode on a trainer's GPU take of it, in Ray's books: Ray keeps no time."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the actors of one stage are given."""

    actors: int
    """Most actors, or with `fixed` exactly so many."""
    cpus: float
    """Logical CPUs of each."""
    gpus: float = 0.0
    """Of a GPU, for each."""
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """How a cluster's logical CPUs are shared by consumers (trainers, encoders) and actors."""

    trainer_cpus: float
    actors: int
    actor_cpus: float
    trainer_gpus: float = 1.0
    """Of a GPU, for a trainer that runs on one."""
    actor_gpus: float = 0.0

    @property
    def of_actors(self) -> Share:
        """The share of the actors that feed the consumers."""
        return Share(self.actors, self.actor_cpus, self.actor_gpus)


def budget(cpus: float, workers: int, actors: int | None = None) -> Budget:
    """Share `cpus` among `workers` consumers and the actors that feed them, keeping a tenth free.

    Where there are fewer than two CPUs to a consumer all take fractions, and the kernel shares.
    """
    trainer = min(1.0, cpus / (4 * workers))
    left = 0.9 * cpus - trainer * workers
    count = actors or max(1, math.floor(left + 1e-9))
    share = min(1.0, left / count)
    # two decimals: Ray counts in ten-thousandths, and sums must stay below the total
    return Budget(math.floor(trainer * 100) / 100, count, max(0.01, math.floor(share * 100) / 100))


def gpu_share(actors: int, gpus: int, of_each: float = 1.0) -> float:
    """The part of a GPU that each of the actors gets so that all find room in `of_each` GPU."""
    # Ray counts in ten-thousandths, and no actor has parts of two GPUs
    return math.floor(1e4 * of_each / math.ceil(actors / gpus)) / 1e4 if gpus else 0.0


def budget_on_gpus(
    cpus: float, workers: int, gpus: int, actors: int | None, *, trainers: bool, backend: str
) -> Budget:
    """`budget` with actors that decode on `gpus`, beside trainers where these run there too.

    backend: the decoder that wants GPUs, for the error.

    Raises SettingError where the cluster has no GPU: Ray would wait for one for ever.
    """
    if not gpus:
        raise SettingError(
            f"data.backend={backend} needs a GPU, and the cluster has none; set data.backend=pyav"
        )
    share = budget(cpus, workers, actors or GPU_DECODERS * gpus)
    free = DECODERS_GPU if trainers else 1.0
    return replace(
        share, trainer_gpus=1 - free if trainers else 1.0,
        actor_gpus=gpu_share(share.actors, gpus, free),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """What the actors of one stage need, before it is known how large the cluster is."""

    one_a_gpu: bool = False
    """One actor a GPU: an encoder. On a cluster without GPUs one actor in all, since two would only
    share the cores. Otherwise as many actors as there are CPUs left, each with one thread."""
    gpus_for: str = ""
    """The settings for which the actors of the CPUs have to share the GPUs as well; else empty."""


def shares(cpus: float, gpus: int, needs: Sequence[Needs]) -> list[Share]:
    """What each stage of a graph gets of a cluster on which nothing else runs.

    Raises SettingError where a stage needs GPUs and the cluster has none.
    """
    heavy = max(1, gpus) if any(need.one_a_gpu for need in needs) else 1
    # without a heavy stage its share stays free as well
    share = budget(cpus, heavy)
    parts = []
    for need in needs:
        if need.one_a_gpu:
            parts.append(Share(heavy, share.trainer_cpus, 1.0 if gpus else 0.0, fixed=True))
        elif need.gpus_for and not gpus:
            raise SettingError(f"{need.gpus_for}, but the cluster has no GPU")
        else:
            part = gpu_share(share.actors, gpus) if need.gpus_for else 0.0
            parts.append(Share(share.actors, share.actor_cpus, part))
    return parts
