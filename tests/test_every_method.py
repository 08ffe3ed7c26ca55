"""What every preset's method promises: one contract, held for all of them."""

import pytest
import torch
from torch import Tensor

from marey.models.batch import Batch
from marey.models.method import Method, Progress
from marey.pipeline.training.optim import build_optimizer
from tests.every_method import METHOD_PRESETS, build, raw_batch, small_config
from tests.two_processes import backward, gradients, in_two_processes, parallel

WHOLE_BATCH_ONLY: set[str] = set()
"""Presets whose objective takes each process's batch alone, as their papers and pages say."""


def _augmented(method: Method, batch: Batch) -> Batch:
    torch.manual_seed(3)
    with torch.no_grad():
        return method.augment(batch)


def _finite(metrics: dict[str, Tensor], method: Method) -> None:
    assert all(torch.isfinite(value).all() for value in metrics.values()), metrics
    for name, parameter in method.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("preset", METHOD_PRESETS)
def test_a_step_gives_a_finite_loss_and_trains_the_encoder(preset: str) -> None:
    config = small_config(preset)
    method = build(config).train()
    batch = _augmented(method, raw_batch(config))
    assert "frames" not in batch
    assert {len(value) for value in batch.values()} == {len(batch["instance"])}
    metrics = method(batch)
    metrics["loss"].backward()
    _finite(metrics, method)
    assert all(value.ndim == 0 for value in metrics.values())
    assert set(method.chance) <= set(metrics)
    trained = [p for p in method.encoder.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained), "parts of the encoder are not trained"
    assert sum(p.grad.abs().sum() for p in trained) > 0


@pytest.mark.parametrize("preset", METHOD_PRESETS)
def test_methods_that_spare_what_is_alike_know_what_frames_look_like(preset: str) -> None:
    config = small_config(preset)
    method = build(config)
    spares = hasattr(config.method, "alike")
    assert ("dhash" in _augmented(method, raw_batch(config))) == spares


@pytest.mark.parametrize("preset", METHOD_PRESETS)
def test_all_randomness_lies_in_augment(preset: str) -> None:
    config = small_config(preset)
    method = build(config).eval()
    batch = _augmented(method, raw_batch(config))
    with torch.no_grad():
        losses = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            losses.append(build(config).eval()(batch)["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("preset", METHOD_PRESETS)
def test_the_order_of_samples_does_not_matter(preset: str) -> None:
    config = small_config(preset)
    batch = _augmented(build(config), raw_batch(config))
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        straight = build(config).eval()(batch)["loss"]
        mixed = build(config).eval()({key: value[order] for key, value in batch.items()})["loss"]
    torch.testing.assert_close(straight, mixed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", METHOD_PRESETS)
def test_flat_frames_and_half_precision_stay_finite(preset: str) -> None:
    config = small_config(preset)
    for gray in (False, True):
        method = build(config).train()
        raw = raw_batch(config)
        if gray:
            raw["frames"] = torch.full_like(raw["frames"], 128)
        with torch.autocast("cpu", torch.bfloat16):
            metrics = method(_augmented(method, raw))
        metrics["loss"].backward()
        _finite(metrics, method)


def _train(method: Method, optimizer: torch.optim.Optimizer, preset: str, steps: range) -> None:
    config = small_config(preset)
    for step in steps:
        if step % 2 == 0:
            method.before_epoch(Progress(step, 8, step // 2))
        loss = method(_augmented(method, raw_batch(config, seed=step)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(Progress(step + 1, 8, step // 2))


@pytest.mark.parametrize("preset", METHOD_PRESETS)
def test_a_resumed_run_equals_one_that_never_stopped(preset: str) -> None:
    config = small_config(preset)
    whole = build(config).train()
    optimizer = build_optimizer(whole, config.trainer.optimizer)
    _train(whole, optimizer, preset, range(4))
    first = build(config).train()
    optimizer = build_optimizer(first, config.trainer.optimizer)
    _train(first, optimizer, preset, range(2))
    second = build(config).train()
    restored = build_optimizer(second, config.trainer.optimizer)
    second.load_state_dict(first.state_dict())
    restored.load_state_dict(optimizer.state_dict())
    _train(second, restored, preset, range(2, 4))
    wanted, got = whole.state_dict(), second.state_dict()
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        assert torch.equal(value, got[name]), name


def _gradients(preset: str) -> dict[str, Tensor]:
    config = small_config(preset)
    batch = _augmented(build(config), raw_batch(config))
    # statistics of batch norm are the trainer's affair
    method = build(config).eval()
    loss = backward(parallel(method), batch)
    return {"loss": loss, **gradients(method)}


def _work() -> dict[str, dict[str, Tensor]]:
    return {name: _gradients(name) for name in _shared_presets()}


def _shared_presets() -> list[str]:
    return [name for name in METHOD_PRESETS if name not in WHOLE_BATCH_ONLY]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes computed on its half of the batch."""
    return in_two_processes(_work, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("preset", _shared_presets())
def test_two_processes_have_the_loss_and_gradient_of_one(ranks: list, preset: str) -> None:
    alone = _gradients(preset)
    for result in ranks:
        assert result[preset].keys() == alone.keys()
        for key, value in alone.items():
            # sums cancel to what float32 leaves of their largest terms
            rounding = 1e-5 * max(1.0, value.abs().max().item())
            torch.testing.assert_close(
                result[preset][key], value, rtol=1e-3, atol=rounding, msg=key
            )
