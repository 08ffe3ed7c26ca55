"""Do losses and gradients of two processes equal those of one, also with uneven masks?

`test_every_method` asks it of every preset; here are objectives and masks that no preset has.
"""

import pytest
import torch
from torch import Tensor

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.contrastive.simclr import SimCLR, SimCLRConfig
from marey.models.encoders.encoder import Encoder
from marey.models.objectives.distributed import alone, gather_rows, mean_over_ranks, rank
from marey.models.temporal.tcn import TCN, TCNConfig
from marey.models.temporal.tracked_patches import TrackedPatches, TrackedPatchesConfig
from tests.two_processes import WORLD, backward, gradients, in_two_processes, parallel


def _encoder(unit_norm: bool) -> Encoder:
    return Encoder(
        EncoderConfig(
            backbone="tiny", stages=2, image_size=16, embedding_dim=8, unit_norm=unit_norm
        )
    )


def _tcn(loss: str) -> TCN:
    config = TCNConfig.model_validate(
        {"loss": loss, "other_samples": True, "sampling": {"kind": "view_pairs", "pairs": 3}}
    )
    return TCN(_encoder(unit_norm=loss in ("triplet", "infonce")), config)


def _simclr() -> SimCLR:
    # Of the first rank's rows many are skipped and of the second's few: means of means would err.
    return SimCLR(_encoder(False), SimCLRConfig(min_negatives=5, augment=AugmentConfig()))


def _tracked_patches(loss: str) -> TrackedPatches:
    config = {"loss": loss, "mining": "hard", "hard_share": 1, "augment": AugmentConfig()}
    return TrackedPatches(_encoder(False), TrackedPatchesConfig.model_validate(config))


METHODS = {
    "triplet": lambda: _tcn("triplet"),
    "lifted": lambda: _tcn("lifted"),
    "npairs": lambda: _tcn("npairs"),
    "infonce": lambda: _tcn("infonce"),
    "simclr": _simclr,
    "tracked_triplets": lambda: _tracked_patches("triplet"),
    "tracked_infonce": lambda: _tracked_patches("infonce"),
}


def _batch(name: str) -> Batch:
    generator = torch.Generator().manual_seed(7)
    if name == "simclr":
        return {
            "images": torch.randn(4, 2, 1, 3, 16, 16, generator=generator),
            "instance": torch.tensor([0, 0, 0, 2]),
            "time_s": torch.tensor([[0.0], [1.0], [2.0], [3.0]]),
        }
    if name.startswith("tracked"):
        # The first rank's second track has no negative within its own rank.
        images = torch.randn(4, 2, 3, 16, 16, generator=generator)
        lot = torch.rand(4, 3, generator=generator)
        return {"images": images, "instance": torch.tensor([0, 0, 0, 2]), "lot": lot}
    times = torch.arange(3.0).repeat(4, 2)
    return {
        "images": torch.randn(4, 6, 3, 16, 16, generator=generator),
        "instance": torch.tensor([0, 1, 0, 2]),  # samples 0 and 2 show one event
        "time_s": times + torch.tensor([[0.0], [0.0], [1.0], [0.0]]),
        "view": torch.tensor([0, 0, 0, 1, 1, 1]).repeat(4, 1),
    }


def _step(name: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    method = METHODS[name]().eval()  # statistics of batch norm are the trainer's affair
    loss = backward(parallel(method), _batch(name))
    return {"loss": loss, **gradients(method)}


def _work() -> dict[str, dict]:
    results: dict[str, dict] = {name: _step(name) for name in METHODS}
    values = torch.tensor([1.0, 2.0, 3.0]) + 10 * rank()
    mask = torch.tensor([True, True, True]) if rank() else torch.tensor([True, False, False])
    results["mean"] = {"share": mean_over_ranks(values, mask)}
    empty = torch.zeros(3, requires_grad=True)
    mean_over_ranks(empty, mask & False).backward()
    results["empty"] = {"gradient": empty.grad}
    results["order"] = {"rows": gather_rows(torch.full((2, 1), rank()))}
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes computed on its half of the batch."""
    return in_two_processes(_work, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_have_the_loss_and_gradient_of_one(ranks: list, name: str) -> None:
    alone = _step(name)
    assert alone["loss"] > 0
    for result in ranks:
        assert result[name].keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(result[name][key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_shares_average_to_the_global_mean(ranks: list) -> None:
    shares = [result["mean"]["share"] for result in ranks]
    assert (sum(shares) / WORLD).item() == pytest.approx((1 + 11 + 12 + 13) / 4)


def test_a_batch_without_valid_values_keeps_the_graph(ranks: list) -> None:
    for result in ranks:
        assert torch.equal(result["empty"]["gradient"], torch.zeros(3))


def test_rows_come_in_rank_order(ranks: list) -> None:
    for result in ranks:
        assert result["order"]["rows"].flatten().tolist() == [0, 0, 1, 1]


def test_without_a_process_group_nothing_changes() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
    mean = mean_over_ranks(rows[:, 0], torch.tensor([True, False, True]))
    torch.testing.assert_close(mean, rows[[0, 2], 0].mean())


def _shared_step() -> dict[str, Tensor]:
    """The loss and gradients of a batch that every process holds whole."""
    torch.manual_seed(0)
    method = _simclr().eval()  # in training, batch norm makes noise of what is nearly 0
    model = parallel(method)
    batch = _batch("simclr")
    torch.manual_seed(1)
    with alone():
        loss = model(batch)["loss"]
        loss.backward()
    return {"loss": loss.detach(), **gradients(method)}


def test_a_batch_that_every_process_holds_has_the_loss_of_one_process(tmp_path) -> None:
    here = _shared_step()
    for found in in_two_processes(_shared_step, tmp_path):
        for name, value in here.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_being_alone_ends_where_it_ends(tmp_path) -> None:
    for number, found in enumerate(in_two_processes(_ranks, tmp_path)):
        assert found == {"alone": torch.tensor(0), "together": torch.tensor(number)}


def _ranks() -> dict[str, Tensor]:
    with alone():
        inside = rank()
    return {"alone": torch.tensor(inside), "together": torch.tensor(rank())}
