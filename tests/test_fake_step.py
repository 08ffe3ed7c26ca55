"""What a run takes, told before it starts: fake tensors against a real step of small presets."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from marey.configs.errors import MareyError, SettingError
from marey.configs.load import preset_with, run_config
from marey.configs.schema import RunConfig
from marey.models.method import Corpus, find_method
from marey.pipeline.training.estimate import estimate
from marey.pipeline.training.fake_step import (
    StepCost,
    TensorMemory,
    attention_of_cpus,
    augmented,
    skeleton,
    step_cost,
)
from marey.pipeline.training.job import build_method
from marey.pipeline.training.optim import build_optimizer
from tests.corpora import encode_corpus
from tests.every_method import CLASSES, METHOD_PRESETS, raw_batch, small_config

SIZE = 6
CORPUS = Corpus(64, CLASSES)


def _real_step(config) -> tuple[int, int]:
    """Operations and peak bytes of a real second step (the optimiser has its state by then)."""
    method = build_method(config)
    method.prepare(CORPUS)
    method.train()
    optimizer = build_optimizer(method, config.trainer.optimizer, method.constant_lr)
    with torch.no_grad():
        batch = method.augment(raw_batch(config, samples=SIZE))
    peak = operations = 0
    for _ in range(2):
        there = [*method.parameters(), *method.buffers(), *batch.values()]
        there += [t for state in optimizer.state.values() for t in state.values()
                  if isinstance(t, torch.Tensor)]  # fmt: skip
        memory = TensorMemory(sum(t.untyped_storage().nbytes() for t in there))
        counter = FlopCounterMode(display=False, custom_mapping=attention_of_cpus())
        with memory, counter:
            method(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        peak, operations = memory.peak, counter.get_total_flops()
    return operations, peak


def _fake_step(config: RunConfig) -> StepCost:
    method = skeleton(config, CORPUS)
    return step_cost(method, augmented(method, raw_batch(config, samples=1)), SIZE, config)


def _on_the_cpu(name: str):
    config = small_config(name)
    trainer = config.trainer.model_copy(update={"device": "cpu", "precision": "fp32"})
    return config.model_copy(update={"trainer": trainer})


@pytest.mark.parametrize("name", ["videomae", "moco_v2", "tcn_single", "clip_byol", "dino"])
def test_a_fake_step_costs_what_a_real_one_does(name: str) -> None:
    config = _on_the_cpu(name)
    method = skeleton(config, CORPUS)
    cost = step_cost(method, augmented(method, raw_batch(config, samples=1)), SIZE, config)
    operations, peak = _real_step(config)
    assert cost.flops == pytest.approx(operations, rel=0.15)
    assert cost.peak_bytes == pytest.approx(peak, rel=0.15)
    built = build_method(config)
    count = sum(p.numel() for p in built.parameters())
    assert sum(p.numel() for p in method.parameters()) == count


UNKNOWN = ("local_aggregation", "masked_frames", "masked_tokens")
"""Their steps depend on what their networks have learned."""


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_told_before_is_said(name: str) -> None:
    with pytest.raises(MareyError, match="cannot be told before"):
        _fake_step(_on_the_cpu(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHOD_PRESETS if name not in UNKNOWN])
def test_every_preset_can_be_estimated(name: str) -> None:
    config = _on_the_cpu(name)
    method = skeleton(config, CORPUS)
    cost = step_cost(method, augmented(method, raw_batch(config, samples=1)), SIZE, config)
    operations, peak = _real_step(config)
    assert cost.flops == pytest.approx(operations, rel=0.15)
    assert cost.peak_bytes == pytest.approx(peak, rel=0.15)


def test_the_counter_sees_what_the_allocator_of_torch_sees() -> None:
    layers = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(4)])
    inputs = torch.randn(512, 256)
    memory = TensorMemory()
    with memory:
        layers(inputs).square().mean().backward()
    layers.zero_grad(set_to_none=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        layers(inputs).square().mean().backward()
    assert profile.profiler is not None
    results: Any = profile.profiler.kineto_results
    events = [e for e in results.events() if e.name() == "[memory]"]
    total = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    assert memory.peak == pytest.approx(total.max(), rel=0.05)


def test_an_estimate_of_a_corpus(tmp_path) -> None:
    index = str(encode_corpus(tmp_path / "videos", events=2))
    tree = preset_with(
        "simclr", ["trainer.steps=5", "trainer.batch_size=8", "encoder.image_size=32"]
    )
    config = run_config(tree, find_method("simclr").Config)
    found = estimate(config, index, gpus=2, tflops=1.0)
    assert found.steps == 5
    assert found.batch_per_process == 4
    assert set(found.memory_bytes) == {2, 4, 8}
    assert found.memory_bytes[8] > found.memory_bytes[4] > found.memory_bytes[2]
    assert found.flops_per_step == pytest.approx(8 * found.flops_per_sample)
    assert found.hours == pytest.approx(found.flops_per_sample * 40 / 2e12 / 3600)
    assert found.decoded_per_core_s is not None
    assert math.isclose(found.frames_per_s * found.hours * 3600, 40, rel_tol=1e-6)
    assert found.bytes_per_epoch is not None
    assert found.bytes_per_epoch > 0
    lines = found.lines(config, 2, 1.0)
    assert any("2 GPUs" in line for line in lines)
    assert any("cores" in line for line in lines)
    with pytest.raises(SettingError, match="multiple of --gpus"):
        estimate(config, index, gpus=3)
