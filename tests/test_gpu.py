"""Would it run on a GPU? Every tensor where it belongs, and no step that waits for the device."""

import contextlib
import warnings

import numpy as np
import pytest
import torch

import marey.pipeline.training.trainer as loop
from marey.models.method import Progress
from marey.pipeline.embedding.embed import embed
from marey.pipeline.evaluate.finetune_network import fine_tune
from marey.pipeline.evaluate.propagation import propagate
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.optim import build_optimizer
from marey.pipeline.training.pretext import pretext
from marey.trackers import build as build_tracker
from tests.corpora import encode_corpus
from tests.every_method import METHOD_PRESETS, build, raw_batch, small_config
from tests.far_device import CUDA, Far, far_device
from tests.test_evaluate_finetune import make_encoder, stripes
from tests.test_evaluate_propagation import moving_maps, start
from tests.test_train import make_config
from tests.tracked_scenes import moving_square

WAITS = {
    "local_aggregation": 1,  # whether there are clusters yet
    "masked_frames": 5,  # the vocabulary, in each of its first steps
    "masked_tokens": 5,
}
"""How many lines of a method's step, at most, make the host wait for the device."""


def test_the_stand_in_refuses_what_a_gpu_would() -> None:
    with far_device() as waits:
        there, here = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
        label = torch.tensor([0, 1, 2])
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([here, there]),
            lambda: torch.nn.functional.cross_entropy(there, label),
            lambda: there.gather(1, label[:, None]),
            lambda: torch.nn.Linear(3, 3)(there),
        ):
            with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        layer = torch.nn.Linear(3, 3).to("cuda")
        layer(there).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.device == there[label].device == (there + 1).device == CUDA
        assert not waits
        assert there.sum().item() == 9
        assert there[there > 0].cpu().device.type == "cpu"
        assert len(waits) == 2


@pytest.mark.parametrize("preset", METHOD_PRESETS)
def test_a_step_keeps_to_the_device_and_never_waits(preset: str) -> None:
    config = small_config(preset)
    method = build(config)
    wanted = _losses(build(config).train(), config, "cpu")
    with far_device() as waits:
        found = _losses(method.to("cuda").train(), config, "cuda")
        lines = {line for line in waits if line.startswith("models/")}
    assert all(isinstance(loss, Far) for loss in found)
    assert [loss.cpu().tolist() for loss in found] == [loss.tolist() for loss in wanted]
    assert len(lines) <= WAITS.get(preset, 0), lines


def _losses(method, config, device) -> list[torch.Tensor]:
    """Of two steps, after which the weights are still on the device."""
    optimizer = build_optimizer(method, config.trainer.optimizer)
    method.before_epoch(Progress(0, 8, 0))
    losses = []
    for step in range(2):
        torch.manual_seed(step)
        raw = raw_batch(config, seed=step)
        with torch.no_grad():
            batch = method.augment({name: column.to(device) for name, column in raw.items()})
        assert {column.device.type for column in batch.values()} == {device}
        losses.append(method(batch)["loss"])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(Progress(step + 1, 8, 0))
    assert {tensor.device.type for tensor in method.state_dict().values()} == {device}
    return [loss.detach() for loss in losses]


@pytest.mark.parametrize("preset", ["mono_depth", "stereo_depth"])
def test_pictures_are_made_on_the_device(preset: str) -> None:
    config = small_config(preset)
    with far_device(), torch.no_grad():
        method = build(config).to("cuda").eval()
        raw = {name: column.to("cuda") for name, column in raw_batch(config).items()}
        assert all(picture.is_cuda for picture in method.pictures(raw).values())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return str(encode_corpus(tmp_path_factory.mktemp("corpus")))


WORDS = ("trainer.ema=0.9", "trainer.accumulate=2", "trainer.optimizer.clip_norm=1.0")


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, str]:
    """The same run on both devices, killed and resumed on the way."""
    folders = {}
    for side, place in (("cpu", contextlib.nullcontext), ("cuda", far_device)):
        folders[side] = str(tmp_path_factory.mktemp("run") / side)
        with place(), warnings.catch_warnings(action="ignore"):  # of so short a run's collapse
            _killed_and_resumed(corpus, folders[side])
    return folders


def _killed_and_resumed(corpus: str, folder: str) -> None:
    step, steps = loop.forward_backward, iter(range(100))

    def dying(*arguments) -> None:
        if next(steps) == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    config = make_config(*WORDS, "trainer.precision=fp32")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "forward_backward", dying)
        with pytest.raises(KeyboardInterrupt):
            run_training(prepare(config, corpus, folder, probe_data=corpus), engine="local")
    again = prepare(config, corpus, folder, probe_data=corpus, resume=True)
    run_training(again, engine="local")


def test_a_run_embeds_as_one_on_the_cpu(runs, corpus, tmp_path) -> None:
    embed(runs["cpu"], corpus, str(tmp_path / "cpu"), engine="local")
    with far_device() as waits:
        embed(runs["cuda"], corpus, str(tmp_path / "cuda"), engine="local")
    assert any(line.startswith("pipeline/embedding/embed_part.py") for line in waits), (
        "ran on the CPU"
    )
    parts = [sorted((tmp_path / side / "parts").iterdir()) for side in ("cpu", "cuda")]
    assert len(parts[0]) == len(parts[1])
    assert [part.read_bytes() for part in parts[0]] == [part.read_bytes() for part in parts[1]]


def test_a_run_is_scored_there_as_on_the_cpu(runs, corpus) -> None:
    wanted = pretext(runs["cpu"], corpus, samples=8)
    with far_device() as waits:
        found = pretext(runs["cuda"], corpus, samples=8)
    assert any(line.startswith("pipeline/training/pretext.py") for line in waits), "ran on the CPU"
    assert found.trained == pytest.approx(wanted.trained, rel=1e-4)


def test_fine_tuning_runs_there() -> None:
    parts = stripes(16), stripes(8, 1), stripes(10, 2)
    options = {"epochs": 1, "batch_size": 8, "rates": (0.01,)}
    wanted, _ = fine_tune(make_encoder(), *parts, 2, **options)
    with far_device():
        found, _ = fine_tune(make_encoder().to("cuda"), *parts, 2, **options)
    assert found == wanted


def test_masks_are_carried_there() -> None:
    maps, masks = moving_maps()
    wanted = propagate(maps, start(masks))
    with far_device():
        found = propagate(maps.to("cuda"), start(masks))
        assert found.is_cuda
        assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("name", ["mosse", "kcf-grey", "kcf-hog-scale", "strcf", "affinity"])
def test_trackers_follow_there(name: str) -> None:
    frames, truth = moving_square(4, (3, 1), side=40, start=(40, 40))
    wanted = build_tracker(name).track(frames, truth[:1])
    with far_device():
        found = build_tracker(name, device="cuda").track(frames, truth[:1])
    # crops are resampled on the device there, by OpenCV here
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.2)
