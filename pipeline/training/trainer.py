"""THE trainer: one loop for every method, in one process or under Ray Train.

It never names a method. Read `train` from top to bottom.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from marey.configs.errors import InputError, MareyError
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
from marey.pipeline.training.checkpoint import load_state, save_state
from marey.pipeline.training.lockstep import Used, accepted, in_step
from marey.pipeline.training.optim import build_optimizer, set_schedule
from marey.pipeline.training.record import UNTRAINED, Record


@dataclass(frozen=True, slots=True)
class Job:
    """All that a training process needs to know, beside its samples."""

    config: RunConfig
    plan: Plan
    run: str
    provenance: dict[str, Any]
    classes: int = 0
    """Classes that the data have labels of."""

    @property
    def corpus(self) -> Corpus:
        """What the method may know of the data."""
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
        if not step:
            return -(-self.samples // self.config.trainer.batch_size)
        return max(step, -(-step * self.samples // trained))


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
    """Train from the latest checkpoint, or from nothing, to the end of the plan or of the stream.

    A run whose plan is not used up then has no summary, and goes on from its checkpoint.

    stream: gives this process's next samples, without those that a position holds.
    probe: an evaluation of the encoder, run now and then by rank 0.
    """
    rank, world = own_rank(), world_size()
    trainer = job.config.trainer
    device = training_device(trainer.device)
    # losses that see all processes' samples need as many from each: what is over goes to more steps
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
    average = _average(method.encoder, trainer.ema)
    encoder = method.exported if average is None else cast(Encoder, average.module)
    state = load_state(Folder(job.run))
    used, step = Used(state), 0
    trained, begun = used.trained, len(used.position)
    if state is not None:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        step = int(state["step"])
    del state  # a memory bank alone can be gigabytes
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

    def checkpoint() -> None:
        used.merge()
        if record:
            content = {
                "method": method.state_dict(),
                "optimizer": optimizer.state_dict(),
                "refused": dict(used.refused),
            }
            if average is not None:
                content["average"] = average.state_dict()
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
        # processes that hold the same samples draw alike, so that all of them stay the same
        torch.manual_seed(_seed(trainer.seed, step, 0 if work.shared else rank))
        among = alone if work.shared else contextlib.nullcontext
        with among():
            forward_backward(model, method, work.batches, device, trainer.precision, meter)
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
            average.update_parameters(method.encoder)
        if rank == 0 or not work.shared:
            used.train(sample for batch in work.batches for sample in batch)
        if step % trainer.log_every == 0 or work.last:
            values = meter.take(world, step) | {"refused": float(used.count_refused())}
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
    checkpoint()
    if step == 0:
        raise InputError(f"no sample could be read ({used.main_reasons()})")
    over = trained >= job.samples or len(used.position) == job.plan.total
    if not over and len(used.position) == begun:
        raise RuntimeError(f"of {job.plan.total} samples, {begun} used, the stream gave none")
    if record and over:
        record.finish(step, used.position, used.refused)


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


def show(record: Record, step: int, method: Method, device: torch.device) -> None:
    """Record what the method shows of the run's first samples, where it shows anything."""
    if not method.has_pictures:
        return
    batch = {name: torch.from_numpy(column).to(device) for name, column in record.shown().items()}
    with evaluating(method):
        pictures = method.pictures(batch)
    record.pictures(step, {name: picture.cpu().numpy() for name, picture in pictures.items()})


def collate(samples: list[Sample], device: torch.device) -> dict[str, Tensor]:
    """Samples to one batch of tensors on the device; frames stay uint8 [B, F, H, W, 3].

    For a GPU they are stacked where it can read them by itself, while the host goes on.
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


class Meter:
    """Sums of metrics, and of the time spent waiting for data, since the last log line."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._samples = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    def add(self, values: dict[str, Tensor], samples: int) -> None:
        """Add one round's values, without waiting for the device."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums.get(name, 0) + value * samples
        self._samples += samples

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def take(self, world: int, step: int) -> dict[str, float]:
        """Means over samples and processes since the last call, samples/s, share of waiting.

        Raises MareyError when the loss is not a finite number.
        """
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] for name in names]) / self._samples
        elapsed = time.perf_counter() - self._started
        if world > 1:
            dist.all_reduce(means)
            means /= world
        values = dict(zip(names, means.tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            raise MareyError(
                f"the loss is {values['loss']} at step {step}; lower trainer.optimizer.lr, or set "
                "trainer.optimizer.clip_norm=1"
            )
        values["samples_per_s"] = self._samples * world / elapsed
        values["data_wait"] = self._waited / elapsed
        self._clear()
        return values


def _average(encoder: Encoder, keep: float | None) -> AveragedModel | None:
    """A running average of the encoder's weights and statistics, if one is wanted."""
    if keep is None:
        return None
    return AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(keep), use_buffers=True)


def training_device(wanted: str) -> torch.device:
    """Where this process trains, of `trainer.device`. Raises MareyError where there is no GPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MareyError("trainer.device=cuda, but torch sees no CUDA device (`marey doctor`)")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _seed(seed: int, step: int, rank: int) -> int:
    """The seed of one step's augmentation, so that a resumed step draws as the first did."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
