"""Can a method train on one sample at a time, where its settings leave it no more?"""

from __future__ import annotations

import numpy as np
import torch

from marey.configs.errors import SettingError
from marey.configs.schema import RunConfig
from marey.models.batch import Batch
from marey.models.method import Method
from marey.pipeline.data.reading import Wanted
from marey.pipeline.data.source import Source
from marey.pipeline.stream.plan import Plan, Position
from marey.pipeline.training.job import Job

LONE = "a single sample was left over, and batch norm needs two"
"""Why a sample was not trained on: a batch of it alone has no variance."""


def check_single_sample(job: Job, method: Method, source: Source) -> None:
    """Try a forward pass of one sample where `trainer.batch_size` leaves one to a round.

    Nothing is decoded: the frames of the trial are noise. Raises SettingError when batch norm
    refuses a single sample, as it would in the first step.
    """
    trainer = job.config.trainer
    if trainer.batch_size > trainer.workers * trainer.accumulate:
        return
    method.prepare(job.corpus)
    batch = noise_sample(job.plan, source, job.config.data.frame_shape, job.classes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            method.train()(method.augment(batch))
        except ValueError as error:
            if needs_two(error):
                raise too_small(job.config) from error
            raise


def noise_sample(plan: Plan, source: Source, shape: tuple[int, int], classes: int) -> Batch:
    """The plan's first sample as a batch of one, with noise for frames: uint8 [1, F, H, W, 3]."""
    unit = next(plan.units(Position()))
    sample = next(iter(plan.samples(unit, source)))[0]
    first = torch.zeros(1, dtype=torch.int64)
    batch = {"instance": first, "place": first}
    if classes:
        batch["class_id"] = first
    if source.sample_kind is not None:
        request = sample.request
        wanted = [Wanted(source.event(sample.event), request.views, request.times_s)]
        read = source.reader.read(wanted, shape)
        columns = {"frames": read.frames, **read.columns}
    else:
        count = len(sample.request.times_s)
        frames = np.random.default_rng(0).integers(0, 256, (1, count, *shape, 3), dtype=np.uint8)
        columns = {"frames": frames}
        columns |= {name: value[None] for name, value in sample.request.targets.items()}
    return batch | {name: torch.from_numpy(np.asarray(v)) for name, v in columns.items()}


def needs_two(error: ValueError) -> bool:
    """Whether this is batch norm's refusal of a batch without variance."""
    return "more than 1 value per channel" in str(error)


def too_small(config: RunConfig) -> SettingError:
    """The error of a method or backbone whose batch norm gets a single value per channel."""
    trainer = config.trainer
    rounds = trainer.workers * trainer.accumulate
    return SettingError(
        f"{config.name} with encoder.backbone={config.encoder.backbone} normalises over the batch "
        f"(batch norm) and cannot train on one sample at a time: trainer.batch_size="
        f"{trainer.batch_size} gives {trainer.batch_size // rounds} to each of {trainer.workers} "
        f"workers and {trainer.accumulate} rounds; set trainer.batch_size={2 * rounds} or more"
    )
