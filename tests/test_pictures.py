"""What a method shows of a run's first samples: stored with the run, and drawn on its page."""

import re

import numpy as np
import pytest
import torch

from marey.configs.load import override, read_preset, run_config
from marey.models.method import methods
from marey.pipeline.report import write_report
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.record import PICTURES, UNTRAINED, read_arrays
from tests.corpora import encode_corpus
from tests.every_method import METHOD_PRESETS, build, raw_batch, small_config

SMALL = [
    "encoder.image_size=32", "data.decode_size=32", "data.shuffle_buffer=2", "trainer.epochs=1",
    "trainer.batch_size=2", "trainer.log_every=1", "trainer.checkpoint_every=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus"), events=3))


def _run(preset: str, corpus: str, folder: str, *words: str, resume: bool = False) -> Folder:
    tree = override(read_preset(preset), [*SMALL, *words])
    config = run_config(tree, methods()[tree["name"]].Config)
    run_training(prepare(config, corpus, folder, resume=resume), engine="local")
    return Folder(folder)


def test_pictures_of_the_first_samples_are_kept_from_before_and_from_the_end(corpus, tmp_path):
    run = _run("mono_depth", corpus, str(tmp_path / "run"), "trainer.steps=3")
    first, last = read_arrays(run, f"{UNTRAINED}/{PICTURES}"), read_arrays(run, PICTURES)
    assert first.keys() == last.keys() >= {"target", "nearness"}
    samples = read_arrays(run, "samples.npz")["frames"]
    assert last["target"].shape == (len(samples), 32, 32, 3)
    # the same samples both times, seen by other weights
    assert np.array_equal(first["target"], last["target"])
    assert np.array_equal(last["target"], samples[:, 1])
    assert not np.array_equal(first["nearness"], last["nearness"])
    page = tmp_path / "page.html"
    write_report(str(tmp_path / "run"), str(page))
    text = page.read_text()
    assert ">Pictures</h2>" in text
    assert text.count("nearness, untrained") == len(samples)
    assert "target, untrained" not in text


def test_a_resumed_run_shows_the_same_samples(corpus, tmp_path):
    words = ("trainer.steps=4", "trainer.probe_every=1")
    folder = str(tmp_path / "run")
    run = _run("stereo_depth", corpus, folder, *words)
    shown = read_arrays(run, PICTURES)
    run.remove("checkpoints/step-00000004.pt")
    run.write("latest.json", b'{"checkpoint": "checkpoints/step-00000002.pt", "step": 2}')
    run.remove(PICTURES)
    _run("stereo_depth", corpus, folder, *words, resume=True)
    again = read_arrays(run, PICTURES)
    assert shown.keys() == again.keys()
    assert np.array_equal(shown["left"], again["left"])


def test_a_method_without_pictures_has_none(corpus, tmp_path):
    run = _run("shuffle_and_learn", corpus, str(tmp_path / "run"), "trainer.steps=1",
               "method.sampling.max_span_s=1.0", "method.sampling.min_gap_s=0.2")  # fmt: skip
    assert not run.exists(PICTURES)
    write_report(str(tmp_path / "run"), str(tmp_path / "page.html"))
    assert not re.search(">Pictures</h2>", (tmp_path / "page.html").read_text())


@pytest.mark.parametrize("preset", METHOD_PRESETS)
def test_every_methods_pictures_are_pictures_and_change_nothing(preset: str) -> None:
    config = small_config(preset)
    method = build(config).eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    batch = raw_batch(config)
    with torch.no_grad():
        pictures = method.pictures(batch)
    assert method.has_pictures == bool(pictures)
    for picture in pictures.values():
        assert picture.dtype == torch.uint8
        assert picture.ndim == 4
        assert (len(picture), picture.shape[3]) == (len(batch["frames"]), 3)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
