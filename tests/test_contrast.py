"""Are softmax and noise contrast what their formulas say?"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from marey.models.objectives.info_nce import Terms, info_nce, positive_first, summary
from marey.models.objectives.noise_contrast import Partition, noise_contrast


def softmax_terms(right: Tensor, others: Tensor, negative: Tensor) -> Terms:
    """InfoNCE of one positive against other candidates: [R], [R, K], bool [R, K]."""
    return info_nce(*positive_first(right, others, negative))


def nce_terms(right: Tensor, others: Tensor, negative: Tensor, log_z: Tensor, places: int) -> Terms:
    """Noise contrast of the same."""
    return noise_contrast(*positive_first(right, others, negative), log_z, places)


def _scores(rows: int = 5, others: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(rows, generator=generator, dtype=torch.float64) * 3
    against = torch.randn(rows, others, generator=generator, dtype=torch.float64) * 3
    return right, against, torch.rand(rows, others, generator=generator) < 0.7


def test_softmax_is_cross_entropy_over_the_negatives() -> None:
    right, others, negative = _scores()
    terms = softmax_terms(right, others, negative)
    for row in range(len(right)):
        logits = torch.cat([right[row : row + 1], others[row][negative[row]]])
        wanted = functional.cross_entropy(logits[None], torch.tensor([0]))
        torch.testing.assert_close(terms.loss[row], wanted)
        assert terms.hit[row] == (logits.argmax() == 0)
        kept = math.log(len(logits)) - wanted
        torch.testing.assert_close(terms.information[row].double(), kept, atol=1e-5, rtol=1e-5)


def test_nce_is_two_kinds_of_logistic_loss() -> None:
    right, others, negative = _scores()
    log_z, places, drawn = torch.tensor(1.3, dtype=torch.float64), 50, others.shape[1]
    terms = nce_terms(right, others, negative, log_z, places)
    for row in range(len(right)):
        likely = right[row].exp() / log_z.exp()
        wanted = -(likely / (likely + drawn / places)).log()
        for score in others[row][negative[row]]:
            unlikely = score.exp() / log_z.exp()
            wanted = wanted - (1 - unlikely / (unlikely + drawn / places)).log()
        torch.testing.assert_close(terms.loss[row], wanted)


def test_values_where_nothing_is_known() -> None:
    """InstDisc: log N, and (m + 1) log(m + 1) - m log m where P(i | f) = 1 / N for all."""
    places, drawn = 1000, 4096
    zeros, all_ = torch.zeros(2), torch.ones(2, drawn, dtype=torch.bool)
    whole = softmax_terms(zeros, torch.zeros(2, places - 1), all_[:, : places - 1])
    torch.testing.assert_close(whole.loss, torch.full((2,), math.log(places)))
    torch.testing.assert_close(whole.information, zeros, atol=1e-5, rtol=0)
    flat = nce_terms(zeros, torch.zeros(2, drawn), all_, torch.tensor(math.log(places)), places)
    wanted = (drawn + 1) * math.log(drawn + 1) - drawn * math.log(drawn)
    assert wanted == pytest.approx(9.3179, abs=1e-4)
    torch.testing.assert_close(flat.loss, torch.full((2,), wanted), atol=2e-3, rtol=0)


def test_noise_contrast_comes_near_the_softmax_gradient_with_much_noise() -> None:
    """With the exact Z; cosine 0.99 from half as much noise as there are rows."""
    generator = torch.Generator().manual_seed(1)
    places, tau = 2000, 0.07
    bank = functional.normalize(torch.randn(places, 16, generator=generator).double())
    cosines = []
    for _ in range(20):
        embedding = functional.normalize(torch.randn(16, generator=generator).double(), dim=0)
        embedding.requires_grad_()
        scores = bank @ embedding / tau
        (whole,) = torch.autograd.grad(scores.logsumexp(0) - scores[0], embedding)
        noise = torch.randint(places, (places * 10,), generator=generator)
        scores = bank @ embedding / tau
        log_z = scores.detach().logsumexp(0)
        negative = torch.ones(1, len(noise), dtype=torch.bool)
        terms = nce_terms(scores[:1], scores[noise][None], negative, log_z, places)
        (noisy,) = torch.autograd.grad(terms.loss.sum(), embedding)
        cosines.append(functional.cosine_similarity(whole, noisy, dim=0))
    assert torch.stack(cosines).mean() > 0.99


def test_gradients_are_right() -> None:
    right, others, negative = _scores()
    log_z = torch.tensor(0.5, dtype=torch.float64)
    inputs = (right.requires_grad_(), others.requires_grad_())
    assert torch.autograd.gradcheck(lambda r, o: softmax_terms(r, o, negative).loss, inputs)
    assert torch.autograd.gradcheck(lambda r, o: nce_terms(r, o, negative, log_z, 50).loss, inputs)


@pytest.mark.parametrize("kind", ["softmax", "nce"])
def test_what_is_no_negative_has_no_gradient_and_rows_without_negatives_do_not_count(
    kind: str,
) -> None:
    right, others, negative = _scores()
    negative[1] = False
    others.requires_grad_()
    if kind == "softmax":
        terms = softmax_terms(right, others, negative)
    else:
        terms = nce_terms(right, others, negative, torch.tensor(0.5), 50)
    summary(terms)["loss"].backward()
    assert torch.isfinite(others.grad).all()
    assert (others.grad[~negative] == 0).all()
    assert terms.counted.tolist() == [True, False, True, True, True]


def test_scores_at_the_end_of_float16_stay_finite() -> None:
    """A cosine of 1 at temperature 0.07, against its opposite."""
    right = torch.tensor([1 / 0.07, -1 / 0.07], requires_grad=True)
    others = torch.tensor([[-1 / 0.07], [1 / 0.07]])
    all_ = torch.ones(2, 1, dtype=torch.bool)
    for terms in (
        softmax_terms(right, others, all_),
        nce_terms(right, others, all_, torch.tensor(9.0), 1000),
    ):
        (gradient,) = torch.autograd.grad(terms.loss.sum(), right)
        assert torch.isfinite(terms.loss).all()
        assert torch.isfinite(gradient).all()


def test_z_is_the_mean_of_the_first_batches_and_then_frozen() -> None:
    partition = Partition(batches=3)
    batches = [torch.randn(4, 6, generator=torch.Generator().manual_seed(n)) for n in range(5)]
    means = [float(batch.exp().mean()) for batch in batches]
    for step, batch in enumerate(batches):
        so_far = means[: min(step + 1, 3)]
        log_z = partition.log_z(batch, rows=100)
        assert log_z.item() == pytest.approx(math.log(100 * sum(so_far) / len(so_far)), rel=1e-5)
        partition.write()
    assert partition.seen == 3
    assert partition.eval().log_z(batches[0] + 50, rows=100) == log_z


def test_z_is_finite_at_any_temperature() -> None:
    partition = Partition(batches=2)
    scores = torch.tensor([[1.0, 0.5]]) / 0.005
    for _ in range(3):
        log_z = partition.log_z(scores, rows=100)
        assert log_z.item() == pytest.approx(200 + math.log(100 / 2), rel=1e-6)
        partition.write()
