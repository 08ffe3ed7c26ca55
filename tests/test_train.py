"""The trainer, in one process: resumes, accumulates, refuses, and counts each sample once."""

import json
import shutil
import weakref
from itertools import islice, pairwise

import numpy as np
import pytest
import safetensors.torch
import torch

from marey.configs.errors import InputError, MareyError, SettingError, UsageError
from marey.configs.load import override, read_preset, run_config
from marey.configs.schema import OptimizerConfig
from marey.models.method import methods
from marey.pipeline.data.source import open_source
from marey.pipeline.embedding.encoder_files import export_encoder, load_encoder
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.samples import stream_here
from marey.pipeline.training import run_state
from marey.pipeline.training.checkpoint import load_state, position_of
from marey.pipeline.training.collate import Room, collate
from marey.pipeline.training.job import build_method, synchronised
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.meter import Meter
from marey.pipeline.training.optim import (
    build_optimizer,
    learning_rate,
    set_schedule,
    weight_decay,
)
from marey.pipeline.training.optimizers import LARS
from marey.pipeline.training.record import SUMMARY, read_metrics
from marey.pipeline.training.trainer import forward_backward, train
from tests.corpora import encode_corpus

TREE = {
    "name": "tcn",
    "method": {"loss": "infonce", "sampling": {"kind": "view_pairs", "pairs": 4, "per_event": 2}},
    "encoder": {"backbone": "tiny", "image_size": 32, "embedding_dim": 8, "unit_norm": True},
    "data": {"decode_size": 32, "shuffle_buffer": 4},
    "trainer": {
        "epochs": 3, "batch_size": 2, "log_every": 1, "checkpoint_every": 3,
        "optimizer": {"lr": 1e-3},
    },
}  # fmt: skip


def make_config(*words):
    return run_config(override(TREE, list(words)), methods()[TREE["name"]].Config)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus")))


def run(corpus, folder, *words, resume=False, probe=None):
    prepared = prepare(make_config(*words), corpus, str(folder), resume=resume, probe_data=probe)
    return prepared, run_training(prepared, engine="local")


def die_in_step(monkeypatch, number):
    """Let a run be interrupted in its step of that number, from 0."""
    import marey.pipeline.training.trainer as loop

    steps = iter(range(100))
    step = loop.forward_backward

    def dying(*arguments):
        if next(steps) == number:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "forward_backward", dying)


def weights(folder):
    return load_encoder(str(folder))[0].state_dict()


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_trains_on_every_sample_once_an_epoch_and_leaves_all_its_files(corpus, tmp_path):
    prepared, summary = run(corpus, tmp_path / "run", probe=corpus)
    assert summary["samples"] == prepared.job.plan.total == 3 * 4 * 2
    folder = Folder(str(tmp_path / "run"))
    position = position_of(load_state(folder))
    assert (position.below, position.ahead) == (24, set())
    lines = read_metrics(folder)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert {line["epoch"] for line in lines if "loss" in line} == {0, 1, 2}
    probes = [line["probe"] for line in lines if "probe" in line]
    assert probes[0].keys() >= {"alignment_error", "rankme"}
    assert {"alignment_error"} < json.loads(folder.read("chance.json")).keys()
    samples = np.load(tmp_path / "run" / "samples.npz")
    assert samples["frames"].shape == (2, 8, 32, 32, 3)
    assert not equal(weights(tmp_path / "run"), weights(tmp_path / "run" / "untrained"))
    assert not list((tmp_path / "run").rglob("*.tmp-*"))


def test_the_same_seed_gives_the_same_weights_and_another_others(corpus, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(corpus, tmp_path / name, f"trainer.seed={seed}")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_run_that_died_goes_on_from_its_checkpoint_to_the_same_end(corpus, tmp_path, monkeypatch):
    # without mixing, the order after resuming is that of an uninterrupted run
    words = ("data.shuffle_buffer=1",)
    run(corpus, tmp_path / "whole", *words)

    die_in_step(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "died", *words)
    monkeypatch.undo()
    assert load_state(Folder(str(tmp_path / "died")))["step"] == 6
    with pytest.raises(UsageError, match="--resume"):
        run(corpus, tmp_path / "died", *words)
    _, summary = run(corpus, tmp_path / "died", *words, resume=True)
    assert summary["samples"] == 24
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "died"))
    lines = [line["step"] for line in read_metrics(Folder(str(tmp_path / "died")))]
    assert lines == list(range(1, 13))


def test_a_resumed_run_does_not_keep_the_checkpoint_that_it_has_read(corpus, tmp_path, monkeypatch):
    import marey.pipeline.training.trainer as loop

    run(corpus, tmp_path / "run", "trainer.steps=2", "data.shuffle_buffer=1")
    kept, steps = [], []

    def load(folder):
        state = load_state(folder)
        kept.extend(weakref.ref(tensor) for tensor in state["method"].values())
        return state

    def step(*arguments):
        steps.append(sum(saved() is not None for saved in kept))
        return forward_backward(*arguments)

    job = prepare(make_config("trainer.steps=4"), corpus, str(tmp_path / "more")).job
    shutil.copytree(tmp_path / "run", tmp_path / "more", dirs_exist_ok=True)
    monkeypatch.setattr(run_state, "load_state", load)
    monkeypatch.setattr(loop, "forward_backward", step)
    source = open_source(corpus)
    train(job, lambda done: stream_here(job.plan, source, job.config.data, done))
    assert kept
    assert steps == [0, 0]


def test_a_run_in_turns_is_the_run_in_one(corpus, tmp_path):
    words = ("data.shuffle_buffer=1",)
    run(corpus, tmp_path / "whole", *words)
    job = prepare(make_config(*words), corpus, str(tmp_path / "turns")).job
    source = open_source(corpus)
    folder = Folder(job.run)
    for trained in (8, 16, 24):
        assert not folder.exists(SUMMARY)
        train(job, lambda done: islice(stream_here(job.plan, source, job.config.data, done), 8))
        assert len(position_of(load_state(folder))) == trained
    assert json.loads(folder.read(SUMMARY))["samples"] == 24
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "turns"))
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 13))
    totals = {line["total"] for line in read_metrics(folder)}
    assert totals == {12}


def test_a_stream_that_ends_before_the_plan_is_not_asked_for_ever(corpus, tmp_path):
    job = prepare(make_config(), corpus, str(tmp_path / "run")).job
    source = open_source(corpus)
    train(job, lambda done: islice(stream_here(job.plan, source, job.config.data, done), 8))
    with pytest.raises(RuntimeError, match="of 24 samples, 8 used, the stream gave none"):
        train(job, lambda done: [])


def test_resuming_refuses_other_settings_and_other_data(corpus, tmp_path):
    run(corpus, tmp_path / "run")
    with pytest.raises(SettingError, match=r"trainer\.seed was 0"):
        run(corpus, tmp_path / "run", "trainer.seed=1", resume=True)
    other = str(encode_corpus(tmp_path / "other", events=2))
    with pytest.raises(InputError, match="not those"):
        run(other, tmp_path / "run", resume=True)


def test_resuming_a_finished_run_changes_nothing(corpus, tmp_path):
    _, before = run(corpus, tmp_path / "run")
    kept = weights(tmp_path / "run")
    _, after = run(corpus, tmp_path / "run", resume=True)
    assert after["samples"] == before["samples"]
    assert equal(kept, weights(tmp_path / "run"))


def test_a_finished_run_is_made_longer_but_not_shorter(corpus, tmp_path):
    optimizer = "trainer.optimizer={schedule: constant, warmup: 0}"
    words = ("data.shuffle_buffer=1", optimizer)
    run(corpus, tmp_path / "whole", *words, "trainer.epochs=3")
    run(corpus, tmp_path / "run", *words, "trainer.epochs=1")
    _, summary = run(corpus, tmp_path / "run", *words, "trainer.steps=6", resume=True)
    assert (summary["step"], summary["samples"]) == (6, 12)
    with pytest.raises(SettingError, match=r"trained on 12 samples, .*epochs=1 are 8"):
        run(corpus, tmp_path / "run", *words, "trainer.epochs=1", resume=True)
    _, summary = run(corpus, tmp_path / "run", *words, "trainer.epochs=3", resume=True)
    assert summary["samples"] == 24
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_run_killed_while_it_is_made_longer_is_not_taken_for_finished(
    corpus, tmp_path, monkeypatch
):
    run(corpus, tmp_path / "run", "trainer.epochs=1")
    die_in_step(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "run", "trainer.epochs=2", resume=True)
    assert not Folder(tmp_path / "run").exists(SUMMARY)


def test_a_folder_that_is_trained_in_is_not_trained_in_by_another(corpus, tmp_path):
    with Folder(tmp_path / "run").held(), pytest.raises(UsageError, match="another process"):
        run(corpus, tmp_path / "run")
    assert not Folder(tmp_path / "run").exists("config.yaml")


def test_an_encoder_is_whole_between_the_writes_of_its_two_files(tmp_path):
    folder = Folder(tmp_path)
    first, second = (build_method(make_config(f"trainer.seed={seed}")).encoder for seed in (0, 1))
    export_encoder(folder, first, {"step": 1})
    old = folder.read("encoder.json")
    digest = export_encoder(folder, second, {"step": 2})
    folder.write("encoder.json", old)  # as a kill would leave it
    found, about = load_encoder(str(tmp_path))
    assert equal(found.state_dict(), second.state_dict())
    assert (about["provenance"]["step"], about["sha256"]) == (2, digest)
    for wrong in (safetensors.torch.save({"a": torch.zeros(1)}), b"", b"no weights at all"):
        folder.write("encoder.safetensors", wrong)
        with pytest.raises(InputError, match="is not the file that"):
            load_encoder(str(tmp_path))


def test_the_exported_encoder_is_the_average_of_its_weights_where_that_is_set(corpus, tmp_path):
    run(
        corpus,
        tmp_path / "run",
        "trainer.ema=0.75",
        "trainer.steps=2",
        "trainer.checkpoint_every=1",
    )
    states = [
        torch.load(path, weights_only=True)["method"]
        for path in sorted((tmp_path / "run" / "checkpoints").glob("*.pt"))
    ]
    untrained = weights(tmp_path / "run" / "untrained")
    for name, value in weights(tmp_path / "run").items():
        first, second = (state[f"encoder.{name}"] for state in states)
        if value.is_floating_point():
            # the average warms up: 2/11 of the old one are kept, then 3/12
            before = 2 / 11 * untrained[name] + 9 / 11 * first
            assert torch.allclose(value, before / 4 + 3 / 4 * second, atol=1e-5), name
            assert torch.equal(first, second) or not torch.equal(value, second), name


class Toy(torch.nn.Module):
    """A method without noise or norm: the mean of squares of a scaled input."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([2.0, -1.0]))

    def augment(self, batch):
        return batch

    def forward(self, batch):
        return {"loss": (self.scale * batch["time_s"]).pow(2).mean()}


def test_accumulated_rounds_have_the_gradient_of_one_round():
    rng = np.random.default_rng(0)
    samples = [{"time_s": rng.normal(size=2).astype(np.float32)} for _ in range(6)]

    def gradient(rounds):
        toy = Toy()
        cpu = torch.device("cpu")
        forward_backward(toy, toy, rounds, cpu, "fp32", Meter())
        return toy.scale.grad

    whole = gradient([samples])
    for size in (2, 4):  # the last round of a run may be a short one
        rounds = [samples[n : n + size] for n in range(0, 6, size)]
        assert torch.allclose(whole, gradient(rounds))


def test_a_run_whose_videos_are_all_gone_says_so(tmp_path):
    location = encode_corpus(tmp_path / "gone", events=2)
    for video in (tmp_path / "gone").glob("*.mp4"):
        video.unlink()
    with pytest.raises(InputError, match="none is at its place"):
        run(str(location), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_refused_samples_are_counted_and_the_run_ends(tmp_path):
    location = encode_corpus(tmp_path / "c", events=3)
    (tmp_path / "c" / "e1_v0.mp4").write_bytes(b"broken")
    _, summary = run(str(location), tmp_path / "run")
    assert summary["samples"] == 3 * 2 * 2
    assert sum(summary["refused"].values()) == 3 * 2
    assert all("e1_v0.mp4" in reason for reason in summary["refused"])


def test_what_was_refused_before_a_run_died_is_told_at_its_end(tmp_path, monkeypatch):
    location = str(encode_corpus(tmp_path / "c", events=3))
    (tmp_path / "c" / "e1_v0.mp4").write_bytes(b"broken")
    words = ("data.shuffle_buffer=1",)
    _, whole = run(location, tmp_path / "whole", *words)
    die_in_step(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        run(location, tmp_path / "died", *words)
    monkeypatch.undo()
    before = load_state(Folder(str(tmp_path / "died")))["refused"]
    assert 0 < sum(before.values()) < 3 * 2
    _, summary = run(location, tmp_path / "died", *words, resume=True)
    told = ("samples", "refused", "step")
    assert {key: summary[key] for key in told} == {key: whole[key] for key in told}
    last = read_metrics(Folder(str(tmp_path / "died")))[-1]
    assert last["refused"] == 3 * 2


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(corpus, tmp_path, monkeypatch):

    build = run_state.build_method

    def broken(config, **options):
        method = build(config, **options)
        with torch.no_grad():
            next(method.parameters()).fill_(float("nan"))
        return method

    monkeypatch.setattr(run_state, "build_method", broken)
    with pytest.raises(MareyError, match="clip_norm"):
        run(corpus, tmp_path / "run")


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
def test_the_rate_rises_to_its_peak_and_falls_as_named(schedule):
    config = OptimizerConfig(lr=1.0, schedule=schedule, warmup=0.25)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert rates[0] < 0.1
    assert max(rates) == pytest.approx(1.0, abs=1e-6)
    assert all(a < b for a, b in pairwise(rates[:25]))
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0, abs=1e-4)


def test_one_cycle_is_torchs():
    config = OptimizerConfig(lr=0.7, schedule="one_cycle", warmup=0.3)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.7, total_steps=1001, pct_start=0.3)
    for step in range(1000):
        assert learning_rate(config, step, 1000) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=2e-3
        )
        optimizer.step()
        torchs.step()


def test_weight_decay_stays_or_goes_to_its_end_and_leaves_vectors_alone():
    still = OptimizerConfig(weight_decay=0.04)
    assert {weight_decay(still, step, 10) for step in range(10)} == {0.04}
    config = OptimizerConfig(weight_decay=0.04, weight_decay_end=0.4)
    course = [weight_decay(config, step, 10) for step in range(11)]
    assert course == sorted(course)
    assert (course[0], course[5], course[10]) == pytest.approx((0.04, 0.22, 0.4))
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config)
    rate = set_schedule(optimizer, config, 5, 10)
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.22, 0])
    assert [group["lr"] for group in optimizer.param_groups] == [rate, rate]


def test_lars_scales_matrices_by_trust_and_leaves_biases_plain():
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    bias = torch.nn.Parameter(torch.randn(4, dtype=torch.float64))
    start = matrix.detach().clone(), bias.detach().clone()
    gradient = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    groups = [{"params": [matrix], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = LARS(groups, lr=0.5, momentum=0.9)
    matrix.grad, bias.grad = gradient[0].clone(), gradient[1].clone()
    optimizer.step()
    update = gradient[0] + 0.1 * start[0]
    trust = 0.001 * start[0].norm() / update.norm()
    assert torch.allclose(matrix, start[0] - 0.5 * trust * update)
    assert torch.allclose(bias, start[1] - 0.5 * gradient[1])


@pytest.mark.parametrize(("name", "shared"), [("simclr", True), ("moco_v1", False)])
def test_batch_statistics_are_shared_but_where_shuffled_keys_need_their_own(name, shared):
    tree = read_preset(name)
    method = synchronised(build_method(run_config(tree, methods()[tree["name"]].Config)))
    kinds = [isinstance(module, torch.nn.SyncBatchNorm) for module in method.modules()]
    assert any(kinds) is shared


def test_the_frames_of_one_batch_after_the_other_lie_in_the_same_memory():
    """Fresh pages cost more than the copy; every batch holds its own samples all the same."""
    rng = np.random.default_rng(0)
    samples = [
        {"sample": n, "place": n, "frames": rng.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)}
        for n in range(7)
    ]
    room, cpu = Room(), torch.device("cpu")
    first = collate(samples[:4], cpu, room)
    place = first["frames"].data_ptr()
    second = collate(samples[4:], cpu, room)
    assert second["frames"].data_ptr() == place
    for batch, part in ((second, samples[4:]), (collate(samples[:4], cpu), samples[:4])):
        np.testing.assert_array_equal(batch["frames"], np.stack([s["frames"] for s in part]))
        assert batch["place"].tolist() == [s["place"] for s in part]
    # without a room a batch may be kept
    kept = collate(samples[:4], cpu)
    collate(samples[3:], cpu)
    np.testing.assert_array_equal(kept["frames"], np.stack([s["frames"] for s in samples[:4]]))
