"""What a run asks of its machine: a GPU for each worker or none."""

import pytest

from configs.errors import SettingError
from configs.schema import TrainerConfig
from pipeline.launch import wants_gpus


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
