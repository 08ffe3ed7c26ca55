"""Does Local Aggregation cluster its bank, gather close rows among near ones, and learn?"""

import math

import pytest
import torch
from sklearn.metrics import homogeneity_score, silhouette_score
from torch import Tensor
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.contrastive.local_aggregation import (
    LocalAggregation,
    LocalAggregationConfig,
    aggregation_terms,
    nearest_rows,
)
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus, Progress
from marey.models.objectives.clustering import cluster_rows
from tests.learning import draw_dots

PLACES = 96
AUGMENT = AugmentConfig(jitter=1.0, brightness=0.5, contrast=0.3, saturation=0.5, hue=0.2)


def _method(**settings: object) -> LocalAggregation:
    torch.manual_seed(0)
    encoder = EncoderConfig(stages=2, image_size=32, pool="spatial_softmax", pool_norm=True)
    config = LocalAggregationConfig.model_validate(
        {
            "projection_dim": 16,
            "temperature": 0.2,
            "negatives": 32,
            "background": 24,
            "clusters": 8,
            "clusterings": 3,
            "warm_share": 0.3,
            "augment": AUGMENT,
            **settings,
        }
    )
    method = LocalAggregation(Encoder(encoder), config)
    method.prepare(Corpus(places=PLACES))
    return method


def _corpus() -> Batch:
    """Dots in three far places, each seen on many backgrounds: what clusters should find."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(PLACES) % 3
    x = torch.tensor([0.15, 0.5, 0.85])[kind] + 0.04 * torch.randn(PLACES, generator=generator)
    y = torch.tensor([0.2, 0.85, 0.3])[kind] + 0.04 * torch.randn(PLACES, generator=generator)
    background = torch.rand(PLACES, 3, generator=generator) * 0.6
    return {
        "frames": draw_dots(x, y, background)[:, None],
        "time_s": torch.zeros(PLACES, 1),
        "instance": torch.arange(PLACES),
        "place": torch.arange(PLACES),
        "kind": kind,
    }


def _slow(scores: Tensor, close: Tensor, near: Tensor) -> Tensor:
    losses = []
    for row in range(len(scores)):
        weights = scores[row].exp()
        losses.append(-(weights[close[row]].sum() / weights[near[row]].sum()).log())
    return torch.stack(losses)


def _masks() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 9, generator=generator, dtype=torch.float64) * 3
    near = torch.rand(5, 9, generator=generator) < 0.8
    close = near & (torch.rand(5, 9, generator=generator) < 0.4)
    near[:, 0] = close[:, 0] = True
    return scores, close, near


def test_the_objective_is_the_share_of_close_rows() -> None:
    scores, close, near = _masks()
    terms = aggregation_terms(scores, close, near)
    torch.testing.assert_close(terms.loss, _slow(scores, close, near))
    shifted = aggregation_terms(scores + 7, close, near)
    torch.testing.assert_close(shifted.loss, terms.loss)
    assert torch.autograd.gradcheck(
        lambda s: aggregation_terms(s, close, near).loss, scores.requires_grad_()
    )


def test_values_in_closed_form() -> None:
    scores, _, near = _masks()
    everything = aggregation_terms(scores, near, near)
    torch.testing.assert_close(everything.loss, torch.zeros(5).double(), atol=1e-7, rtol=0)
    assert everything.counted.all()
    alone = torch.zeros(5, 9, dtype=torch.bool)
    alone[:, 0] = True
    single = aggregation_terms(scores, alone, torch.ones_like(near))
    wanted = functional.cross_entropy(scores, torch.zeros(5, dtype=torch.long), reduction="none")
    torch.testing.assert_close(single.loss, wanted)
    flat = aggregation_terms(torch.zeros(1, 8), torch.arange(8)[None] < 2, torch.ones(1, 8) > 0)
    assert flat.loss.item() == pytest.approx(math.log(4))
    assert flat.information.item() == pytest.approx(0, abs=1e-6)


def test_the_own_row_is_always_near_however_stale() -> None:
    scores = torch.tensor([[0.9, 0.8, -0.9, 0.1], [0.0, 0.5, 0.6, 0.7]])
    allowed = torch.tensor([[True, True, False, True], [False, True, True, False]])
    found = nearest_rows(scores, torch.tensor([2, 0]), allowed, 2)
    assert sorted(found[0].tolist()) == [0, 2]
    assert sorted(found[1].tolist()) == [0, 2]


def test_equal_or_renamed_clusterings_are_one() -> None:
    method = _method().eval()
    batch = method.augment(_corpus())
    method.clustered.fill_(2)
    labels = cluster_rows(method.bank.rows, 8, seed=0)
    method.labels[:] = labels
    once = method(batch)["loss"]
    renamed = torch.randperm(8)[labels]
    method.labels[1] = renamed
    torch.testing.assert_close(method(batch)["loss"], once)
    method.labels[2] = 0  # one cluster of all: everything near is close
    assert method(batch)["loss"] == 0


def test_with_the_whole_bank_near_it_is_the_ratio_of_full_softmaxes() -> None:
    method = _method(background=PLACES).eval()
    batch = method.augment(_corpus())
    method.before_epoch(Progress(40, 100, 2))
    rows, place = method.bank.rows, batch["place"]
    projected = method.projection(method.encoder(batch["images"].flatten(0, 1)))
    weights = (functional.normalize(projected) @ rows.T / 0.2).softmax(dim=1)
    close = (method.labels[:, place, None] == method.labels[:, None, :]).any(dim=0)
    wanted = -torch.where(close, weights, 0.0).sum(dim=1).log().mean()
    torch.testing.assert_close(method(batch)["loss"], wanted)


def test_rows_of_near_moments_are_neither_close_nor_background() -> None:
    method = _method(background=PLACES, clusterings=1).eval()
    batch = method.augment(_corpus())
    method.clustered.fill_(2)
    method.labels[0] = torch.arange(PLACES) // 4
    before = method(batch)["loss"]
    one = {key: value[:1] for key, value in batch.items()}
    wanted = method(one)["loss"]
    with torch.no_grad():
        method.bank.instance[1] = method.bank.instance[50] = one["instance"][0]
        method.bank.time_s[1] = method.bank.time_s[50] = 5.0
        method.bank.rows[1] = -method.bank.rows[1]
        method.bank.rows[50] = -method.bank.rows[50]
    masked = method(one)["loss"]
    keep = [n for n in range(PLACES) if n not in (1, 50)]
    projected = method.projection(method.encoder(one["images"].flatten(0, 1)))
    scores = functional.normalize(projected) @ method.bank.rows[keep].T / 0.2
    close = torch.tensor([[n in (0, 2, 3) for n in keep]])
    by_hand = aggregation_terms(scores, close, torch.ones_like(close)).loss[0]
    torch.testing.assert_close(masked, by_hand)
    assert not torch.allclose(masked, wanted)
    assert torch.isfinite(before)


def test_clusters_are_found_again_and_none_is_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = functional.normalize(torch.randn(6, 16, generator=generator))
    truth = torch.arange(300) % 6
    rows = functional.normalize(centres[truth] + 0.05 * torch.randn(300, 16, generator=generator))
    labels = cluster_rows(rows, 30, seed=0)
    assert homogeneity_score(truth, labels) > 0.95  # each cluster holds rows of one centre
    for clusters in (6, 40, 300, 1000):
        labels = cluster_rows(rows, clusters, seed=1)
        assert len(labels.unique()) == min(clusters, 300)
        assert torch.equal(labels, cluster_rows(rows, clusters, seed=1))
    same = cluster_rows(torch.ones(10, 4), 3, seed=0)
    assert len(same.unique()) == 3


def test_a_clustering_is_a_fixed_point_of_k_means() -> None:
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    labels = cluster_rows(rows, 7, seed=0, iterations=200)
    means = torch.stack([rows[labels == number].mean(dim=0) for number in range(7)])
    assert torch.equal(torch.cdist(rows, means).argmin(dim=1), labels)


def test_the_bank_is_clustered_once_an_epoch_after_the_warm_start() -> None:
    method = _method()
    for epoch in (0, 1):
        method.before_epoch(Progress(20 * epoch, 100, epoch))
        assert method.clustered == -1
    method.before_epoch(Progress(40, 100, 2))
    first = method.labels.clone()
    assert method.clustered == 2
    assert len(first[0].unique()) == 8
    assert not torch.equal(first[0], first[1])  # another beginning each
    with torch.no_grad():
        method.bank.rows.copy_(method.bank.rows.roll(1, dims=0))
    method.before_epoch(Progress(50, 100, 2))  # a resumed run comes by again
    assert torch.equal(method.labels, first)
    method.before_epoch(Progress(60, 100, 3))
    assert not torch.equal(method.labels, first)


@pytest.mark.parametrize("warm_objective", ["nce", "softmax"])
def test_it_learns_what_its_corpus_is_made_of(warm_objective: str) -> None:
    """Rows of one kind draw together in the bank and apart from the others."""
    method = _method(warm_objective=warm_objective).train()
    corpus = _corpus()
    kind = corpus.pop("kind")
    with torch.no_grad():
        untrained = method.projection(
            method.encoder(method.augment(corpus)["images"].flatten(0, 1))
        )
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    torch.manual_seed(2)
    metrics: dict[str, Tensor] = {}
    step = 0
    for epoch in range(6):
        method.before_epoch(Progress(step, 18, epoch))
        for part in torch.randperm(PLACES).split(32):
            metrics = method(method.augment({key: value[part] for key, value in corpus.items()}))
            optimizer.zero_grad()
            metrics["loss"].backward()
            optimizer.step()
            step += 1
            method.after_step(Progress(step, 18, epoch))
    assert method.clustered == 5
    assert metrics["bank_agreement"] > 0.5
    before = silhouette_score(functional.normalize(untrained), kind)
    assert silhouette_score(method.bank.rows, kind) > before + 0.3
