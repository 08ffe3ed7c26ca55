"""What a run asks of its machine: a GPU for each worker, or threads for those on the CPU."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray.train
import torch

from marey.configs.errors import SettingError
from marey.configs.schema import TrainerConfig
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.training import train_on_ray
from marey.pipeline.training.job import Job
from marey.pipeline.training.launch import Prepared, prepare
from marey.pipeline.training.train_on_ray import wants_gpus
from tests.corpora import encode_corpus
from tests.test_train import make_config


def trainer(**settings):
    return TrainerConfig(batch_size=8, **settings)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_run_with_fewer_gpus_than_workers_is_refused_and_does_not_wait(device):
    assert wants_gpus(trainer(workers=2, device=device), 2)
    with pytest.raises(SettingError, match=r"workers=2 needs as many GPUs, .* has 1;"):
        wants_gpus(trainer(workers=2, device=device), 1)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_an_elastic_run_starts_with_as_few_gpus_as_it_goes_on_with(device):
    elastic = trainer(workers=4, min_workers=2, device=device)
    assert wants_gpus(elastic, 2)
    with pytest.raises(SettingError, match="min_workers=2 needs as many GPUs"):
        wants_gpus(elastic, 1)


def test_a_run_without_gpus_takes_none_unless_it_was_told_to():
    assert not wants_gpus(trainer(), 0)
    assert not wants_gpus(trainer(device="cpu"), 8)
    with pytest.raises(SettingError, match="has 0;"):
        wants_gpus(trainer(device="cuda"), 0)


def test_networks_that_cannot_be_built_are_refused_before_anything_starts(tmp_path):
    corpus = str(encode_corpus(tmp_path / "corpus", events=2))
    with pytest.raises(SettingError, match=r"'resnet81' .*did you mean"):
        prepare(make_config("encoder.backbone=resnet81"), corpus, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("device", "threads"), [("cpu", [default_workers()]), ("auto", [])])
def test_only_a_trainer_on_the_cpu_takes_its_threads(device, threads, monkeypatch, tmp_path):
    """Also where there are GPUs: Ray need not hide those that nobody asked for."""
    config = make_config(f"trainer.device={device}")
    job = Job(config, cast(Any, None), str(tmp_path), {})
    context = SimpleNamespace(get_local_world_size=lambda: 1, get_world_rank=lambda: 0)
    set_to, trained = [], []
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train, "get_dataset_shard", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(train_on_ray, "set_threads", set_to.append)
    monkeypatch.setattr(train_on_ray, "train", lambda *given: trained.append(given))
    train_on_ray._worker({"prepared": Prepared(job, "", None, 0)})
    assert set_to == threads
    assert len(trained) == 1
