"""How fast is each recipe's step on one large GPU, and how much memory does it take?

    python -m benchmarks.gpu [RECIPE ...] [--seconds 8] [--peak-tflops 989] [--json FILE] [--tests]
    python -m benchmarks.gpu --tiny            # a few small presets on the CPU, in seconds

Needs torch, timm, torchvision, pydantic, pyyaml, numpy and pyarrow, and no Ray. For each recipe:
the largest batch that fits (doubled until it does not), samples per second with the augmentation of
the batch and without, share of the GPU's peak operations, peak memory; with `--compile` the same
compiled. Beside them in the same run, where installed, Hugging Face's VideoMAE-B (lightly's SimCLR
and MoCo v2 are in `benchmarks.train_step`). With `--tests` all tests marked `gpu` are run last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from marey.configs.load import override, read_preset, run_config
from marey.configs.recipes import published
from marey.configs.schema import RunConfig
from marey.models.batch import Batch
from marey.models.encoders.recompute import recompute_blocks
from marey.models.method import Corpus, Method, Progress, find_method
from marey.pipeline.data.events import Event, Video
from marey.pipeline.sampling import build_sampler, event_rng
from marey.pipeline.training.fake_step import attention_of_cpus
from marey.pipeline.training.job import build_method
from marey.pipeline.training.optim import build_optimizer

TINY = ("videomae", "moco_v2")
"""Small presets that stand for all with `--tiny`."""
PEAK_TFLOPS = 989.0
"""Of an H100 or H200 in dense bfloat16 (NVIDIA's data sheet)."""
PLACES = 100_000
"""Rows of memory banks."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured step."""

    name: str
    how: str
    batch: int
    samples_per_s: float
    with_augmentation: float
    """Samples per second, the augmentation of the batch included."""
    share_of_peak: float
    memory_gib: float


def main(words: list[str] | None = None) -> list[Row]:
    """Measure and print; returns the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--tiny", action="store_true", help="small presets, on any device")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each measurement")
    parser.add_argument("--largest", type=int, default=1024, help="samples in a step at most")
    parser.add_argument("--peak-tflops", type=float, default=PEAK_TFLOPS)
    parser.add_argument("--compile", action="store_true", help="measure compiled steps too")
    parser.add_argument("--recompute", action="store_true", help="with activation checkpointing")
    parser.add_argument("--tests", action="store_true", help="run the tests marked gpu")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    options = parser.parse_args(words)
    if not torch.cuda.is_available() and not options.tiny:
        parser.error("no GPU is seen by torch; --tiny runs on the CPU")
    if options.tiny:
        options.seconds, options.largest = min(options.seconds, 0.5), 4
    rows: list[Row] = []
    print(f"{torch.__version__}, {device_name()}")
    print(f"{'recipe':<22}{'how':<10}{'batch':>6}{'samples/s':>11}{'augmented':>11}"
          f"{'of peak':>9}{'GiB':>7}")  # fmt: skip
    for name in options.recipes or (TINY if options.tiny else published()):
        for row in measured(name, options):
            rows.append(row)
            print(f"{row.name:<22}{row.how:<10}{row.batch:>6}{row.samples_per_s:>11.1f}"
                  f"{row.with_augmentation:>11.1f}{row.share_of_peak:>9.1%}{row.memory_gib:>7.1f}",
                  flush=True)  # fmt: skip
    for name, step, batch in peers(options.tiny):
        speed = batch / seconds_of(step, options.seconds)
        print(f"{name:<32}{batch:>6}{speed:>11.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if options.tests:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"], check=True)
    return rows


def device() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """What it is called."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def measured(name: str, options: argparse.Namespace) -> Iterator[Row]:
    """A recipe's rows: as it is, and compiled."""
    tree = override(read_preset(name), [])
    config = run_config(tree, find_method(tree["name"]).Config)
    step = Step(config, recompute=options.recompute)
    batch = largest_batch(step, options.largest)
    if batch is None:
        print(f"{name:<22}not even two samples fit")
        return
    yield step.row(name, "eager", batch, options)
    if options.compile:
        step.method.compile()
        yield step.row(name, "compiled", batch, options)


class Step:
    """A recipe's method and optimiser on the device, and its step on a made-up batch."""

    def __init__(self, config: RunConfig, *, recompute: bool = False) -> None:
        self.config = config
        self.method: Method = build_method(config)
        self.method.prepare(Corpus(PLACES, 10))
        if recompute:
            recompute_blocks(self.method.encoder)
        self.method.to(device()).train()
        steady = self.method.constant_lr
        self.optimizer = build_optimizer(self.method, config.trainer.optimizer, steady)

    def augmented(self, batch: Batch) -> Batch:
        """What the network sees of a batch."""
        with torch.no_grad():
            return self.method.augment(dict(batch))

    def run(self, batch: Batch) -> None:
        """One step of the optimiser on an augmented batch."""
        kind = device().type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            loss = self.method(batch)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(Progress(1, 100, 0))

    def row(self, name: str, how: str, batch: int, options: argparse.Namespace) -> Row:
        """Measure it."""
        raw = raw_batch(self.config, batch)
        seen = self.augmented(raw)
        counter = FlopCounterMode(display=False, custom_mapping=attention_of_cpus())
        if how == "eager":
            with counter:
                self.run(seen)
            self.operations = counter.get_total_flops()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        alone = seconds_of(lambda: self.run(seen), options.seconds)
        whole = seconds_of(lambda: self.run(self.augmented(raw)), options.seconds)
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        share = self.operations / alone / (options.peak_tflops * 1e12)
        return Row(name, how, batch, batch / alone, batch / whole, share, memory / 2**30)


def largest_batch(step: Step, most: int) -> int | None:
    """The largest power of two of samples, from 2 to `most`, with which a step fits into memory."""
    fits, size = None, 2
    while size <= most:
        try:
            step.run(step.augmented(raw_batch(step.config, size)))
        except torch.OutOfMemoryError:
            step.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            break
        fits, size = size, 2 * size
    return fits


def raw_batch(config: RunConfig, samples: int) -> Batch:
    """A batch as it arrives, on the device: the sampler's plan on made-up rows, frames of noise."""
    sampling = find_method(config.name).samples(config.method)
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"instance": np.arange(samples), "place": np.arange(samples)}
    plans = [
        build_sampler(sampling).plan(made_up_event(number), event_rng(0, 0, str(number)))[0]
        for number in range(samples)
    ]
    for name in plans[0].targets:
        columns[name] = np.stack([plan.targets[name] for plan in plans])
    length = len(plans[0].times_s)
    shape = (samples, length, *config.data.frame_shape, 3)
    columns["frames"] = rng.integers(0, 256, shape, dtype=np.uint8)
    columns["class_id"] = rng.integers(0, 10, samples)
    return {name: torch.from_numpy(np.asarray(t)).to(device()) for name, t in columns.items()}


def made_up_event(number: int) -> Event:
    """Two views of ten minutes that stand for no file: samplers look at rows only."""
    videos = tuple(
        Video(
            video_id=f"{number}.{view}", uri="", event=str(number), view=str(view), label="",
            clock_offset_s=0.0, clock_rate=1.0, duration_s=600.0, fps=30.0, frames=18_000,
            width=340, height=256, stream=0, motion=np.ones(4, np.float32), motion_hz=2.0,
            cuts=(), status="ok",
        )
        for view in range(2)
    )  # fmt: skip
    return Event(str(number), videos)


def seconds_of(step: Callable[[], object], budget_s: float) -> float:
    """Seconds of one call, the mean of as many as fit into the budget after two to warm up."""
    for _ in range(2):
        step()
    _wait()
    begun, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - begun < budget_s:
        step()
        calls += 1
    _wait()
    return (time.perf_counter() - begun) / calls


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peers(tiny: bool) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Steps of others' code, where it is installed: name, step, samples."""
    try:
        from transformers import VideoMAEConfig, VideoMAEForPreTraining
    except ImportError:
        print("transformers is not installed: its VideoMAE is left out")
        return
    sizes: dict[str, Any] = {"norm_pix_loss": True}
    if tiny:
        sizes |= {"image_size": 32, "num_frames": 4, "hidden_size": 48, "num_hidden_layers": 1,
                  "num_attention_heads": 4, "decoder_num_hidden_layers": 1,
                  "decoder_hidden_size": 24, "decoder_num_attention_heads": 2}  # fmt: skip
    config: Any = VideoMAEConfig(**sizes)
    model: Any = VideoMAEForPreTraining(config)
    model.to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch = 2 if tiny else 32
    side, frames = config.image_size, config.num_frames
    clips = torch.randn(batch, frames, 3, side, side, device=device())
    places, times = (side // config.patch_size) ** 2, frames // config.tubelet_size
    hidden = torch.zeros(batch, places, dtype=torch.bool)
    hidden[:, : int(0.9 * places)] = True
    mask = hidden.repeat(1, times).to(device())

    def step() -> Tensor:
        with torch.autocast(device().type, torch.bfloat16, enabled=device().type == "cuda"):
            loss = model(clips, bool_masked_pos=mask).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    yield "transformers VideoMAE-B", step, batch


if __name__ == "__main__":
    main()
