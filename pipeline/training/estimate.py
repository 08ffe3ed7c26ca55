"""What a run will take, before it starts: parameters, operations, memory, decoding, hours."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from marey.configs.errors import InputError, SettingError
from marey.configs.schema import RunConfig
from marey.models.method import Corpus, find_method
from marey.pipeline.data.index import Index
from marey.pipeline.data.index_files import read_table
from marey.pipeline.data.reading import Wanted
from marey.pipeline.data.source import Source, open_source
from marey.pipeline.stream.drawing import drawing_of
from marey.pipeline.stream.plan import Plan, Position, make_plan
from marey.pipeline.training.fake_step import StepCost, augmented, skeleton, step_cost
from marey.pipeline.training.job import Job
from marey.pipeline.training.single_sample import noise_sample

TFLOPS = 150.0
"""Sustained rate of one GPU that hours are reckoned with where none is given: about half of the
peak of an A100, a sixth of that of an H100, in bfloat16."""
CPU_TFLOPS = 0.05
"""The same of one process on a CPU, in float32."""
DECODE_S = 3.0
"""Time for which decoding is measured."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a whole run."""

    encoder_parameters: int
    trained_parameters: int
    steps: int
    samples: int
    batch_per_process: int
    flops_per_sample: float
    flops_per_step: float
    memory_bytes: dict[int, int]
    """Samples of a process in a forward pass -> peak bytes of tensors."""
    hours: float
    frames_per_sample: int
    frames_per_s: float
    """That decoding must deliver."""
    decoded_per_core_s: float | None
    """Frames per second of one core of this machine; None where nothing could be decoded."""
    bytes_per_epoch: int | None
    """Of all files of the corpus."""
    passes: float
    """Over the corpus."""

    @property
    def cores(self) -> float | None:
        """That decoding takes, of cores like those of this machine."""
        return self.frames_per_s / self.decoded_per_core_s if self.decoded_per_core_s else None

    def lines(self, config: RunConfig, gpus: int, tflops: float) -> list[str]:
        """What a person should read."""
        where = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else "the CPU"
        memory = ", ".join(
            f"{size} samples {size_of / 2**30:.3g} GiB"
            for size, size_of in self.memory_bytes.items()
        )
        decoding = f"decoding: {self.frames_per_sample} frames per sample, "
        decoding += f"{self.frames_per_s:,.0f} frames per second"
        if self.cores is None:
            decoding += "; no frame of the corpus could be read here, so cores are not known"
        else:
            decoding += (
                f"; a core of this machine decodes {self.decoded_per_core_s:,.0f}, so that takes "
                f"{math.ceil(self.cores)} cores"
            )
        lines = [
            f"length: {self.steps} steps of {config.trainer.batch_size} samples = "
            f"{self.samples} samples",
            f"parameters: {self.encoder_parameters / 1e6:.1f} M of the encoder, "
            f"{self.trained_parameters / 1e6:.1f} M trained",
            f"operations: {_si(self.flops_per_sample)}FLOP per sample, "
            f"{_si(self.flops_per_step)}FLOP per step",
            f"memory of tensors per process ({self.batch_per_process} samples each): {memory}",
            f"time: {self.hours:,.3g} hours on {where} at {tflops:g} TFLOP/s each (--tflops)",
            decoding,
        ]
        if self.bytes_per_epoch is not None:
            rate = self.bytes_per_epoch * self.passes / max(self.hours * 3600, 1e-9)
            lines.append(
                f"reading: {self.bytes_per_epoch / 2**30:,.3g} GiB of files, "
                f"{self.passes:.3g} passes, at most {rate / 1e6:,.3g} MB/s"
            )
        return lines

    def figures(self) -> dict[str, Any]:
        """All of it, for --json."""
        return asdict(self) | {"cores": self.cores}


def estimate(config: RunConfig, data: str, *, gpus: int, tflops: float = TFLOPS) -> Estimate:
    """What a run on this many GPUs takes (0: on the CPU, with one process).

    tflops: sustained rate of one GPU (or of the CPU). Raises SettingError where the batch does not
    divide among the GPUs, and as `prepare` does.
    """
    config = _on(config, gpus)
    source = open_source(data)
    trainer = config.trainer
    sampling = find_method(config.name).samples(config.method)
    plan = make_plan(source, sampling, seed=trainer.seed, epochs=trainer.epochs)
    if trainer.steps is not None:
        plan.epochs = -(-trainer.steps * trainer.batch_size // plan.samples_per_epoch)
    labels = source.labels()
    classes = max(labels) + 1 if labels else 0
    job = Job(config, plan, "", {}, classes)
    method = skeleton(config, Corpus(plan.samples_per_epoch, classes))
    example = augmented(method, noise_sample(plan, source, config.data.frame_shape, classes))
    share = trainer.batch_size // (trainer.workers * trainer.accumulate)
    sizes = sorted({max(2, share // 2), max(2, share), 2 * max(2, share)})
    costs = {size: step_cost(method, example, size, config) for size in sizes}
    cost = costs[max(2, share)]
    per_sample = cost.flops / cost.samples
    seconds = per_sample * job.samples / (max(1, gpus) * tflops * 1e12)
    frames = _frames(plan, source)
    return Estimate(
        encoder_parameters=sum(p.numel() for p in method.encoder.parameters()),
        trained_parameters=sum(p.numel() for p in method.parameters() if p.requires_grad),
        steps=job.total_steps(),
        samples=job.samples,
        batch_per_process=share,
        flops_per_sample=per_sample,
        flops_per_step=per_sample * trainer.batch_size,
        memory_bytes={size: _with_buckets(one, method, gpus) for size, one in costs.items()},
        hours=seconds / 3600,
        frames_per_sample=frames,
        frames_per_s=frames * job.samples / max(seconds, 1e-9),
        decoded_per_core_s=decode_rate(plan, source, config.data.frame_shape),
        bytes_per_epoch=_corpus_bytes(source),
        passes=job.samples / plan.samples_per_epoch,
    )


def _si(number: float) -> str:
    """A large number with a prefix: 1.23 T."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number / 1e6:.3g} M"


def _on(config: RunConfig, gpus: int) -> RunConfig:
    """The settings of a run on so many GPUs. Raises SettingError where they do not divide it."""
    trainer = config.trainer
    if gpus and trainer.batch_size % (gpus * trainer.accumulate):
        raise SettingError(
            f"trainer.batch_size ({trainer.batch_size}) must be a multiple of --gpus x "
            f"trainer.accumulate ({gpus * trainer.accumulate}): give another number of GPUs, or "
            "trainer.batch_size=..."
        )
    now = {"workers": max(1, gpus)} if gpus else {"device": "cpu", "workers": 1}
    return config.model_copy(update={"trainer": trainer.model_copy(update=now)})


def _with_buckets(cost: StepCost, method: Any, gpus: int) -> int:
    """Several processes exchange gradients through buckets, which are a second copy of them."""
    if gpus < 2:
        return cost.peak_bytes
    trained = (p for p in method.parameters() if p.requires_grad)
    return cost.peak_bytes + sum(p.numel() * p.element_size() for p in trained)


def _frames(plan: Plan, source: Source) -> int:
    """Frames of a sample."""
    first = next(iter(plan.samples(next(plan.units(Position())), source)))[0]
    return len(first.request.times_s)


def decode_rate(plan: Plan, source: Source, shape: tuple[int, int]) -> float | None:
    """Frames per CPU second, measured on the plan's first events; None where none can be read."""
    frames, begun, used = 0, time.monotonic(), time.process_time()
    drawing = drawing_of(source, plan.sampling, plan.seed)
    for unit in plan.units(Position()):
        for visit, samples in drawing.samples(plan.work(unit, source, Position())):
            wanted = [
                Wanted(visit.event, one.request.views, one.request.times_s) for one in samples
            ]
            read = source.reader.read(wanted, shape)
            whole = sum(lack is None for lack in read.lacks)
            frames += whole * read.frames.shape[1]
            if time.monotonic() - begun > DECODE_S:
                return frames / max(time.process_time() - used, 1e-6) if frames else None
    return frames / max(time.process_time() - used, 1e-6) if frames else None


def _corpus_bytes(source: Source) -> int | None:
    """Bytes of all files of an index; None for other layouts, and where they are not known."""
    if not isinstance(source, Index):
        return None
    try:
        table = read_table(source.location, ["bytes"])
    except InputError:  # an index that lies in no file
        return None
    return int(np.nansum(table["bytes"].to_numpy().astype(np.float64)))
