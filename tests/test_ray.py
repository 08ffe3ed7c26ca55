"""The Ray graph: the same samples as in one process, and runs that outlive killed processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from marey.configs.errors import InputError
from marey.configs.sampling import TimePairsSampling
from marey.configs.schema import DataConfig
from marey.pipeline.data.build_index import make_index, probe_corpus
from marey.pipeline.data.source import open_source
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.embedding.encoder_files import export_encoder
from marey.pipeline.runtime.engine import ray_session
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.index_stage import index_parts
from marey.pipeline.stream.plan import Position, make_plan
from marey.pipeline.stream.resources import Budget
from marey.pipeline.stream.samples import rows_of_shard, stream_here, stream_ray
from marey.pipeline.training.checkpoint import load_state, position_of
from marey.pipeline.training.job import build_method
from marey.pipeline.training.launch import prepare, run_training
from tests.corpora import encode_corpus
from tests.test_train import TREE, make_config

pytestmark = pytest.mark.timeout(900)
DATA = DataConfig(decode_size=32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus"), events=8, num_frames=24))


@pytest.fixture(scope="module")
def session():
    with ray_session() as cpus:
        yield cpus


def make(corpus, epochs=2):
    source = open_source(corpus)
    sampling = TimePairsSampling(pairs=4, per_video=2)
    return source, make_plan(source, sampling, seed=0, epochs=epochs)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.usefixtures("session")
def test_ray_gives_the_samples_of_one_process_in_the_same_order(corpus, monkeypatch):
    monkeypatch.setattr("marey.pipeline.stream.plan.UNIT_FRAMES", 48)
    source, plan = make(corpus)
    here = list(stream_here(plan, source, DATA))
    dataset = stream_ray(plan, corpus, DATA, Position(), Budget(0.5, 2, 0.4))
    there = list(rows_of_shard(dataset.iterator(), 1))
    assert len(here) == len(there) == plan.total
    assert all(same(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.usefixtures("session")
def test_the_set_of_samples_is_the_same_whatever_the_number_of_trainers(corpus, monkeypatch):
    monkeypatch.setattr("marey.pipeline.stream.plan.UNIT_FRAMES", 48)
    source, plan = make(corpus)
    here = {int(s["sample"]): s for s in stream_here(plan, source, DATA)}
    dataset = stream_ray(plan, corpus, DATA, Position(), Budget(0.5, 1, 0.4))
    there = _read_all(dataset.streaming_split(3, equal=False))
    assert sorted(int(s["sample"]) for s in there) == list(range(plan.total))
    assert all(same(here[int(s["sample"])], s) for s in there)


def _read_all(shards):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(shards)) as pool:
        parts = list(pool.map(lambda shard: list(rows_of_shard(shard, 1)), shards))
    assert all(parts), "some trainer got nothing"
    return [sample for part in parts for sample in part]


@pytest.mark.usefixtures("session")
def test_embeddings_from_ray_are_those_of_one_process(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("marey.pipeline.embedding.embed.PART_FRAMES", 160)
    monkeypatch.setattr("marey.pipeline.stream.graph.TURN_UNITS", 2)  # three parts in two turns
    check_embeddings(corpus, tmp_path, 8 * 2 * 24)


def check_embeddings(corpus, folder, frames):
    """Both engines write the same embeddings of so many frames."""
    export_encoder(Folder(folder / "run"), build_method(make_config()).encoder, {})
    for engine in ("local", "ray"):
        embed(str(folder / "run"), corpus, str(folder / engine), rate=0, engine=engine)
    here, there = (load_embeddings(folder / engine) for engine in ("local", "ray"))
    assert len(here) == frames
    assert np.array_equal(here.video_id, there.video_id)
    assert np.array_equal(here.frame, there.frame)
    assert np.array_equal(here.features, there.features)


@pytest.mark.usefixtures("session")
def test_an_index_from_ray_is_that_of_one_process(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("marey.pipeline.data.corpus.PART_ROWS", 5)  # 16 videos: four parts
    folder = str(Path(corpus).parent)
    parts = probe_corpus([folder], str(tmp_path / "i.parquet"), elsewhere=index_parts)
    assert parts.table().equals(make_index([folder]))


@pytest.mark.usefixtures("session")
def test_an_error_meant_for_a_person_ends_the_run_at_once(tmp_path):
    index = Path(encode_corpus(tmp_path / "videos", events=2, num_frames=24))
    config = make_config("trainer.max_failures=-1")  # Ray would try for ever
    prepared = prepare(config, str(index), str(tmp_path / "run"))
    for video in index.parent.glob("*.mp4"):
        video.write_bytes(b"no video")
    with pytest.raises(InputError, match="no sample could be trained on"):
        run_training(prepared)
    assert not (tmp_path / "run" / "refused.json").exists()


@pytest.mark.usefixtures("session")
def test_a_plan_that_ray_gets_in_turns_is_trained_to_its_end(corpus, tmp_path, monkeypatch):
    from ray.train.torch import TorchTrainer

    fits = []
    fit = TorchTrainer.fit
    monkeypatch.setattr(TorchTrainer, "fit", lambda self: fits.append(fit(self)))
    config = make_config("trainer.epochs=2", "trainer.probe_every=1000")
    prepared = prepare(config, corpus, str(tmp_path / "run"))
    assert sum(1 for _ in prepared.job.plan.units()) == 2
    summary = run_training(replace(prepared, turn=1))
    assert len(fits) == 2
    state = load_state(Folder(str(tmp_path / "run")))
    assert summary["samples"] == position_of(state).below == prepared.job.plan.total
    assert not (tmp_path / "run" / "ray").exists()


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    """Decoding this takes longer than training on it: there is always a decoder at work."""
    folder = tmp_path_factory.mktemp("long")
    return str(encode_corpus(folder, events=6, num_frames=150, size=(320, 240)))


EPOCHS = 10
SAMPLES = EPOCHS * 6 * 2


def start(corpus: str, run: Path, *words: str) -> subprocess.Popen:
    """`marey train` in a process group of its own."""
    preset = run.parent / "preset.yaml"
    preset.write_text(yaml.safe_dump(TREE))
    # relative paths: the processes of Ray Train run in folders of their own
    command = [sys.executable, "-m", "marey", "train", preset.name, "--json"]
    command += [
        "--data",
        os.path.relpath(corpus, run.parent),
        "--probe",
        os.path.relpath(corpus, run.parent),
    ]
    command += ["-o", run.name, "trainer.probe_every=1000", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=run.parent
    )


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Until the run has logged a step."""
    log = run / "metrics.jsonl"
    while process.poll() is None:
        if log.exists() and any(f'"step": {n},' in log.read_text() for n in range(step, step + 50)):
            return
        time.sleep(0.1)
    raise AssertionError(f"the run ended with {process.returncode} before step {step}")


def descendants(process: subprocess.Popen, name: str) -> list[psutil.Process]:
    """Processes of the run's own Ray instance, by the name that Ray gives them."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if name in " ".join(child.cmdline())
    ]


def finished(process: subprocess.Popen, run: Path) -> dict:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    position = position_of(load_state(Folder(str(run))))
    assert not position.ahead
    return json.loads(output.splitlines()[-1]) | {"below": position.below}


def test_killed_decoders_and_trainers_are_replaced_and_every_sample_counts_once(
    long_corpus, tmp_path
):
    run = tmp_path / "run"
    process = start(long_corpus, run, f"trainer.epochs={EPOCHS}")
    wait_for_step(run, 4, process)
    decoders = descendants(process, "MapWorker")
    assert decoders
    decoders[0].send_signal(signal.SIGKILL)
    wait_for_step(run, 15, process)
    trainers = descendants(process, "TrainWorker")
    assert trainers
    trainers[0].send_signal(signal.SIGKILL)
    summary = finished(process, run)
    assert summary["samples"] == summary["below"] == SAMPLES
    assert not summary["refused"]


def test_a_killed_driver_is_resumed_to_the_same_end(long_corpus, tmp_path):
    run = tmp_path / "run"
    process = start(long_corpus, run, f"trainer.epochs={EPOCHS}")
    wait_for_step(run, 10, process)
    for victim in [process, *psutil.Process(process.pid).children(recursive=True)]:
        with contextlib.suppress(ProcessLookupError):  # Ray's processes end with their driver
            os.kill(victim.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "summary.json").exists()
    state = load_state(Folder(str(run)))
    assert state is not None
    assert 0 < len(position_of(state)) < SAMPLES
    summary = finished(start(long_corpus, run, f"trainer.epochs={EPOCHS}", "--resume"), run)
    assert summary["samples"] == summary["below"] == SAMPLES


@pytest.mark.slow
def test_two_trainers_share_the_samples_without_loss(corpus, tmp_path):
    run = tmp_path / "run"
    words = ("trainer.epochs=3", "trainer.workers=2", "trainer.batch_size=6")
    summary = finished(start(corpus, run, *words), run)
    assert summary["samples"] == summary["below"] == 3 * 8 * 2
