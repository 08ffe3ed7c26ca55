"""THE trainer: one loop for every method, in one process or under Ray Train.

It never names a method. Read `train` from top to bottom.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from marey.configs.errors import InputError, UnfinishedError
from marey.configs.schema import TrainerConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.modes import evaluating
from marey.models.method import Method, Progress
from marey.models.objectives.distributed import alone, world_size
from marey.models.objectives.distributed import rank as own_rank
from marey.pipeline.runtime import counters, stopping, telling
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import Position
from marey.pipeline.stream.samples import Sample, shuffled
from marey.pipeline.training.collate import Room, collate
from marey.pipeline.training.gradient_exchange import exchanging
from marey.pipeline.training.guard import Guard
from marey.pipeline.training.job import Job
from marey.pipeline.training.lockstep import Work, accepted, agreed, in_step
from marey.pipeline.training.meter import Meter
from marey.pipeline.training.optim import clip_gradients, set_schedule
from marey.pipeline.training.record import UNTRAINED, Record
from marey.pipeline.training.run_state import RunState
from marey.pipeline.training.single_sample import LONE, needs_two, too_small

Probe = Callable[[Encoder], dict[str, float]]
"""An evaluation of the encoder while it is trained; `chance` and `warning` may stand beside it."""


def train(
    job: Job, stream: Callable[[Position], Iterable[Sample]], probe: Probe | None = None
) -> None:
    """Train from the latest checkpoint, or from scratch, to the end of the plan or of the stream.

    A run whose plan is not used up then has no summary, and goes on from its checkpoint; so has one
    that was asked to stop (see `stopping`), after the step in hand and the one that is prepared.
    Weights that are not finite are never written: the last good checkpoint and encoder stay.

    stream: gives this process's next samples, without those that a position holds.
    probe: an evaluation of the encoder, run by rank 0 every `trainer.probe_every` steps.
    Raises MareyError when the loss or the weights stop being finite, InputError when no sample can
    be trained on or the checkpoint does not fit the method, UnfinishedError when all samples that
    are left could not be read for now.
    """
    trainer = job.config.trainer
    if own_rank() == 0:
        telling.now("building the networks")
    run = RunState(job)
    record = _begin(run, probe)
    probe_every = trainer.probe_every or math.ceil(job.total_steps() / 10)
    # losses over all processes need equal shares of each: what is left over goes to more steps
    per_round = trainer.batch_size // (world_size() * trainer.accumulate)
    begun = len(run.used.position)
    rng = np.random.default_rng([trainer.seed, own_rank(), begun])
    arriving = accepted(stream(run.used.position), run.used)
    mixed = shuffled(arriving, job.config.data.shuffle_buffer, rng)
    meter, guard = Meter(), Guard(trainer.skip_spikes)
    epoch, logged = -1, run.step
    left = job.samples - run.trained
    if record:
        telling.now("waiting for the first batch")
    steps = in_step(mixed, per_round, trainer.accumulate, left, meter.waiting, stopping.asked)
    for work in steps:
        if run.step == 0:
            with run.whole() as (method, _):
                if record:
                    record.samples(work.batches[0])
                    show(record, method, run)
        this = work.first // job.plan.samples_per_epoch
        if this > epoch:
            epoch = this
            run.method.before_epoch(Progress(run.step, run.total_steps(), epoch))
        rate = train_step(run, work, epoch, meter, guard)
        if rate is None:
            break
        progress = Progress(run.step, run.total_steps(), epoch)
        if record and run.step < trainer.log_every:
            telling.now(f"step {run.step} of {progress.total_steps}")
        if run.step % trainer.log_every == 0 or work.last:
            values = meter.take(world_size()) | _refused(run)
            if guard.factor is not None:
                values["skipped_steps"] = float(guard.skipped)
            finite = math.isfinite(values["loss"])
            if not finite and not guard.hopes():
                raise run.diverged(f"the loss is {values['loss']}{_since(meter, trainer, logged)}")
            if record and finite:
                record.metrics(progress, rate, values)
            elif record:
                record.warn(progress, f"a loss was not finite{_since(meter, trainer, logged)}")
            logged = run.step
        if run.step % probe_every == 0 or (work.last and not work.stopped):
            with run.whole() as (method, encoder):
                if record:
                    show(record, method, run)
                    _probe(record, encoder, progress, probe)
        if run.step % trainer.checkpoint_every == 0 and not work.last:
            run.checkpoint(record)
            _tell_refused(record, run)
    if not agreed(not stopping.asked()) and run.step == run.saved:
        return  # stopped before a step: all is as it was
    left_open = run.used.count_open()
    if run.step == 0 and left_open:
        raise _unfinished(run, left_open)
    if run.step == 0:
        run.used.merge()
        raise InputError(f"no sample could be trained on ({run.used.main_reasons()})")
    run.checkpoint(record, wait=True)
    _tell_refused(record, run)
    over = run.trained >= job.samples or len(run.used.position) == job.plan.total
    if not over and len(run.used.position) == begun and left_open:
        raise _unfinished(run, left_open)
    if not over and len(run.used.position) == begun:
        raise RuntimeError(f"of {job.plan.total} samples, {begun} used, the stream gave none")
    if record and over:
        record.finish(run.step, run.used.position, run.used.refused)


def _since(meter: Meter, trainer: TrainerConfig, logged: int) -> str:
    """Since when the loss is not finite; empty where another process knows it."""
    if meter.first_bad < 0:
        return ""
    return f" (since step {logged + meter.first_bad // trainer.accumulate + 1})"


def _refused(run: RunState) -> dict[str, float]:
    """Samples refused so far as metrics name them; every process asks. Of a mixture, each corpus's
    too."""
    names = [name for name, _ in run.job.members]
    counts = dict(zip(names, run.used.count_refused_of(names), strict=True))
    return {"refused": float(run.used.count_refused())} | {
        f"refused/{name}": float(count) for name, count in counts.items()
    }


def _tell_refused(record: Record | None, run: RunState) -> None:
    if record:
        record.refused(run.used.refused)


def _unfinished(run: RunState, left_open: int) -> UnfinishedError:
    return UnfinishedError(
        f"{left_open} samples that are left could not be read for now "
        f"({run.used.main_reasons()}); the same command with --resume goes on with them"
    )


def train_step(run: RunState, work: Work, epoch: int, meter: Meter, guard: Guard) -> float | None:
    """One optimiser step; returns its learning rate, or None for a last sample left alone.

    Batch norm cannot take a single sample: one that is left over at the end is refused.
    Raises SettingError where the settings leave a single sample to every round.
    """
    trainer = run.job.config.trainer
    rank = own_rank()
    rate = set_schedule(run.optimizer, trainer.optimizer, run.step, run.total_steps())
    # with the same samples all processes augment alike, so that their weights stay equal
    torch.manual_seed(_seed(trainer.seed, run.step, 0 if work.shared else rank))
    among = alone if work.shared else contextlib.nullcontext
    try:
        with among():
            forward_backward(
                run.model, run.method, work.batches, run.device, trainer.precision, meter, run.room,
                run.job.shares if run.job.members else None,
            )  # fmt: skip
    except ValueError as error:
        if not needs_two(error):
            raise
        if work.samples > 1 or not work.last:
            raise too_small(run.job.config) from error
        if rank == 0 or not work.shared:
            run.used.refuse(work.batches[0][0], LONE)
        return None
    with meter.timing("update", run.device):
        norm = clip_gradients(run.method.parameters(), trainer.optimizer.clip_norm)
        if guard.takes(norm):
            run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
    meter.note("gradient_norm", norm)
    run.step += 1
    run.trained += work.samples
    with among():
        run.method.after_step(Progress(run.step, run.total_steps(), epoch))
    if run.average is not None:
        run.average.update(run.method.exported, run.step)
    if rank == 0 or not work.shared:
        run.used.train(sample for batch in work.batches for sample in batch)
        counters.count("marey_samples_trained", sum(map(len, work.batches)))
    return rate


def _begin(run: RunState, probe: Probe | None) -> Record | None:
    """The record of a run that begins or goes on, for rank 0; the encoder before the first step is
    kept."""
    with run.whole() as (method, _):
        if own_rank() != 0:
            return None
        chance = {**method.chance, **getattr(probe, "chance", {})}
        config = run.job.config
        record = Record(
            Folder(run.job.run), run.step, chance, loggers=config.trainer.log,
            settings=config.model_dump(mode="json"),
        )  # fmt: skip
        progress = Progress(run.step, run.total_steps(), 0)
        if run.step == 0:
            record.export(method.exported, run.job.provenance | {"step": 0}, UNTRAINED)
            if probe:
                record.probe(progress, probe(method.exported))
        for text in run.warnings:
            record.warn(progress, text)
        return record


def _probe(record: Record, encoder: Encoder, progress: Progress, probe: Probe | None) -> None:
    if probe:
        record.probe(progress, probe(encoder))
        if warning := getattr(probe, "warning", ""):
            record.warn(progress, warning)


def forward_backward(
    model: nn.Module,
    method: Method,
    round_batches: list[list[Sample]],
    device: torch.device,
    precision: str,
    meter: Meter,
    room: Room | None = None,
    shares: Callable[[list[int]], dict[str, float]] | None = None,
) -> None:
    """Accumulate the gradient of the mean loss over the rounds of one step.

    room: memory that the frames of each round are put into (see `collate`). shares: further metrics
    of a batch, from the numbers of its events.
    """
    total = sum(map(len, round_batches))
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    for number, samples in enumerate(round_batches, start=1):
        last = number == len(round_batches)
        # only the last round's backward exchanges gradients
        with exchanging(model, now=last):
            with meter.timing("copy", device):
                batch = collate(samples, device, room)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                with meter.timing("augment", device), torch.no_grad():
                    batch = method.augment(batch)
                with meter.timing("forward", device):
                    values = model(batch)
            with meter.timing("backward", device):
                (values["loss"] * (len(samples) / total)).backward()
        if shares is not None:
            noted = shares([int(sample["instance"]) for sample in samples])
            values |= {name: values["loss"].new_full((), share) for name, share in noted.items()}
        meter.add(values, len(samples))


def show(record: Record, method: Method, run: RunState) -> None:
    """Record the method's pictures of the run's first samples, if it has any."""
    if not method.has_pictures:
        return
    shown = record.shown().items()
    batch = {name: torch.from_numpy(column).to(run.device) for name, column in shown}
    with evaluating(method):
        pictures = method.pictures(batch)
    record.pictures(run.step, {name: picture.cpu().numpy() for name, picture in pictures.items()})


def _seed(seed: int, step: int, rank: int) -> int:
    """The seed of one step's augmentation: a resumed run repeats the draws of that step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
