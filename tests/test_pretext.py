"""A run is scored on its own task, on other data, beside the weights that it started from."""

import math

import pytest

from marey.configs.errors import InputError
from marey.pipeline.cli.main import main
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.pretext import mean_metrics, pretext
from tests.corpora import encode_corpus
from tests.test_train import make_config


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretext")
    return [str(encode_corpus(folder / name, events=3)) for name in ("seen", "unseen")]


@pytest.fixture(scope="module")
def run(corpora, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("run") / "run")
    run_training(
        prepare(make_config("trainer.epochs=40", "trainer.steps=40"), corpora[0], folder),
        engine="local",
    )
    return folder


def test_the_untrained_weights_stand_beside_the_trained_ones(run, corpora):
    scores = pretext(run, corpora[1], samples=8)
    assert scores.trained.keys() == scores.untrained.keys()
    assert scores.trained["loss"] < scores.untrained["loss"]
    assert set(scores.chance) <= set(scores.trained)


def test_scores_are_the_same_again(run, corpora):
    assert pretext(run, corpora[1], samples=8) == pretext(run, corpora[1], samples=8)


def test_the_command_prints_figures_baseline_and_chance(run, corpora, capsys):
    assert main(["eval", "pretext", run, "--data", corpora[1], "samples=8"]) == 0
    shown = capsys.readouterr().out
    assert "retrieval_top1_chance" in shown
    assert "baseline" in shown
    assert "8 samples" in shown


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, corpora):
    with pytest.raises(InputError, match="no checkpoint"):
        pretext(str(tmp_path), corpora[1])


def test_metrics_are_means_over_the_samples_that_count():
    batches = [
        ({"accuracy": 0.75, "valid": 1.0, "loss": 1.0}, 12),
        ({"accuracy": 0.25, "valid": 1 / 3, "loss": math.nan}, 12),
        ({"accuracy": 0.0, "valid": 0.0, "loss": 0.0}, 12),  # of stills: nothing was asked
    ]
    means = mean_metrics(batches)
    assert means["accuracy"] == pytest.approx((12 * 0.75 + 4 * 0.25) / 16)
    assert means["valid"] == pytest.approx(4 / 9)
    assert means["loss"] == 1.0
    assert mean_metrics(batches[2:]) == batches[2][0]
    assert mean_metrics([({"loss": math.nan}, 12)]) == {}
    assert mean_metrics([({"loss": 1.0}, 1), ({"loss": 4.0}, 2)]) == {"loss": 3.0}
