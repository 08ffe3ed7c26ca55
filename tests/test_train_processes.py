"""Two training processes, as many as are left of three: nothing dropped, schedules to their end."""

import json
from dataclasses import replace
from functools import partial

import pytest

import marey.pipeline.training.trainer as loop
from marey.models.method import methods
from marey.models.objectives.distributed import _alone, rank
from marey.pipeline.data.source import open_source
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.samples import stream_here
from marey.pipeline.training.checkpoint import load_state, position_of
from marey.pipeline.training.launch import Prepared, prepare, run_training
from marey.pipeline.training.lockstep import in_step
from marey.pipeline.training.optim import learning_rate
from marey.pipeline.training.record import SUMMARY, read_metrics
from marey.pipeline.training.trainer import train
from tests.corpora import encode_corpus
from tests.test_train import make_config
from tests.two_processes import in_two_processes

SAMPLES = 3 * 4 * 2
"""Of three epochs."""
ELASTIC = ("trainer.workers=3", "trainer.min_workers=2", "trainer.batch_size=3")
"""Two processes can take one sample each of a batch of three."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus")))


def _train(prepared: Prepared, every: int) -> None:
    """One process; the first takes one of `every` samples, and the second the others."""
    source = open_source(prepared.data)

    def stream(done):
        arriving = stream_here(prepared.job.plan, source, prepared.job.config.data, done)
        for number, sample in enumerate(arriving):
            if (number % every > 0) == (rank() > 0):
                yield sample

    train(prepared.job, stream)


@pytest.mark.parametrize("every", [2, 4])
def test_workers_that_the_batch_does_not_divide_among_drop_nothing(corpus, tmp_path, every):
    words = (*ELASTIC, "trainer.optimizer.warmup=0")
    prepared = prepare(make_config(*words), corpus, str(tmp_path / "run"))
    in_two_processes(partial(_train, prepared, every), tmp_path)
    run = Folder(str(tmp_path / "run"))
    position = position_of(load_state(run))
    assert (position.below, position.ahead) == (SAMPLES, set())
    assert json.loads(run.read(SUMMARY))["samples"] == SAMPLES
    both = SAMPLES // every  # steps in which the first process still has a sample
    lines = read_metrics(run)
    assert len(lines) == lines[-1]["step"] == lines[-1]["total"] == SAMPLES - both
    # and each step had the rate of the share of the samples that was trained on before it
    config = prepared.job.config.trainer.optimizer
    for step, line in enumerate(lines):
        trained = step + min(step, both)
        assert line["lr"] == pytest.approx(learning_rate(config, trained, SAMPLES), abs=1e-4)


def test_a_number_of_steps_is_one_of_whole_batches(corpus, tmp_path):
    words = (*ELASTIC, "trainer.steps=4")
    prepared = prepare(make_config(*words), corpus, str(tmp_path / "run"))
    in_two_processes(partial(_train, prepared, 2), tmp_path)
    summary = json.loads(Folder(str(tmp_path / "run")).read(SUMMARY))
    assert (summary["samples"], summary["step"]) == (4 * 3, 4 * 3 / 2)


def test_the_length_of_a_run_follows_the_size_of_its_steps(corpus, tmp_path):
    job = prepare(make_config("trainer.batch_size=3"), corpus, str(tmp_path / "run")).job
    assert job.total_steps() == SAMPLES / 3
    assert [job.total_steps(n, 3 * n) for n in range(1, 9)] == [8] * 8
    # two thirds of the batch from the fifth step on: the share that is done grows evenly
    trained = {4: 12, 5: 14, 6: 16, 7: 18, 8: 20, 9: 22, 10: 24}
    for step, samples in trained.items():
        assert step / job.total_steps(step, samples) == pytest.approx(samples / SAMPLES, abs=0.06)
    assert job.total_steps(10, 24) == 10


def test_samples_that_all_processes_hold_are_remembered_once(corpus, tmp_path, monkeypatch):
    method, seen = methods()["tcn"], []

    def shared(*arguments):
        for number, work in enumerate(in_step(*arguments)):
            yield replace(work, shared=number == 1)

    monkeypatch.setattr(loop, "in_step", shared)
    monkeypatch.setattr(method, "after_step", lambda self, progress: seen.append(_alone.get()))
    prepared = prepare(make_config("trainer.steps=3"), corpus, str(tmp_path / "run"))
    run_training(prepared, engine="local")
    assert seen == [False, True, False]
