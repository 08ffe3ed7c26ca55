"""What goes wrong while training: batches of one sample, NaN, damaged or foreign checkpoints."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from marey.configs.errors import InputError, MareyError, SettingError, UsageError
from marey.configs.load import override, read_preset, run_config
from marey.models.encoders.any_network import register_backbone
from marey.models.encoders.encoder import Encoder
from marey.models.method import methods
from marey.pipeline.embedding.encoder_files import load_encoder
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.checkpoint import is_finite, load_state, position_of
from marey.pipeline.training.checkpoint import weights as named_weights
from marey.pipeline.training.job import build_method
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.lockstep import in_step
from marey.pipeline.training.record import read_metrics, warnings_in
from marey.pipeline.training.single_sample import LONE
from marey.pipeline.training.weight_average import WeightAverage
from tests.corpora import encode_corpus
from tests.every_method import METHOD_PRESETS, build, small_config
from tests.test_train import die_in_step, equal, make_config, run, weights


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus")))


WORDS = ("data.shuffle_buffer=1",)


@pytest.fixture(scope="module")
def once(corpus, tmp_path_factory):
    """A run of 12 steps, of which the checkpoints of 9 and 12 are kept."""
    folder = tmp_path_factory.mktemp("once") / "run"
    run(corpus, folder, *WORDS)
    return folder


@pytest.fixture
def finished(once, tmp_path):
    """A copy of it to damage."""
    return Path(shutil.copytree(once, tmp_path / "finished"))


@pytest.fixture(scope="module")
def first_epoch(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first_epoch") / "run"
    run(corpus, folder, *WORDS, "trainer.epochs=1")
    return folder


@pytest.fixture
def short(first_epoch, tmp_path):
    """A copy of a run that has ended after 4 steps and can be made longer."""
    return Path(shutil.copytree(first_epoch, tmp_path / "short"))


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("*.pt"))


# Batches of a single sample


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_round_is_of_a_single_sample_and_none_is_lost(size, accumulate):
    for count in range(1, 20):
        samples = [{"sample": np.int64(n)} for n in range(count)]
        works = list(in_step(iter(samples), size, accumulate, count, contextlib.nullcontext))
        rounds = [batch for work in works for batch in work.batches]
        seen = [int(sample["sample"]) for batch in rounds for sample in batch]
        assert seen == list(range(count))
        assert [work.last for work in works] == [False] * (len(works) - 1) + [True]
        if size > 1 and count > 1:
            assert min(map(len, rounds)) > 1
            assert max(map(len, rounds)) <= size + 1
        job = prepared_job(count, size * accumulate, accumulate)
        assert job.total_steps() == len(works)


def prepared_job(samples, batch, accumulate):
    from types import SimpleNamespace

    from marey.pipeline.training.job import Job

    config = make_config(f"trainer.batch_size={batch}", f"trainer.accumulate={accumulate}")
    return Job(config, SimpleNamespace(total=samples), "", {})


NORMALISED = ["arrow_of_time", "deep_infomax", "moco_v3", "shuffle_and_learn"]
"""Presets whose heads cannot train on one sample."""


@pytest.mark.parametrize("preset", NORMALISED)
def test_a_sample_left_over_joins_the_last_step(preset, tmp_path):
    corpus = str(encode_corpus(tmp_path / "corpus", events=2))
    config = small_config(preset)

    def trained(folder, **trainer):
        trainer = {"epochs": 1, "steps": None, "shuffle_buffer": 1} | trainer
        data = config.data.model_copy(update={"shuffle_buffer": trainer.pop("shuffle_buffer")})
        whole = config.trainer.model_copy(update=trainer)
        return prepare(config.model_copy(update={"trainer": whole, "data": data}), corpus, folder)

    total = trained(str(tmp_path / "plan"), batch_size=2).job.plan.total
    prepared = trained(str(tmp_path / "run"), batch_size=total - 1)
    summary = run_training(prepared, engine="local")
    assert (summary["step"], summary["samples"]) == (1, total)
    with pytest.raises(SettingError, match=r"batch norm.*trainer\.batch_size=2"):
        trained(str(tmp_path / "one"), batch_size=1)


def test_a_single_sample_that_is_left_to_a_resumed_run_is_told_and_ends_it(
    corpus, short, monkeypatch
):
    """As the checkpoint of an older version leaves it, or samples that are refused."""
    import marey.pipeline.training.trainer as loop

    step = loop.forward_backward

    def refusing(model, method, rounds, *rest):
        if sum(map(len, rounds)) == 1:
            raise ValueError("Expected more than 1 value per channel when training, got [1, 8]")
        return step(model, method, rounds, *rest)

    monkeypatch.setattr(loop, "forward_backward", refusing)
    folder = Folder(short)
    state = load_state(folder)
    state["position"]["below"] -= 1
    buffer = io.BytesIO()
    torch.save(state, buffer)
    latest = json.loads(folder.read("latest.json"))
    folder.write(latest["checkpoint"], buffer.getvalue())
    folder.write("latest.json", json.dumps({"checkpoint": latest["checkpoint"]}).encode())
    _, summary = run(corpus, short, *WORDS, "trainer.epochs=1", resume=True)
    assert summary["refused"] == {LONE: 1}
    assert summary["samples"] == 7


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_failed_before_its_first_checkpoint_is_begun_again(
    resume, once, corpus, tmp_path, monkeypatch
):
    import marey.pipeline.training.trainer as loop

    def failing(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loop, "forward_backward", failing)
    with pytest.raises(RuntimeError):
        run(corpus, tmp_path / "run", "trainer.seed=1", probe=corpus)
    monkeypatch.undo()
    _, summary = run(corpus, tmp_path / "run", *WORDS, resume=resume)
    assert summary["samples"] == 24
    assert equal(weights(tmp_path / "run"), weights(once))
    assert [line["step"] for line in read_metrics(Folder(tmp_path / "run"))] == list(range(1, 13))
    with pytest.raises(UsageError, match="--resume"):
        run(corpus, tmp_path / "run")


# Weights that are not finite


def poison(monkeypatch, number):
    """Let the gradient of one step, counted from 0, be NaN, and its loss finite."""
    import marey.pipeline.training.trainer as loop

    steps = iter(range(100))
    step = loop.forward_backward

    def poisoned(model, method, *rest):
        step(model, method, *rest)
        if next(steps) == number:
            next(p for p in method.parameters() if p.grad is not None).grad.fill_(float("nan"))

    monkeypatch.setattr(loop, "forward_backward", poisoned)


@pytest.mark.parametrize("step", [4, 5, 11])
def test_weights_that_are_not_finite_are_never_saved(step, corpus, tmp_path, monkeypatch):
    """Whenever they become so between two checkpoints, of every 3 steps, and lines of metrics."""
    poison(monkeypatch, step)
    words = ("trainer.log_every=100", "data.shuffle_buffer=1")
    with pytest.raises(MareyError, match=r"step 3|step 6|step 9") as caught:
        run(corpus, tmp_path / "run", *words)
    monkeypatch.undo()
    assert "--resume" in str(caught.value)
    assert all(is_finite(torch.load(path)) for path in checkpoints(tmp_path / "run"))
    kept = load_state(Folder(tmp_path / "run"))
    assert kept["step"] == step // 3 * 3
    exported = load_encoder(str(tmp_path / "run"))[1]["provenance"]
    assert exported["step"] == kept["step"]
    assert is_finite(weights(tmp_path / "run"))
    words += ("trainer.optimizer.lr=1e-4", "trainer.optimizer.clip_norm=1")
    prepared, summary = run(corpus, tmp_path / "run", *words, resume=True)
    assert prepared.changed.keys() == {"trainer.optimizer.lr", "trainer.optimizer.clip_norm"}
    assert summary["samples"] == 24


def test_every_method_starts_with_weights_that_are_finite():
    """So that a checkpoint is refused for what training did and for nothing else."""
    for name in METHOD_PRESETS:
        method = build(small_config(name))
        assert is_finite([dict(method.named_parameters()), named_weights(method.state_dict())])


# What --resume may change


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.optimizer.lr=1e-4",),
        ("trainer.optimizer.clip_norm=0.1", "trainer.optimizer.momentum=0.5"),
        ("trainer.optimizer.weight_decay=0.1", "trainer.optimizer.schedule=constant"),
        ("trainer.accumulate=2", "data.shuffle_buffer=8"),
        ("trainer.batch_size=4",),
        ("trainer.ema=0.9",),
    ],
)
def test_what_breaks_no_sample_may_change_on_resume(words, corpus, short):
    prepared, summary = run(corpus, short, *WORDS, *words, resume=True)
    assert prepared.changed
    assert summary["samples"] == 24
    state = load_state(Folder(short))
    position = position_of(state)
    assert (position.below, position.ahead) == (24, set())
    groups = state["optimizer"]["param_groups"]
    optimizer = prepared.job.config.trainer.optimizer
    assert {group["betas"][0] for group in groups} == {optimizer.momentum}
    assert {group["weight_decay"] for group in groups} == {0.0, optimizer.weight_decay}


@pytest.mark.parametrize(
    "word",
    [
        "trainer.seed=1",
        "trainer.optimizer.name=sgd",
        "data.decode_size=48",
        "method.sampling.per_event=3",
        "encoder.embedding_dim=16",
    ],
)
def test_what_other_samples_or_weights_depend_on_may_not_change(word, corpus, short):
    with pytest.raises(SettingError, match="--resume"):
        run(corpus, short, *WORDS, word, resume=True)


# Damaged and foreign state


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def not_finite(path):
    state = torch.load(path)
    next(t for t in state["method"].values() if t.is_floating_point()).fill_(float("inf"))
    torch.save(state, path)
    latest = path.parents[1] / "latest.json"  # as a version left it that did not look
    kept = json.loads(latest.read_text())
    latest.write_text(json.dumps({"checkpoint": kept["checkpoint"], "step": kept["step"]}))


@pytest.mark.parametrize("damage", [cut, empty, flip, not_finite, lambda path: path.unlink()])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage, once, corpus, finished):
    before, last = checkpoints(finished)
    damage(last)
    damaged = last.exists()
    prepared, summary = run(corpus, finished, *WORDS, resume=True)
    assert prepared.resumed_step == 9
    assert summary["samples"] == 24
    assert equal(weights(finished), weights(once))
    assert checkpoints(finished) == [before, last]
    assert load_state(Folder(finished))["passed_over"] == []
    if damaged:
        assert last.name in " ".join(warnings_in(read_metrics(Folder(finished))))


def test_a_run_without_a_whole_checkpoint_says_so(corpus, finished):
    for path in checkpoints(finished):
        cut(path)
    with pytest.raises(InputError, match=r"no whole checkpoint left.*step-00000012"):
        run(corpus, finished, *WORDS, resume=True)
    for path in checkpoints(finished):
        path.unlink()
    with pytest.raises(InputError, match=r"step-00000012\.pt is gone"):
        run(corpus, finished, *WORDS, resume=True)


def test_a_damaged_note_of_the_latest_checkpoint_is_not_needed(finished):
    for content in (b"", b"{", b"[]", b'{"step": 3}'):
        (finished / "latest.json").write_bytes(content)
        assert load_state(Folder(finished))["step"] == 12


def test_checkpoints_of_other_versions_are_read_or_refused_in_a_sentence(corpus, short):
    """Without a format, as versions up to the one that wrote the number left them."""
    before, path = checkpoints(short)
    before.unlink()
    state = torch.load(path)
    (short / "latest.json").unlink()
    torch.save({**state, "format": 9, "marey": "7.1"}, path)
    with pytest.raises(InputError, match=r"marey 7\.1 in format 9.*update marey"):
        run(corpus, short, *WORDS, resume=True)
    renamed = {f"old.{name}": value for name, value in state["method"].items()}
    torch.save({**state, "method": renamed}, path)
    with pytest.raises(InputError, match="does not fit tcn as this version builds it"):
        run(corpus, short, *WORDS, resume=True)
    for name in ("format", "marey"):
        del state[name]
    torch.save(state, path)
    latest = {"checkpoint": f"checkpoints/{path.name}", "step": 4}
    (short / "latest.json").write_text(json.dumps(latest))
    assert run(corpus, short, *WORDS, resume=True)[1]["samples"] == 24


def test_a_damaged_settings_file_is_named(corpus, short):
    for content in (b"", b"config: [", b"a: 1"):
        (short / "config.yaml").write_bytes(content)
        with pytest.raises(InputError, match=r"config\.yaml is damaged"):
            run(corpus, short, *WORDS, resume=True)
    (short / "config.yaml").unlink()
    with pytest.raises(UsageError, match=r"checkpoints but no config\.yaml"):
        run(corpus, short, *WORDS, resume=True)


@pytest.mark.parametrize("damage", [cut, empty, flip])
def test_damaged_encoders_are_refused_in_a_sentence(damage, short):
    damage(short / "encoder.safetensors")
    with pytest.raises(InputError, match=r"encoder\.safetensors"):
        load_encoder(str(short))


def test_a_damaged_description_is_read_from_the_weights(short):
    about = load_encoder(str(short))[1]
    for content in (b"", b"{", b"[]"):
        (short / "encoder.json").write_bytes(content)
        assert load_encoder(str(short))[1] == about


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 7}, "format 7.*update marey"),
        ({"architecture": {"backbone": "tiny", "attention": 3}}, "cannot build.*attention"),
        ({"architecture": {"backbone": "tiny", "embedding_dim": 9}}, "not of the encoder"),
        ({"architecture": None}, "cannot build"),
    ],
)
def test_encoders_of_other_versions_are_refused_in_a_sentence(changes, words, short):
    about = json.loads((short / "encoder.json").read_text())
    (short / "encoder.json").write_text(json.dumps(about | changes))
    with pytest.raises(InputError, match=words):
        load_encoder(str(short))


# The average of the weights


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.9999])
@pytest.mark.parametrize("steps", [10, 100])
def test_a_short_run_exports_what_it_has_learned(decay, steps):
    """Weights that move evenly: the average lags behind their end, and not at their start."""
    encoder = Encoder(make_config().encoder)
    average = WeightAverage(encoder, decay)
    name, weight = next(iter(encoder.named_parameters()))
    with torch.no_grad():
        weight.zero_()
        average.encoder.get_parameter(name).zero_()
        for step in range(1, steps + 1):
            weight.fill_(step / steps)
            average.update(encoder, step)
    reached = float(average.encoder.get_parameter(name).mean())
    assert 0.75 < reached < 1


def test_the_average_is_of_what_a_method_exports():
    tree = override(read_preset("dino"), ["encoder.image_size=32"])
    config = run_config(tree, methods()["dino"].Config)
    method = build_method(config)
    assert method.exported is not method.encoder
    average = WeightAverage(method.exported, 0.9)
    with torch.no_grad():
        for weight in method.exported.parameters():
            weight.fill_(3.0)
        for step in range(1, 200):
            average.update(method.exported, step)
    assert all(torch.allclose(w, torch.tensor(3.0)) for w in average.encoder.parameters())


def test_a_resumed_run_goes_on_with_weights_and_average_apart(corpus, tmp_path, monkeypatch):
    """Neither starts from the other, and the warm-up of the average goes on."""
    words = (*WORDS, "trainer.ema=0.99", "trainer.epochs=2", "trainer.checkpoint_every=1")
    run(corpus, tmp_path / "whole", *words)
    die_in_step(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "died", *words)
    monkeypatch.undo()
    run(corpus, tmp_path / "died", *words, resume=True)
    assert equal(weights(tmp_path / "died"), weights(tmp_path / "whole"))
    states = (load_state(Folder(tmp_path / name)) for name in ("died", "whole"))
    assert equal(*(state["method"] for state in states))


def test_averages_of_older_versions_are_read():
    from torch.optim.swa_utils import AveragedModel

    encoder = Encoder(make_config().encoder)
    old = AveragedModel(encoder, use_buffers=True).state_dict()
    average = WeightAverage(Encoder(make_config().encoder), 0.9)
    average.load_state_dict(old)
    assert equal(average.encoder.state_dict(), encoder.state_dict())


# Pretrained weights


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        (["encoder.backbone=tiny"], SettingError, "'tiny' has no pretrained weights"),
        (["encoder.backbone=resnet10t"], InputError, "'resnet10t' cannot be fetched"),
        (
            ["encoder.backbone=r3d_18", "encoder.clip_frames=2", "method.sampling.num_frames=2"],
            InputError,
            "'r3d_18' cannot be fetched",
        ),
    ],
)
def test_weights_that_cannot_be_had_are_refused_before_anything_is_written(
    corpus, tmp_path, monkeypatch, words, error, match
):
    """Not after minutes, in the process that trains."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    preset = "clip_simclr" if "r3d_18" in match else "simclr"
    tree = override(read_preset(preset), ["encoder.pretrained=true", *words])
    config = run_config(tree, methods()[tree["name"]].Config)
    with pytest.raises(error, match=match):
        prepare(config, corpus, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_are_fetched_once_and_not_for_a_run_that_goes_on(corpus, tmp_path):
    asked = []

    def make(pretrained=False):
        asked.append(pretrained)
        return nn.Conv2d(3, 8, 4, stride=4)

    register_backbone("counted")(make)
    words = ["encoder.backbone=counted", "encoder.pretrained=true", *WORDS]
    run(corpus, tmp_path / "run", *words, "trainer.epochs=1")
    assert asked == [False, True]
    run(corpus, tmp_path / "run", *words, "trainer.epochs=2", resume=True)
    assert asked == [False, True, False, False]
