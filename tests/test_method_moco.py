"""Does MoCo contrast with earlier keys only, keep its key side apart, leak nothing, and learn?"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.models.augmentation.multi_crop import TwoCrops
from marey.models.batch import Batch
from marey.models.contrastive.moco import MoCo, MoCoConfig
from marey.models.encoders.norms import in_groups
from marey.models.method import Progress
from marey.models.objectives.info_nce import NearDuplicates, against_queue, frame_ids
from marey.models.objectives.memory import NOBODY
from tests.joint_embedding import COLORS, dots, small_encoder
from tests.learning import train

STEP = Progress(1, 10, 0)


def _method(**settings: object) -> MoCo:
    config = MoCoConfig.model_validate(
        {
            "head": "mlp",
            "projection_dim": 16,
            "temperature": 0.2,
            "queue": 64,
            "momentum": 0.9,
            "crops": TwoCrops(first=COLORS),
            **settings,
        }
    )
    return MoCo(small_encoder(), config)


def _images(generator: torch.Generator, count: int = 32) -> Batch:
    images = dots(generator, count)
    return images | {"instance": torch.randint(2**40, (count,), generator=generator)}


def _batch(method: MoCo, count: int = 8, seed: int = 0) -> Batch:
    return method.augment(_images(torch.Generator().manual_seed(seed), count))


def _unit(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(drawn.double(), dim=-1)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_it_learns_to_tell_images_apart(head: str) -> None:
    metrics = train(_method(head=head), _images, steps=50)
    assert metrics["information"] > 0.7  # nats, of log(65) = 4.2
    assert metrics["top1"] > 0.15  # ten times 1 in 65


def test_the_objective_is_cross_entropy_with_the_own_key_first() -> None:
    queries, keys, queue = _unit(5, 8), _unit(5, 8, seed=1), _unit(12, 8, seed=2)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], dim=1) / 0.07
    wanted = functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long), reduction="none")
    every = torch.ones(5, 12, dtype=torch.bool)
    torch.testing.assert_close(against_queue(queries, keys, queue, every, 0.07).loss, wanted)


def test_values_in_closed_form() -> None:
    queue = torch.zeros(65_536, 2, dtype=torch.float64)
    every = torch.ones(1, 65_536, dtype=torch.bool)
    nothing = torch.zeros(1, 2, dtype=torch.float64)
    uniform = against_queue(nothing, nothing, queue, every, 0.07)
    assert uniform.loss.item() == pytest.approx(11.0904, abs=1e-4)  # log 65537
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    queue[:, 1] = 1
    for temperature, value in ((0.07, 0.0401), (0.2, 6.0926)):
        perfect = against_queue(query, query, queue, every, temperature)
        assert perfect.loss.item() == pytest.approx(value, abs=1e-4)


def test_gradients_are_right() -> None:
    queries, keys, queue = _unit(3, 4).requires_grad_(), _unit(3, 4, seed=1), _unit(6, 4, seed=2)
    negative = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) < 0.7
    assert torch.autograd.gradcheck(
        lambda q: against_queue(q, keys, queue, negative, 0.2).loss, queries
    )


def test_keys_join_the_queue_after_the_step_and_spare_their_own_images() -> None:
    method = _method().train()
    batch = _batch(method)
    before = method.queue.rows.clone()
    loss = method(batch)["loss"]
    assert torch.equal(method.queue.rows, before)  # keys of this batch are not among its negatives
    method.after_step(STEP)
    assert method.queue.instance[:8].tolist() == batch["instance"].tolist()
    assert (method.queue.instance[8:] == NOBODY).all()
    keys = method.queue.rows[:8]
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(8))
    assert not torch.equal(keys, before[:8])
    # The same images again: their old keys would be positives among the negatives.
    negative = method.queue.negatives(frame_ids(batch), NearDuplicates(bits=None))
    assert torch.equal(negative[:, :8], ~torch.eye(8, dtype=torch.bool))
    assert loss.requires_grad


def test_keys_of_near_moments_of_the_video_change_nothing() -> None:
    method = _method(queue=16).eval()
    batch = _batch(method, count=4)
    batch["instance"] = torch.tensor([5, 6, 7, 8])
    wanted = method(batch)["loss"]
    far = method.queue.rows[:2].clone()
    with torch.no_grad():
        # of two slots, make their keys the very queries of video 5, seen 8 s and 20 s away
        method.queue.rows[:2] = method._queries(batch["images"][:1, 0].flatten(0, 1))
        method.queue.instance[:2] = 5
        method.queue.time_s[:2] = torch.tensor([8.0, 8.0])
    near = method(batch)
    with torch.no_grad():
        method.queue.rows[:2] = far
    moved = method(batch)
    row = method.queue.negatives(frame_ids(batch), NearDuplicates())
    assert row[0, :2].tolist() == [False, False]
    assert row[1, :2].tolist() == [True, True]
    assert torch.isfinite(near["loss"])
    assert moved["loss"] < wanted  # the first frame has two negatives less
    with torch.no_grad():
        method.queue.time_s[:2] = 20.0
    assert method(batch)["loss"].item() == pytest.approx(wanted.item(), abs=1e-6)


def test_only_the_query_side_is_trained_and_the_key_side_follows_it() -> None:
    method = _method(momentum=0.9).train()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    trained = nn.ModuleList([method.encoder, method.projector])
    hand = [p.detach().clone() for p in trained.parameters()]
    for step in range(3):
        method(_batch(method, seed=step))["loss"].backward()
        got = {name for name, p in method.named_parameters() if p.grad is not None}
        assert got == {
            name for name, _ in method.named_parameters()
            if name.startswith(("encoder.", "projector."))
        }  # fmt: skip
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(STEP)
        hand = [0.9 * old + 0.1 * new for old, new in zip(hand, trained.parameters(), strict=True)]
    for followed, wanted in zip(method.key_encoder.parameters(), hand, strict=True):
        torch.testing.assert_close(followed, wanted)


class _Batch(nn.Module):
    """The barest network with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(rows)


def test_groups_have_statistics_of_their_own() -> None:
    rows = torch.randn(8, 2)
    got = in_groups(_Batch(), rows, 4)
    wanted = torch.cat([functional.batch_norm(part, None, None, training=True)
                        for part in rows.chunk(4)])  # fmt: skip
    torch.testing.assert_close(got, wanted)
    assert in_groups(_Batch(), rows[:3], 4).shape == (3, 2)  # never one row alone


def _companions(compute, images: Tensor) -> Tensor:
    """bool [N, N]: whether row i of what is computed changes with image j."""
    straight = compute(images)
    rows = []
    for number in range(len(images)):
        other = images.clone()
        other[number] = -other[number]
        rows.append(((compute(other) - straight).abs() > 1e-5).any(dim=1))
    changed = torch.stack(rows, dim=1)
    return changed & ~torch.eye(len(images), dtype=torch.bool)


@pytest.mark.parametrize(
    ("groups", "shuffled", "leaks"), [(4, False, True), (1, True, True), (4, True, False)]
)
def test_batch_statistics_do_not_tell_which_key_belongs_to_a_query(
    groups: int, shuffled: bool, leaks: bool
) -> None:
    """The leak of section 3.3: how many of those that a query is normalised with, its key is too.

    Unshuffled, or without groups in one process, it is all of them; shuffled, few.
    """
    method = _method(norm_groups=groups).train()
    images = _batch(method, count=16)["images"][:, 0].flatten(0, 1)
    draws = torch.rand(16) if shuffled else torch.linspace(0, 1, 16)
    with torch.no_grad():
        of_queries = _companions(method._queries, images)
        of_keys = _companions(lambda rows: method._keys(rows, draws), images)
    shared = (of_queries & of_keys).sum() / of_queries.sum()
    if leaks:
        assert shared == 1
    else:
        assert shared < 0.5  # 3 in 15 expected


def test_shuffling_is_undone_exactly() -> None:
    method = _method().eval()
    images = _batch(method)["images"][:, 1].flatten(0, 1)
    straight = method._keys(images, torch.linspace(0, 1, 8))
    torch.testing.assert_close(method._keys(images, torch.rand(8)), straight, atol=1e-6, rtol=0)


def test_frames_with_too_few_negatives_are_skipped_and_counted() -> None:
    method = _method(queue=8, min_negatives=8).eval()
    batch = _batch(method, count=4)
    with torch.no_grad():
        method.queue.instance[0] = batch["instance"][2]
    metrics = method(batch)
    assert metrics["valid"].item() == pytest.approx(3 / 4)
    with torch.no_grad():
        method.queue.instance[1:4] = batch["instance"][[0, 1, 3]]
    nothing = method(batch)
    assert nothing["loss"].item() == 0
    assert nothing["loss"].requires_grad


def test_it_is_ntxent_of_lightly_with_a_memory_bank() -> None:
    loss = pytest.importorskip("lightly.loss")
    queries, keys, queue = (_unit(n, 8, seed=n).float() for n in (5, 6, 16))
    keys = keys[:5]
    theirs = loss.NTXentLoss(temperature=0.2, memory_bank_size=(16, 8))
    theirs.memory_bank.bank = queue
    every = torch.ones(5, 16, dtype=torch.bool)
    ours = against_queue(queries, keys, queue, every, 0.2).loss.mean()
    torch.testing.assert_close(theirs(queries, keys), ours)


def test_the_loss_before_training_is_near_its_chance_value() -> None:
    method = _method(temperature=10.0)
    metrics = method(_batch(method))
    assert metrics["loss"].item() == pytest.approx(math.log(65), abs=0.1)
    assert metrics["information"].item() == pytest.approx(0, abs=0.1)
