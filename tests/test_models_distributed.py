"""Do losses and gradients of two processes equal those of one, also with uneven masks?

`test_every_method` asks it of every preset; here are objectives and masks that no preset has.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from configs.encoder import EncoderConfig
from models.augment import AugmentConfig
from models.contrastive.simclr import SimCLR, SimCLRConfig
from models.distributed import gather_rows, mean_over_ranks
from models.encoder import Encoder
from models.method import Batch, Method
from models.temporal.tcn import TCN, TCNConfig
from models.temporal.tracked_patches import TrackedPatches, TrackedPatchesConfig

WORLD = 2


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


def _part(batch: Batch, rank: int, world: int) -> Batch:
    """This rank's samples."""
    share = len(batch["instance"]) // world
    return {key: value[rank * share : (rank + 1) * share] for key, value in batch.items()}


def _step(name: str, method: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
    metrics = method(batch)
    metrics["loss"].backward()
    loss = metrics["loss"].detach().clone()
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    gradients = {
        key.removeprefix("module."): value.grad for key, value in method.named_parameters()
    }
    return {"loss": loss, **{k: g for k, g in gradients.items() if g is not None}}


def _build(name: str) -> Method:
    torch.manual_seed(0)
    return METHODS[name]().eval()  # statistics of batch norm are the trainer's affair


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    results = {}
    for name in METHODS:
        method = DistributedDataParallel(_build(name))
        results[name] = _step(name, method, _part(_batch(name), rank, WORLD))
    values = torch.tensor([1.0, 2.0, 3.0]) + 10 * rank
    mask = torch.tensor([True, True, True]) if rank else torch.tensor([True, False, False])
    results["mean"] = {"share": mean_over_ranks(values, mask)}
    empty = torch.zeros(3, requires_grad=True)
    mean_over_ranks(empty, mask & False).backward()
    results["empty"] = {"gradient": empty.grad}
    results["order"] = {"rows": gather_rows(torch.full((2, 1), rank))}
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes computed on its half of the batch."""
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.spawn(_worker, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_have_the_loss_and_gradient_of_one(ranks: list, name: str) -> None:
    alone = _step(name, _build(name), _part(_batch(name), 0, 1))
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
