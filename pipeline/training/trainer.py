"""THE trainer: one loop for every method, in one process or under Ray Train.

It never names a method. Read `train` from top to bottom.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from marey.configs.errors import InputError, MareyError, SettingError
from marey.configs.schema import RunConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.modes import evaluating
from marey.models.encoders.small_maps import suit_small_maps
from marey.models.method import Corpus, Method, Progress, methods
from marey.models.objectives.distributed import alone, world_size
from marey.models.objectives.distributed import rank as own_rank
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.graph import Sample, shuffled
from marey.pipeline.stream.plan import Plan, Position
from marey.pipeline.training.checkpoint import is_finite, load_state, save_state, weights
from marey.pipeline.training.lockstep import Used, accepted, agreed, in_step
from marey.pipeline.training.meter import Meter
from marey.pipeline.training.optim import build_optimizer, restore, set_schedule
from marey.pipeline.training.record import UNTRAINED, Record
from marey.pipeline.training.weight_average import WeightAverage

LONE = "a single sample was left over, and batch norm needs two"
"""Why a sample was not trained on: a batch of it alone has no variance."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a training process needs, except its samples."""

    config: RunConfig
    plan: Plan
    run: str
    provenance: dict[str, Any]
    classes: int = 0
    """Classes that the data have labels of."""

    @property
    def corpus(self) -> Corpus:
        """What the method is told of the data."""
        return Corpus(places=self.plan.samples_per_epoch, classes=self.classes)

    @property
    def samples(self) -> int:
        """Samples that the whole run trains on, if none is refused."""
        trainer = self.config.trainer
        return trainer.steps * trainer.batch_size if trainer.steps else self.plan.total

    def total_steps(self, step: int = 0, trained: int = 0) -> int:
        """Optimiser steps of the whole run, if those to come are like those so far.

        step: steps done; trained: samples that they had. They are fewer than whole batches where
        an elastic run has a number of workers that its batch does not divide among.
        """
        trainer = self.config.trainer
        samples, round_size = self.samples, trainer.batch_size // trainer.accumulate
        if round_size > trainer.workers and samples % trainer.batch_size == 1 < samples:
            samples -= 1  # it joins the step before it (see `in_step`)
        if not step:
            return -(-samples // trainer.batch_size)
        return max(step, -(-step * samples // trained))


def build_method(config: RunConfig) -> Method:
    """Encoder and method with the weights of the run's seed."""
    torch.manual_seed(config.trainer.seed)
    return methods()[config.name](Encoder(config.encoder), config.method)


def synchronised(method: Method) -> Method:
    """The method with batch statistics of all processes, unless it needs each one's own."""
    if method.local_batch_norm:
        return method
    return cast(Method, nn.SyncBatchNorm.convert_sync_batchnorm(method))


def train(
    job: Job,
    stream: Callable[[Position], Iterable[Sample]],
    probe: Callable[[Encoder], dict[str, float]] | None = None,
) -> None:
    """Train from the latest checkpoint, or from scratch, to the end of the plan or of the stream.

    A run whose plan is not used up then has no summary, and goes on from its checkpoint. Weights
    that are not finite are never written: the last good checkpoint and encoder stay.

    stream: gives this process's next samples, without those that a position holds.
    probe: an evaluation of the encoder, run by rank 0 every `trainer.probe_every` steps.
    Raises MareyError when the loss or the weights stop being finite, InputError when no sample can
    be trained on or the checkpoint does not fit the method.
    """
    rank, world = own_rank(), world_size()
    trainer = job.config.trainer
    device = training_device(trainer.device)
    # losses over all processes need equal shares of each: what is left over goes to more steps
    per_round = trainer.batch_size // (world * trainer.accumulate)

    method = build_method(job.config)
    method.prepare(job.corpus)
    if world > 1 and device.type == "cuda" and trainer.sync_batch_norm:
        method = synchronised(method)
    method = method.to(device).train()
    if device.type == "cpu":
        for part in method.modules():
            if isinstance(part, Encoder):
                suit_small_maps(part)
    optimizer = build_optimizer(method, trainer.optimizer, method.constant_lr)
    state = load_state(Folder(job.run))
    used, step, warnings = Used(state), 0, []
    trained, begun = used.trained, len(used.position)
    average_state = None
    if state is not None:
        step, warnings = int(state["step"]), state["passed_over"]
        restore_networks(job, method, optimizer, state)
        average_state = state.get("average")
    saved = step
    average = WeightAverage(method.exported, trainer.ema) if trainer.ema is not None else None
    if average is not None and average_state is not None:
        average.load_state_dict(average_state)
    encoder = method.exported if average is None else average.encoder
    del state, average_state  # a memory bank alone can be gigabytes
    model: nn.Module = method
    if world > 1:
        model = DistributedDataParallel(
            method, device_ids=[device] if device.type == "cuda" else None
        )
    if trainer.compile:
        model.compile()
    chance = {**method.chance, **getattr(probe, "chance", {})}
    record = Record(Folder(job.run), step, chance) if rank == 0 else None
    probe_every = trainer.probe_every or math.ceil(job.total_steps() / 10)
    if record and step == 0:
        record.export(method.exported, job.provenance | {"step": 0}, UNTRAINED)
        if probe:
            record.probe(Progress(0, job.total_steps(), 0), probe(method.exported))
    for text in warnings if record else ():
        record.warn(Progress(step, job.total_steps(step, trained), 0), text)  # pyright: ignore

    def checkpoint() -> None:
        content: dict[str, Any] = {
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        if average is not None:
            content["average"] = average.state_dict()
        states = [dict(method.named_parameters()), content["optimizer"]]
        states += [weights(content[name]) for name in ("method", "average") if name in content]
        if not agreed(is_finite(states)):
            raise diverged("the weights are not finite", step, saved)
        used.merge()
        if record:
            content["refused"] = dict(used.refused)
            save_state(Folder(job.run), step, content, used.position)
            record.export(encoder, job.provenance | {"step": step})
        if world > 1:
            dist.barrier()

    meter = Meter()
    epoch = -1
    rng = np.random.default_rng([trainer.seed, rank, len(used.position)])
    arriving = accepted(stream(used.position), used)
    mixed = shuffled(arriving, job.config.data.shuffle_buffer, rng)
    left = job.samples - trained
    for work in in_step(mixed, per_round, trainer.accumulate, left, meter.waiting):
        if record and step == 0:
            record.samples(work.batches[0])
            show(record, step, method, device)
        total = job.total_steps(step, trained)
        progress = Progress(step, total, work.first // job.plan.samples_per_epoch)
        if progress.epoch > epoch:
            epoch = progress.epoch
            method.before_epoch(progress)
        rate = set_schedule(optimizer, trainer.optimizer, step, total)
        # with the same samples all processes augment alike, so that their weights stay equal
        torch.manual_seed(_seed(trainer.seed, step, 0 if work.shared else rank))
        among = alone if work.shared else contextlib.nullcontext
        try:
            with among():
                forward_backward(model, method, work.batches, device, trainer.precision, meter)
        except ValueError as error:
            if not needs_two(error):
                raise
            if work.samples > 1 or not work.last:
                raise too_small(job.config) from error
            if rank == 0 or not work.shared:
                used.refuse(work.batches[0][0], LONE)
            break
        if trainer.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(method.parameters(), trainer.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        trained += work.samples
        progress = Progress(step, job.total_steps(step, trained), epoch)
        with among():
            method.after_step(progress)
        if average is not None:
            average.update(method.exported, step)
        if rank == 0 or not work.shared:
            used.train(sample for batch in work.batches for sample in batch)
        if step % trainer.log_every == 0 or work.last:
            values = meter.take(world) | {"refused": float(used.count_refused())}
            if not math.isfinite(values["loss"]):
                raise diverged(f"the loss is {values['loss']}", step, saved)
            if record:
                record.metrics(progress, rate, values)
        if record and (step % probe_every == 0 or work.last):
            show(record, step, method, device)
            if probe:
                record.probe(progress, probe(encoder))
                if warning := getattr(probe, "warning", ""):
                    record.warn(progress, warning)
        if step % trainer.checkpoint_every == 0 and not work.last:
            checkpoint()
            saved = step
    if step == 0:
        used.merge()
        raise InputError(f"no sample could be trained on ({used.main_reasons()})")
    checkpoint()
    over = trained >= job.samples or len(used.position) == job.plan.total
    if not over and len(used.position) == begun:
        raise RuntimeError(f"of {job.plan.total} samples, {begun} used, the stream gave none")
    if record and over:
        record.finish(step, used.position, used.refused)


def restore_networks(
    job: Job, method: Method, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Load a checkpoint. Raises InputError where it is not of this method as it is built now."""
    try:
        method.load_state_dict(state["method"])
        restore(optimizer, state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the checkpoint of step {state['step']} in {job.run} (marey "
            f"{state.get('marey', 'of an older version')}) does not fit {job.config.name} as this "
            f"version builds it: {reason}; start a new run with another -o"
        ) from error


def forward_backward(
    model: nn.Module,
    method: Method,
    round_batches: list[list[Sample]],
    device: torch.device,
    precision: str,
    meter: Meter,
) -> None:
    """Accumulate the gradient of the mean loss over the rounds of one step."""
    total = sum(map(len, round_batches))
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    for number, samples in enumerate(round_batches, start=1):
        last = number == len(round_batches)
        # only the last round's backward exchanges gradients
        waits = isinstance(model, DistributedDataParallel) and not last
        quiet = model.no_sync() if waits else contextlib.nullcontext()  # pyright: ignore
        with quiet:
            batch = collate(samples, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                with torch.no_grad():
                    batch = method.augment(batch)
                values = model(batch)
            (values["loss"] * (len(samples) / total)).backward()
        meter.add(values, len(samples))


def diverged(what: str, step: int, saved: int) -> MareyError:
    """The error of a run whose loss or weights are not finite; `saved`: its last checkpoint."""
    advice = "a lower trainer.optimizer.lr, or trainer.optimizer.clip_norm=1"
    if not saved:
        return MareyError(f"{what} at step {step}; begin again in the same -o with {advice}")
    return MareyError(
        f"{what} at step {step}; the checkpoint and the encoder of step {saved} are good and were "
        f"kept: go on from there with --resume and {advice}"
    )


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


def show(record: Record, step: int, method: Method, device: torch.device) -> None:
    """Record the method's pictures of the run's first samples, if it has any."""
    if not method.has_pictures:
        return
    batch = {name: torch.from_numpy(column).to(device) for name, column in record.shown().items()}
    with evaluating(method):
        pictures = method.pictures(batch)
    record.pictures(step, {name: picture.cpu().numpy() for name, picture in pictures.items()})


def collate(samples: list[Sample], device: torch.device) -> dict[str, Tensor]:
    """Stack samples into a batch of tensors on the device; frames stay uint8 [B, F, H, W, 3].

    For a GPU through pinned memory, so that the copy is asynchronous.
    """
    batch = {}
    for name in samples[0]:
        if name in ("sample", "refused"):
            continue
        columns = [np.asarray(sample[name]) for sample in samples]
        kind = torch.from_numpy(np.empty(0, columns[0].dtype)).dtype
        shape = (len(columns), *columns[0].shape)
        stacked = torch.empty(shape, dtype=kind, pin_memory=device.type == "cuda")
        np.stack(columns, out=stacked.numpy())
        batch[name] = stacked.to(device, non_blocking=True)
    return batch


def training_device(wanted: str) -> torch.device:
    """Where this process trains, of `trainer.device`. Raises MareyError where there is no GPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MareyError("trainer.device=cuda, but torch sees no CUDA device (`marey doctor`)")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _seed(seed: int, step: int, rank: int) -> int:
    """The seed of one step's augmentation: a resumed run repeats the draws of that step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
