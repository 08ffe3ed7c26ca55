"""Do the objectives equal slow, independent formulations and their known values?"""

import math

import pytest
import torch
from torch import Tensor

from marey.models.objectives import losses
from marey.models.objectives.losses import Objective, similarity


def _batch(seed: int = 0, rows: int = 8, dim: int = 5, unit: bool = True):
    """Embeddings float64 [R, D] and masks in which rows 0-1 have two positives, row 7 none."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    if unit:
        embeddings = embeddings / embeddings.norm(dim=1, keepdim=True)
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])[:rows]
    positive = (group[:, None] == group[None, :]) & ~torch.eye(rows, dtype=torch.bool)
    negative = group[:, None] != group[None, :]
    negative[4, 0] = negative[0, 4] = False  # an ignored pair
    return embeddings, positive, negative


def _slow_triplet(z: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    terms = []
    for i in range(len(z)):
        far = [k for k in range(len(z)) if negative[i, k]]
        for j in range(len(z)):
            if not positive[i, j] or not far:
                continue
            d_pos = ((z[i] - z[j]) ** 2).sum()
            d_neg = [((z[i] - z[k]) ** 2).sum() for k in far]
            farther = [d for d in d_neg if d > d_pos]
            chosen = min(farther) if farther else max(d_neg)
            terms.append(torch.clamp(d_pos - chosen + margin, min=0))
    return torch.stack(terms).mean() if terms else torch.zeros((), dtype=z.dtype)


def _slow_lifted(z: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    terms = []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            if not positive[i, j]:
                continue
            total = [
                torch.exp(margin - (z[a] - z[k]).norm())
                for a in (i, j)
                for k in range(len(z))
                if negative[a, k]
            ]
            if total:
                value = (z[i] - z[j]).norm() + torch.log(torch.stack(total).sum())
                terms.append(torch.clamp(value, min=0) ** 2 / 2)
    return torch.stack(terms).mean() if terms else torch.zeros((), dtype=z.dtype)


def _slow_info_nce(q: Tensor, k: Tensor, positive: Tensor, negative: Tensor, tau: float) -> Tensor:
    rows = []
    for i in range(len(q)):
        repulsion = [torch.exp(q[i] @ k[n] / tau) for n in range(len(k)) if negative[i, n]]
        terms = []
        for p in range(len(k)):
            if positive[i, p] and repulsion:
                hit = torch.exp(q[i] @ k[p] / tau)
                terms.append(-torch.log(hit / (hit + torch.stack(repulsion).sum())))
        if terms:
            rows.append(torch.stack(terms).mean())
    return torch.stack(rows).mean() if rows else torch.zeros((), dtype=q.dtype)


def _slow_n_pairs(q: Tensor, k: Tensor, positive: Tensor, negative: Tensor, l2: float) -> Tensor:
    lengths = sum(float(row @ row) for row in q) / len(q) + sum(float(r @ r) for r in k) / len(k)
    return _slow_info_nce(q, k, positive, negative, 1.0) + 0.25 * l2 * lengths


def _info_nce(q: Tensor, k: Tensor, positive: Tensor, negative: Tensor, tau: float) -> Objective:
    """As TCN takes it: the mean over the batch."""
    return Objective.mean(losses.info_nce(similarity(q, k, tau), positive, negative), positive)


OBJECTIVES = {
    "triplet": (lambda z, p, n: losses.semi_hard_triplet(z, p, n, 0.3),
                lambda z, p, n: _slow_triplet(z, p, n, 0.3)),
    "lifted": (lambda z, p, n: losses.lifted_structure(z, p, n, 1.0),
               lambda z, p, n: _slow_lifted(z, p, n, 1.0)),
    "info_nce": (lambda z, p, n: _info_nce(z, z, p, n, 0.2),
                 lambda z, p, n: _slow_info_nce(z, z, p, n, 0.2)),
    "n_pairs": (lambda z, p, n: losses.n_pairs(z, z, p, n, 0.02),
                lambda z, p, n: _slow_n_pairs(z, z, p, n, 0.02)),
}  # fmt: skip
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


@every_objective
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unit", [True, False])
def test_the_value_equals_the_slow_formulation(name: str, seed: int, unit: bool) -> None:
    fast, slow = OBJECTIVES[name]
    batch = _batch(seed, unit=unit)
    torch.testing.assert_close(fast(*batch).loss, slow(*batch), rtol=1e-9, atol=1e-9)


@every_objective
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    fast, _ = OBJECTIVES[name]
    embeddings, positive, negative = _batch(3)
    embeddings.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: fast(z, positive, negative).loss, embeddings)


@every_objective
def test_permuting_the_batch_changes_nothing(name: str) -> None:
    fast, _ = OBJECTIVES[name]
    embeddings, positive, negative = _batch(1)
    order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(5))
    before = fast(embeddings, positive, negative)
    after = fast(embeddings[order], positive[order][:, order], negative[order][:, order])
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


@every_objective
def test_a_batch_without_negatives_gives_zero_loss_and_zero_gradient(name: str) -> None:
    fast, _ = OBJECTIVES[name]
    embeddings, positive, negative = _batch(2)
    embeddings.requires_grad_()
    if name == "n_pairs":  # its L2 term stays, the contrast must go
        objective = losses.n_pairs(embeddings, embeddings, positive, negative & False, l2=0.0)
    else:
        objective = fast(embeddings, positive, torch.zeros_like(negative))
    objective.loss.backward()
    assert objective.loss.item() == 0
    assert objective.valid.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


@every_objective
def test_rows_without_negatives_are_left_out(name: str) -> None:
    fast, slow = OBJECTIVES[name]
    embeddings, positive, negative = _batch(4)
    negative[3:5] = False  # the pair (3, 4) has no negative at either end
    objective = fast(embeddings, positive, negative)
    torch.testing.assert_close(objective.loss, slow(embeddings, positive, negative))
    assert 0 < objective.valid.item() < 1


@every_objective
def test_half_precision_embeddings_are_compared_in_full_precision(name: str) -> None:
    fast, _ = OBJECTIVES[name]
    embeddings, positive, negative = _batch(0)
    rounded = embeddings.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = fast(rounded, positive, negative).loss
    full = fast(rounded.float(), positive, negative).loss
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=1e-6, atol=1e-6)


@every_objective
def test_collapsed_embeddings_have_the_known_value_and_finite_gradients(name: str) -> None:
    """All rows equal; every row has one positive and four negatives."""
    fast, _ = OBJECTIVES[name]
    embeddings = torch.ones(6, 4, dtype=torch.float64) / 2
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    positive = (group[:, None] == group[None, :]) & ~torch.eye(6, dtype=torch.bool)
    negative = group[:, None] != group[None, :]
    known = {
        "triplet": 0.3,  # the margin
        "lifted": (1.0 + math.log(8)) ** 2 / 2,  # margin and eight negatives at distance 0
        "info_nce": math.log(5),
        "n_pairs": math.log(5) + 0.25 * 0.02 * 2,
    }
    embeddings.requires_grad_()
    loss = fast(embeddings, positive, negative).loss
    loss.backward()
    assert loss.item() == pytest.approx(known[name], abs=1e-5)
    assert embeddings.grad.isfinite().all()


def test_the_semi_hard_negative_is_the_nearest_beyond_the_positive() -> None:
    """On a line: anchor 0, positive 1, negatives 0.5 (too hard), 1.2 (chosen) and 3."""
    z = torch.tensor([[0.0], [1.0], [0.5], [1.2], [3.0]])
    positive = torch.zeros(5, 5, dtype=torch.bool)
    negative = torch.zeros(5, 5, dtype=torch.bool)
    positive[0, 1] = True
    negative[0, 2:] = True
    assert losses.semi_hard_triplet(z, positive, negative, 0.5).loss.item() == pytest.approx(
        1 - 1.44 + 0.5
    )
    negative[0, 3:] = False  # only the too hard one is left, and is taken
    assert losses.semi_hard_triplet(z, positive, negative, 0.5).loss.item() == pytest.approx(
        1 - 0.25 + 0.5
    )


@pytest.mark.parametrize("count", [2, 16, 256])
def test_nt_xent_of_identical_crops_is_the_log_of_its_candidates(count: int) -> None:
    crops = torch.nn.functional.normalize(torch.ones(count, 8), dim=1)
    loss = losses.nt_xent(crops, crops, 0.1).loss.mean().item()
    assert loss == pytest.approx(math.log(2 * count - 1), abs=1e-4)


def test_nt_xent_of_orthonormal_pairs_has_its_closed_form() -> None:
    count, tau = 256, 0.1
    crops = torch.eye(count)
    expected = -1 / tau + math.log(math.exp(1 / tau) + 2 * count - 2)
    assert losses.nt_xent(crops, crops, tau).loss.mean().item() == pytest.approx(expected, abs=1e-5)
    assert expected == pytest.approx(0.0229, abs=1e-4)


def test_nt_xent_is_symmetric_in_its_crops_and_ignores_self_similarity() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    forwards = losses.nt_xent(first, second, 0.5).loss.mean()
    torch.testing.assert_close(forwards, losses.nt_xent(second, first, 0.5).loss.mean())
    crops = torch.cat([first, second]).requires_grad_()
    itself = torch.eye(12, dtype=torch.bool)
    logits = (crops @ crops.T / 0.5).masked_fill(itself, -torch.inf)
    target = torch.arange(12).roll(6)
    torch.testing.assert_close(forwards, torch.nn.functional.cross_entropy(logits, target))


def test_the_score_of_info_nce_is_retrieval_accuracy() -> None:
    keys = torch.eye(4)
    queries = keys[[0, 1, 3, 2]]  # the last two find each other's key
    own = torch.eye(4, dtype=torch.bool)
    objective = _info_nce(queries, keys, own, ~own, 0.1)
    assert objective.score.item() == 0.5
    collapsed = _info_nce(torch.ones(4, 4), keys, own, ~own, 0.1)
    assert collapsed.score.item() == 0  # ties are no success


@pytest.mark.parametrize("tau", [1e-3, 1e3])
def test_extreme_temperatures_stay_finite(tau: float) -> None:
    embeddings, positive, negative = _batch(0)
    z = embeddings.float().requires_grad_()
    loss = _info_nce(z, z, positive, negative, tau).loss
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_the_column_of_the_positive_and_its_mask_say_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    positive = torch.tensor([3, 0, 6, 1, 1])
    mask = torch.nn.functional.one_hot(positive, 7).bool()
    negative = ~mask & (torch.rand(5, 7, generator=generator) < 0.7)
    by_column = losses.info_nce(scores, positive, negative, 3)
    for found, wanted in zip(by_column, losses.info_nce(scores, mask, negative, 3), strict=True):
        assert torch.equal(found, wanted)
