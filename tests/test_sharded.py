"""FSDP2: is training in shards that of one process, and does it go on with other numbers of them?

That weights are equal is a theorem for networks whose layers see one sample at a time: so encoders
here have layer norms, and the heads of these methods have none. (Batch norm sees each process's
samples alone on CPUs, in shards as under DDP.) It does not hold for the biases of attention's keys:
they move all scores of a query alike, so their gradient is 0 but for rounding, which Adam divides
by itself.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from marey.configs.errors import InputError
from marey.configs.load import override, preset_with, read_preset, run_config
from marey.configs.schema import RunConfig
from marey.models.batch import Batch
from marey.models.method import Progress, find_method
from marey.models.objectives.distributed import rank, world_size
from marey.pipeline.data.source import open_source
from marey.pipeline.embedding.encoder_files import load_encoder
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import make_plan
from marey.pipeline.stream.samples import stream_here
from marey.pipeline.training.checkpoint import load_state, method_weights
from marey.pipeline.training.job import Job, build_method
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.optim import clip_gradients, set_schedule
from marey.pipeline.training.record import Record
from marey.pipeline.training.run_state import RunState
from marey.pipeline.training.trainer import train
from tests.corpora import encode_corpus
from tests.every_method import raw_batch
from tests.two_processes import in_processes, own_share

SAMPLES, STEPS, SAVED = 8, 4, 2
COMMON = (
    "encoder.image_size=32", "data.decode_size=40", f"trainer.steps={STEPS}",
    f"trainer.batch_size={SAMPLES}", "trainer.ema=0.9", "trainer.optimizer.clip_norm=0.5",
)  # fmt: skip
STILL = ("encoder.backbone=tiny_vit", "encoder.pool=average")
METHODS = {
    "tcn": ("encoder.pool_norm=false", "encoder.hidden=[]", *STILL),  # contrastive
    "mae": (),  # masked
    # momentum encoder and queue, with the paper's SGD: Adam made rounding 1.6e-5 of one weight
    # of 49,152 on a processor with AVX-512, whose gradient was next to 0
    "moco_v1": ("trainer.optimizer.name=sgd", "trainer.optimizer.lr=0.5", *STILL),
    "instdisc": STILL,  # bank
    "v_jepa": ("encoder.image_size=64", "data.decode_size=64"),  # masked, with a momentum encoder
}


def _config(name: str, *words: str) -> RunConfig:
    tree = override(read_preset(name), [*COMMON, *METHODS[name], *words])
    return run_config(tree, find_method(tree["name"]).Config)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(encode_corpus(tmp_path_factory.mktemp("corpus")))


def _job(name: str, folder: Path, corpus: str, *words: str) -> Job:
    config = _config(name, *words)
    sampling = find_method(config.name).samples(config.method)
    plan = make_plan(open_source(corpus), sampling, seed=0, epochs=1)
    (folder / name).mkdir(exist_ok=True)
    return Job(config, plan, str(folder / name), {"method": name, "places": plan.samples_per_epoch})


def _batch(run: RunState, number: int) -> Batch:
    """The same in every process, augmented as a whole."""
    raw = raw_batch(run.job.config, samples=SAMPLES, seed=number)
    raw["place"] %= run.job.corpus.places
    torch.manual_seed(number)
    with torch.no_grad():
        return run.method.augment(raw)


def _step(run: RunState) -> Tensor:
    """One step on this process's share of the batch; the loss of the whole batch."""
    settings = run.job.config.trainer.optimizer
    loss = run.model(own_share(_batch(run, run.step)))["loss"]
    loss.backward()
    set_schedule(run.optimizer, settings, run.step, STEPS)
    clip_gradients(run.method.parameters(), settings.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.step += 1
    run.method.after_step(Progress(run.step, STEPS, 0))
    assert run.average is not None
    run.average.update(run.method.exported, run.step)
    total = loss.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
        total /= world_size()
    return total


def _weights(run: RunState) -> dict[str, Tensor]:
    with run.whole() as (method, encoder):
        if rank():
            return {}
        weights = {f"method.{name}": t.clone() for name, t in method.state_dict().items()}
        return weights | {f"exported.{n}": t.clone() for n, t in encoder.state_dict().items()}


def _go(run: RunState, until: int) -> dict[str, Any]:
    losses = [_step(run) for _ in range(run.step, until)]
    return {"losses": torch.stack(losses), "weights": _weights(run)}


def _through(folder: Path, corpus: str) -> dict[str, Any]:
    """All steps; a checkpoint is written while those behind it are made, and one at the end."""
    found = {}
    for name in METHODS:
        run = RunState(_job(name, folder, corpus, "trainer.parallel=fsdp"))
        record = Record(Folder(run.job.run), 0, {}) if rank() == 0 else None
        first = _go(run, SAVED)["losses"]
        run.checkpoint(record)
        rest = _go(run, STEPS)
        run.checkpoint(record, wait=True)
        held = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel()
                   for p in run.method.encoder.parameters())  # fmt: skip
        rest["losses"] = torch.cat([first, rest["losses"]])
        found[name] = rest | {"held": torch.tensor(held)}
    return found


def _again(folder: Path, corpus: str, *words: str) -> dict[str, Any]:
    """From the last good checkpoint to the end."""
    found = {}
    for name in METHODS:
        run = RunState(_job(name, folder, corpus, *words))
        found[name] = {"begun": torch.tensor(run.step), **_go(run, STEPS)}
    return found


@pytest.fixture(scope="module")
def alone(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    return {name: _go(RunState(_job(name, folder, corpus)), STEPS) for name in METHODS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("four")


@pytest.fixture(scope="module")
def four(corpus: str, folder: Path) -> list[dict[str, Any]]:
    return in_processes(4, partial(_through, folder, corpus), folder)


@pytest.fixture(scope="module")
def two(corpus: str, folder: Path, four: list, tmp_path_factory: Any) -> list[dict[str, Any]]:
    """Two processes that go on from what four left, whose last checkpoint a kill has cut short."""
    for name in METHODS:
        (shard,) = (folder / name / "checkpoints").glob(f"*{STEPS}.rank-00003.safetensors")
        shard.write_bytes(shard.read_bytes()[:100])
    work = partial(_again, folder, corpus, "trainer.parallel=fsdp", "trainer.workers=2")
    return in_processes(2, work, tmp_path_factory.mktemp("two"))


def _equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        pair = [found[name], value]
        if name.endswith("inwards.bias"):
            pair = [torch.cat([bias.chunk(3)[0], bias.chunk(3)[2]]) for bias in pair]
        torch.testing.assert_close(
            *pair, rtol=1e-5, atol=1e-5, msg=lambda found, name=name: f"{name}: {found}"
        )


@pytest.mark.parametrize("name", METHODS)
def test_four_processes_in_shards_train_as_one(alone: dict, four: list, name: str) -> None:
    whole = sum(p.numel() for p in _encoder_of(name))
    for result in four:
        torch.testing.assert_close(
            result[name]["losses"], alone[name]["losses"], rtol=1e-5, atol=1e-5
        )
        assert result[name]["held"] < 0.3 * whole
    _equal(four[0][name]["weights"], alone[name]["weights"])
    assert (alone[name]["losses"] > 0).all()


def _encoder_of(name: str) -> list[Tensor]:
    return list(build_method(_config(name)).encoder.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_go_on_from_the_last_good_checkpoint_of_four(
    alone: dict, two: list, name: str
) -> None:
    for result in two:
        assert result[name]["begun"] == SAVED
        losses = alone[name]["losses"][SAVED:]
        torch.testing.assert_close(result[name]["losses"], losses, rtol=1e-5, atol=1e-5)
    _equal(two[0][name]["weights"], alone[name]["weights"])


def test_one_process_without_shards_goes_on_too(
    alone: dict, two: list, folder: Path, corpus: str
) -> None:
    for name, found in _again(folder, corpus).items():
        assert found["begun"] == SAVED
        _equal(found["weights"], alone[name]["weights"])


@pytest.mark.parametrize("name", METHODS)
def test_the_exported_encoder_is_whole(alone: dict, four: list, folder: Path, name: str) -> None:
    exported = load_encoder(str(folder / name))[0].state_dict()
    wanted = alone[name]["weights"]
    _equal({f"exported.{n}": t for n, t in exported.items()},
           {n: t for n, t in wanted.items() if n.startswith("exported.")})  # fmt: skip
    run = Folder(folder / name)
    state = load_state(run)
    assert state is not None
    assert "method" not in state
    assert {f"method.{n}" for n in method_weights(run, state)} < set(wanted)


def test_a_shard_that_was_altered_is_refused(four: list, two: list, folder: Path, corpus: str):
    run = Folder(folder / "mae")
    state = load_state(run)
    assert state is not None
    name = next(iter(state["shards"]["files"]))
    content = bytearray(run.read(name))
    content[-1] ^= 1
    run.write(name, bytes(content))
    with pytest.raises(InputError, match="is damaged: it is not the file that was written"):
        RunState(_job("mae", folder, corpus))
    content[-1] ^= 1
    run.write(name, bytes(content))


WHOLE = (
    *METHODS["tcn"], "encoder.image_size=32", "method.sampling.pairs=4",
    "data.decode_size=32", "data.shuffle_buffer=1", "trainer.epochs=6", "trainer.batch_size=4",
    "trainer.log_every=1", "trainer.checkpoint_every=2", "method.sampling.per_event=2",
)  # fmt: skip
"""Without augmentation, so that it matters not which process has which sample."""


def _train(prepared: Any, dies_at: int | None) -> None:
    source = open_source(prepared.data)

    def stream(done):
        arriving = stream_here(prepared.job.plan, source, prepared.job.config.data, done)
        for number, sample in enumerate(arriving):
            if number == dies_at:
                os._exit(1)
            if number % world_size() == rank():
                yield sample

    train(prepared.job, stream)


@pytest.mark.slow
def test_a_run_killed_with_four_processes_ends_with_two_as_with_one(corpus: str, tmp_path: Path):
    def config(*words: str) -> RunConfig:
        tree = preset_with("tcn", [*WHOLE, *words])
        tree["method"]["augment"] = {}
        return run_config(tree, find_method("tcn").Config)

    run_training(prepare(config(), corpus, str(tmp_path / "one")), engine="local")
    folders = [tmp_path / "meet4", tmp_path / "meet2"]
    for folder in folders:
        folder.mkdir()
    words = ("trainer.parallel=fsdp", "trainer.workers=4")
    prepared = prepare(config(*words), corpus, str(tmp_path / "many"))
    total = prepared.job.plan.total
    with pytest.raises(Exception, match=r"exit code 1|terminated|closed"):
        in_processes(4, partial(_train, prepared, total - 3), folders[0])
    words = ("trainer.parallel=fsdp", "trainer.workers=2")
    prepared = prepare(config(*words), corpus, str(tmp_path / "many"), resume=True)
    assert 0 < prepared.resumed_step < total // 4
    in_processes(2, partial(_train, prepared, None), folders[1])
    summary = json.loads((tmp_path / "many" / "summary.json").read_text())
    assert summary["samples"] == total
    one, many = (load_encoder(str(tmp_path / n))[0].state_dict() for n in ("one", "many"))
    _equal(many, one)
