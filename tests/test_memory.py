"""Do queue and bank hold what they should, in order, the same on every rank and after a restart?"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from marey.models.objectives.distributed import rank, shuffle_rows, unshuffle_rows
from marey.models.objectives.fingerprints import UNKNOWN
from marey.models.objectives.info_nce import NearDuplicates
from marey.models.objectives.memory import NOBODY, Bank, Queue
from tests.moments import unseen
from tests.two_processes import in_two_processes, own_share, parallel

DIM = 3


def _unit(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(drawn, dim=-1)


def test_a_queue_holds_the_last_keys_in_order() -> None:
    """Against a list, with batches of changing size that wrap around and exceed the ring."""
    queue = Queue(5, DIM)
    history: list[tuple[Tensor, int]] = []
    for step, count in enumerate([2, 2, 3, 1, 7, 4]):
        keys, instances = _unit(count, DIM, seed=step), [10 * step + n for n in range(count)]
        queue.hold(keys, unseen(instances, [float(step)] * count))
        queue.write()
        history += list(zip(keys, instances, strict=True))
        if len(history) >= 5:
            order = [(int(queue.head) + n) % 5 for n in range(5)]  # oldest first
            wanted = history[-5:]
            assert torch.equal(queue.rows[order], torch.stack([key for key, _ in wanted]))
            assert queue.instance[order].tolist() == [number for _, number in wanted]
            assert queue.time_s[order].tolist() == [number // 10 for _, number in wanted]


def test_near_copies_in_queue_and_bank_do_not_repel_whatever_video_they_are_of() -> None:
    hashes = torch.tensor([0b1111_0000, 0b1111_0111, 1 << 62])
    where = unseen([3, 4, 5])._replace(dhash=hashes)
    asked = unseen([8, 9])._replace(dhash=torch.tensor([0b1111_0001, UNKNOWN]))
    queue, bank = Queue(4, DIM), Bank(4, DIM)
    queue.hold(_unit(3, DIM), where)
    bank.hold(torch.arange(3), _unit(3, DIM), where)
    queue.write()
    bank.write()
    # the third is another picture, the fourth was never written
    wanted = [[False, False, True, True], [True, True, True, True]]
    place, chosen = torch.tensor([3, 3]), torch.arange(4).expand(2, -1)
    assert queue.negatives(asked, NearDuplicates()).tolist() == wanted
    own = [[*row[:3], False] for row in wanted]  # place 3 is theirs
    assert bank.negatives(place, asked, NearDuplicates()).tolist() == own
    assert bank.negatives(place, asked, NearDuplicates(), chosen).tolist() == own
    assert queue.negatives(asked, NearDuplicates(bits=None)).all()
    assert queue.negatives(asked, NearDuplicates(bits=1)).tolist()[0] == [False, True, True, True]


def test_held_keys_join_only_when_written() -> None:
    queue = Queue(4, DIM)
    before = queue.rows.clone()
    queue.hold(_unit(2, DIM), unseen([0, 1]))
    queue.hold(_unit(1, DIM, seed=1), unseen([2]))
    assert torch.equal(queue.rows, before)
    queue.write()
    assert queue.instance.tolist() == [0, 1, 2, NOBODY]
    queue.write()
    assert queue.instance.tolist() == [0, 1, 2, NOBODY]


def test_nothing_is_held_in_evaluation() -> None:
    queue = Queue(4, DIM).eval()
    queue.hold(_unit(2, DIM), unseen([0, 1]))
    queue.write()
    assert queue.instance.tolist() == [NOBODY] * 4


def test_keys_of_near_moments_do_not_repel() -> None:
    queue = Queue(4, DIM)
    where = unseen([3, 3, 8], [0.0, 30.0, 0.0])
    queue.hold(_unit(3, DIM), where)
    queue.write()
    asked = unseen([3, 9], [5.0, 0.0])
    assert queue.negatives(asked, NearDuplicates()).tolist() == [
        [False, True, True, True],
        [True, True, True, True],
    ]


def test_memories_take_no_gradient_and_are_no_buffers() -> None:
    """DDP sends every buffer before every forward pass; a bank is too large for that."""
    for memory in (Queue(4, DIM), Bank(4, DIM)):
        assert not list(memory.buffers())
        assert not any(p.requires_grad for p in memory.parameters())
        torch.testing.assert_close(memory.rows.norm(dim=1), torch.ones(4))
    embeddings = _unit(2, DIM).requires_grad_()
    bank = Bank(4, DIM)
    bank.hold(torch.tensor([0, 1]), embeddings, unseen([0, 1]))
    bank.write()
    assert not bank.rows.requires_grad
    assert bank.rows.grad_fn is None


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_a_bank_row_is_a_running_mean_of_unit_length(keep: float) -> None:
    bank = Bank(6, DIM, keep=keep)
    before, new = bank.rows.clone(), _unit(2, DIM)
    bank.hold(torch.tensor([4, 1]), new, unseen([40, 10], [2.0, 2.0]))
    bank.write()
    wanted = functional.normalize(keep * before[[4, 1]] + (1 - keep) * new)
    torch.testing.assert_close(bank.rows[[4, 1]], wanted)
    untouched = [0, 2, 3, 5]
    assert torch.equal(bank.rows[untouched], before[untouched])
    assert bank.instance.tolist() == [NOBODY, 10, NOBODY, NOBODY, 40, NOBODY]
    assert bank.time_s[[4, 1]].tolist() == [2.0, 2.0]


def test_of_two_embeddings_of_one_place_the_last_counts() -> None:
    bank = Bank(3, DIM, keep=0.5)
    before, new = bank.rows.clone(), _unit(4, DIM)
    bank.hold(torch.tensor([2, 0, 2]), new[:3], unseen([5, 6, 7]))
    bank.hold(torch.tensor([2]), new[3:], unseen([8]))  # a second round of accumulation
    bank.write()
    torch.testing.assert_close(bank.rows[2], functional.normalize(before[2] + new[3], dim=0))
    assert bank.instance.tolist() == [6, NOBODY, 8]


def test_a_bank_spares_the_own_row_and_near_moments() -> None:
    bank = Bank(4, DIM)
    where = unseen([3, 3, 3], [0.0, 5.0, 30.0])
    bank.hold(torch.tensor([0, 1, 2]), _unit(3, DIM), where)
    bank.write()
    asked = unseen([3, 3], [1.0, 40.0])
    every = bank.negatives(torch.tensor([0, 2]), asked, NearDuplicates())
    assert every.tolist() == [[False, False, True, True], [True, True, False, True]]
    chosen = torch.tensor([[3, 0, 1], [2, 2, 0]])
    some = bank.negatives(torch.tensor([0, 2]), asked, NearDuplicates(), chosen)
    assert torch.equal(some, every.gather(1, chosen))


def test_age_and_agreement_tell_how_stale_a_bank_is() -> None:
    bank = Bank(4, DIM, keep=0.0)
    assert bank.age() == 0
    for place in ([0, 1], [1, 2], [2]):
        bank.hold(torch.tensor(place), _unit(len(place), DIM), unseen(place))
        bank.write()
    assert bank.age().item() == pytest.approx((2 + 1 + 0) / 3)  # rows 0, 1 and 2; 3 is unwritten
    same = bank.agreement(torch.tensor([0, 2, 3]), bank.rows[[0, 2, 3]])
    assert same.item() == pytest.approx(1)
    assert bank.agreement(torch.tensor([0]), -bank.rows[[0]]).item() == pytest.approx(-1)
    assert bank.agreement(torch.tensor([3]), bank.rows[[3]]) == 0


def test_a_restored_memory_goes_on_as_the_first_would() -> None:
    for build in (lambda: Queue(5, DIM), lambda: Bank(5, DIM)):
        torch.manual_seed(0)
        first = build()
        torch.manual_seed(1)
        second = build()

        def step(memory: Queue | Bank, seed: int) -> None:
            rows, where = _unit(3, DIM, seed=seed), unseen([seed, seed + 1, seed + 2])
            if isinstance(memory, Bank):
                memory.hold(torch.tensor([0, seed, 4]), rows, where)
            else:
                memory.hold(rows, where)
            memory.write()

        step(first, 1)
        step(first, 2)
        second.load_state_dict(first.state_dict())
        step(first, 3)
        step(second, 3)
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name


class _Remembers(torch.nn.Module):
    """A layer with both memories, as a method has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(DIM, DIM)
        self.queue, self.bank = Queue(6, DIM), Bank(6, DIM)

    def forward(self, rows: Tensor, place: Tensor) -> Tensor:
        where = unseen(place.tolist())
        out = functional.normalize(self.layer(rows))
        self.queue.hold(out, where)
        self.bank.hold(place, out, where)
        return out.sum()


PLACES = torch.tensor([[0, 1, 2, 1], [3, 0, 3, 5]])
"""Of two steps, with places that repeat within and across ranks."""


def _remember() -> dict[str, Tensor]:
    module = _Remembers()
    model = parallel(module)
    for step, place in enumerate(PLACES):
        model(**own_share({"rows": _unit(4, DIM, seed=step), "place": place})).backward()
        module.queue.write()
        module.bank.write()
    return {name: value.clone() for name, value in module.state_dict().items()}


def _work() -> dict:
    mine = torch.arange(6.0).view(3, 2) + 100 * rank()
    draws = torch.tensor([[0.5, 0.1, 0.9], [0.3, 0.8, 0.2]])[rank()]
    mixed, order = shuffle_rows(mine, draws)
    return {
        "memory": _remember(),
        "mixed": mixed,
        "back": unshuffle_rows(mixed, order),
        "mine": mine,
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes holds."""
    return in_two_processes(_work, tmp_path_factory.mktemp("gloo"))


def test_all_ranks_remember_what_one_process_would(ranks: list[dict]) -> None:
    alone = _remember()
    for result in ranks:
        for name, value in alone.items():
            torch.testing.assert_close(result["memory"][name], value, msg=name)
    for name, value in ranks[0]["memory"].items():
        assert torch.equal(value, ranks[1]["memory"][name]), name


def test_shuffled_rows_are_dealt_over_ranks_and_come_back(ranks: list[dict]) -> None:
    every = torch.cat([result["mine"] for result in ranks])
    order = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.8, 0.2]).argsort()
    assert torch.equal(torch.cat([result["mixed"] for result in ranks]), every[order])
    for result in ranks:
        assert torch.equal(result["back"], result["mine"])


def test_in_one_process_a_shuffle_comes_back_too() -> None:
    rows = _unit(7, DIM)
    mixed, order = shuffle_rows(rows, torch.rand(7))
    assert torch.equal(mixed, rows[order])
    assert torch.equal(unshuffle_rows(mixed, order), rows)
