"""Ctrl-C and SIGTERM: work ends in order, keeps what it has, and says how it goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.checkpoint import load_state, position_of
from tests.corpora import encode_corpus
from tests.test_train import TREE

pytestmark = pytest.mark.timeout(600)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus"), events=12, num_frames=24))


def begin(folder: Path, *words: str) -> subprocess.Popen:
    """A command in a process group of its own, which answers signals as from a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "marey", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        start_new_session=True,
        # a test that runs in the background has a SIGINT that is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def stop(process: subprocess.Popen, number: signal.Signals) -> list[str]:
    """Send a signal, to the whole group as a terminal does with Ctrl-C; the lines that are said."""
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == CODES[number], said
    assert "Traceback" not in said
    return said.strip().splitlines()


def until(process: subprocess.Popen, holds) -> None:
    """Wait for something that a process does."""
    while not holds():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.02)


def logged(run: Path) -> int:
    """The last step that a run has logged."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def train_words(folder: Path, corpus: str, engine: str, *words: str) -> list[str]:
    """A long run that writes no checkpoint of itself."""
    (folder / "preset.yaml").write_text(yaml.safe_dump(TREE))
    return [
        "train", "preset.yaml", "--data", corpus, "-o", "run", "--engine", engine,
        "trainer.checkpoint_every=100000", "trainer.log_every=1", *words,
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_run_that_is_stopped_writes_a_checkpoint_and_goes_on_to_its_end(
    engine, number, corpus, tmp_path
):
    words = train_words(tmp_path, corpus, engine, "trainer.epochs=400")
    process = begin(tmp_path, *words)
    until(process, lambda: logged(tmp_path / "run") >= 3)
    said = stop(process, number)
    run = Folder(tmp_path / "run")
    state = load_state(run)
    assert state is not None
    assert state["step"] >= 3
    assert len(position_of(state)) == 2 * state["step"]  # batches of two: every sample counts
    assert f"the checkpoint of step {state['step']} is written" in said[-1]
    assert said[-1].endswith(f"this goes on: {shlex.join(['marey', *words, '--resume'])}")
    assert not run.exists("summary.json")
    words[words.index("trainer.epochs=400")] = f"trainer.steps={state['step'] + 2}"
    process = begin(tmp_path, *words, "--resume", "--json")
    output, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert json.loads(output.splitlines()[-1])["step"] == state["step"] + 2


def test_a_run_that_is_stopped_before_its_first_step_is_begun_again(corpus, tmp_path):
    words = train_words(tmp_path, corpus, "local", "trainer.epochs=400")
    process = begin(tmp_path, *words)
    until(process, lambda: (tmp_path / "run" / "config.yaml").exists())
    said = stop(process, signal.SIGTERM)
    begun = bool(Folder(tmp_path / "run").names("checkpoints"))
    assert said[-1].endswith("--resume") == begun
    assert ("this goes on: " in said[-1]) == begun


def test_a_second_signal_ends_a_run_at_once(corpus, tmp_path):
    """Here while its first is answered: a third of a second after it, a step takes longer."""
    words = train_words(tmp_path, corpus, "local", "trainer.batch_size=400", "trainer.epochs=4000")
    process = begin(tmp_path, *words)
    until(process, lambda: (tmp_path / "run" / "untrained").exists())
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.3)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in said


def goes_on(folder, words, out, last, number):
    """Stop a command once a part is there, and run it again: what was made stays.

    last: the file that is written when the result is whole. Returns the parts that were made before
    the signal, and what the second run prints.
    """
    process = begin(folder, *words)
    parts = folder / out / "parts"
    until(process, lambda: parts.exists() and any(parts.glob("part-*.parquet")))
    said = stop(process, number)
    made = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    assert not (folder / out / last).exists()
    assert said[-1].endswith(f"this goes on: {shlex.join(['marey', *words])}")
    process = begin(folder, *words, "--json")
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert made.items() <= {p.name: p.stat().st_mtime_ns for p in parts.glob("*")}.items()
    return made, output


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_embedding_that_is_stopped_goes_on_with_the_same_command(engine, corpus, tmp_path):
    """A part has 1,024 rows: here 2 frames in 512 copies each."""
    words = ["embed", "pixels", "--data", corpus, "-o", "e", "--fps", "2", "--copies", "512"]
    words += ["--engine", engine]
    made, output = goes_on(tmp_path, words, "e", "_meta.parquet", signal.SIGINT)
    frames = json.loads(output.splitlines()[-1])["frames"]
    assert frames == len(load_embeddings(tmp_path / "e")) > 512 * len(made)


def test_mining_that_is_stopped_goes_on_with_the_same_command(corpus, tmp_path):
    words = ["mine", corpus, "-o", "m", "--engine", "local", "track_s=0.5"]
    made, _ = goes_on(tmp_path, words, "m", "manifest.json", signal.SIGTERM)
    assert len([*(tmp_path / "m" / "parts").glob("*")]) > len(made)
