"""Do the probes read what is linearly there, and nothing else?"""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from marey.configs.errors import InputError
from marey.pipeline.evaluate import sgd_probe as sgd_probe_module
from marey.pipeline.evaluate.linear import (
    Standardiser,
    _RidgePath,
    calibration_error,
    linear_probe,
    ridge_probe,
)
from marey.pipeline.evaluate.sgd_probe import sgd_probe

GRID = tuple(np.logspace(-4, 1, 6))


def parts(x, y, sizes=(200, 80)):
    first, second = sizes[0], sizes[0] + sizes[1]
    return (x[:first], y[:first]), (x[first:second], y[first:second]), (x[second:], y[second:])


def classes(rng, n=500, dim=12, noise=0.3):
    y = rng.integers(0, 3, n)
    return np.eye(3)[y] @ rng.normal(size=(3, dim)) * 2 + noise * rng.normal(size=(n, dim)), y


def test_separable_data_are_solved_and_permuted_labels_give_chance():
    rng = np.random.default_rng(0)
    x, y = classes(rng)
    assert linear_probe(*parts(x, y), penalties=GRID)[0]["accuracy"] == 1
    figures = linear_probe(*parts(x, rng.permutation(y)), penalties=GRID)[0]
    assert abs(figures["accuracy"] - 1 / 3) < 3 * np.sqrt(2 / 9 / 220)


def test_scale_does_not_matter_and_the_refit_is_deterministic():
    rng = np.random.default_rng(1)
    x, y = classes(rng, noise=3.0)
    first, again = (linear_probe(*parts(x, y), penalties=GRID) for _ in range(2))
    assert np.array_equal(first[1], again[1])
    scaled = linear_probe(*parts(1000 * x, y), penalties=GRID)
    assert 0.5 < first[0]["accuracy"] < 1
    assert abs(scaled[0]["accuracy"] - first[0]["accuracy"]) < 0.001
    assert scaled[0]["penalty"] == first[0]["penalty"]


def test_the_penalty_is_chosen_on_validation_only():
    rng = np.random.default_rng(2)
    x, y = classes(rng, noise=3.0)
    train, validation, test = parts(x, y)
    first = linear_probe(train, validation, test, penalties=GRID)[0]
    flipped = linear_probe(train, validation, (test[0], (test[1] + 1) % 3), penalties=GRID)[0]
    assert first["penalty"] == flipped["penalty"]
    assert first["validation_accuracy"] == flipped["validation_accuracy"]
    scaler = StandardScaler().fit(train[0])
    scores = []
    for penalty in GRID:
        model = LogisticRegression(C=1 / (200 * penalty), max_iter=1000, tol=1e-6)
        model.fit(scaler.transform(train[0]), train[1])
        scores.append(model.score(scaler.transform(validation[0]), validation[1]))
    assert first["validation_accuracy"] == max(scores)
    assert first["penalty"] == max(p for p, s in zip(GRID, scores, strict=True) if s == max(scores))


def test_a_class_that_training_never_saw_counts_as_missed():
    rng = np.random.default_rng(3)
    x, y = classes(rng)
    train, validation, test = parts(x, y)
    strange = np.where(np.arange(len(test[1])) % 2 == 0, 7, test[1])
    figures, probability, columns = linear_probe(
        train, validation, (test[0], strange), penalties=GRID
    )
    assert figures["accuracy"] == pytest.approx((strange != 7).mean())
    assert probability.shape == (len(strange), 3)
    assert columns.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="two classes"):
        linear_probe((x, np.zeros(500, int)), validation, test, penalties=GRID)


def test_standardising_drops_dead_dimensions():
    x = np.random.default_rng(4).normal(size=(100, 3)) * [1.0, 1e-9, 5.0] + [0, 7, 3]
    kept = Standardiser(x)(x)
    assert np.allclose(kept, StandardScaler().fit_transform(x[:, [0, 2]]))


def test_ridge_equals_sklearn_and_recovers_a_linear_target():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 10)).astype(np.float32)
    y = x @ rng.normal(size=(10, 2)) + 0.01 * rng.normal(size=(400, 2)) + 4
    path = _RidgePath(x[:300], y[:300])
    scale = StandardScaler().fit(x[:300].astype(float))
    model = Ridge(alpha=0.1 * 300).fit(scale.transform(x[:300].astype(float)), y[:300])
    expected = model.predict(scale.transform(x[300:].astype(float)))
    assert np.allclose(path.predict(x[300:], 0.1), expected, atol=1e-6)
    figures = ridge_probe(*parts(x, y, (200, 100)), penalties=GRID)
    assert figures["r2"] > 0.999
    noise = ridge_probe(*parts(x, rng.normal(size=(400, 2)), (200, 100)), penalties=GRID)
    assert noise["r2"] < 0.1


@pytest.mark.parametrize(("part", "named"), [(1, "validation"), (2, "test")])
def test_targets_that_do_not_vary_choose_no_penalty_and_have_no_figure(part, named):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(400, 8))
    split = list(parts(x, x[:, :2], (200, 100)))
    split[part] = (split[part][0], np.ones_like(split[part][1]))
    with pytest.raises(InputError, match=named):
        ridge_probe(*split, penalties=GRID)


def test_calibration_error_of_known_bins():
    confidence = np.array([0.95] * 10 + [0.55] * 10)
    hit = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7)
    assert calibration_error(confidence, hit) == pytest.approx((0.05 * 10 + 0.25 * 10) / 20)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_probe_trained_by_sgd_agrees_with_the_one_that_is_solved(scale):
    rng = np.random.default_rng(6)
    x, y = classes(rng, n=6000, noise=3.0)
    split = parts(scale * x.astype(np.float32), y, (2000, 1000))
    solved = linear_probe(*split, penalties=GRID)[0]["accuracy"]
    assert 0.6 < solved < 0.95
    trained = sgd_probe(*split, epochs=30)
    assert trained["accuracy_sgd"] == pytest.approx(solved, abs=0.005)
    assert sgd_probe(*split, epochs=30) == trained, "not deterministic"


def test_one_rate_s_head_does_not_touch_another_s():
    rng = np.random.default_rng(7)
    x, y = classes(rng, n=300)
    values, labels = Standardiser(x)(x), torch.from_numpy(y)
    both = sgd_probe_module._train(values, labels, 3, (0.1, 3.0), 2, 0)
    alone = sgd_probe_module._train(values, labels, 3, (0.1,), 2, 0)
    assert torch.allclose(both[:1], alone, atol=1e-6)
    head = torch.nn.Linear(values.shape[1], 3)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), 0.1, momentum=0.9, nesterov=True)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for rows in torch.randperm(300, generator=generator).split(256):
            optimizer.zero_grad()
            logits = head(torch.from_numpy(values[rows]).float())
            torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
            plan.step()
    assert torch.allclose(alone[0, :-1], head.weight.detach().T, atol=1e-5)
