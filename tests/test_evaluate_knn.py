"""Does kNN classify as the definition says? Held against a slow formulation and hand cases."""

import numpy as np
import pytest

from marey.configs.errors import InputError, SettingError
from marey.pipeline.evaluate.knn import Gallery, knn_accuracy, knn_scores, top_k, unit_rows


def planted(rng, classes=5, each=40, dim=16, noise=0.05):
    centres = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:classes]
    labels = np.repeat(np.arange(classes), each)
    return centres[labels] + noise * rng.normal(size=(len(labels), dim)), labels


def slow_scores(query, gallery, labels, k, tau, classes, own=None, group=None):
    """Straight from the definition, one query at a time, in float64."""
    out = np.zeros((len(query), classes))
    for i, f in enumerate(query):
        rows = []
        for j, v in enumerate(gallery):
            if own is not None and own[i] == group[j]:
                continue
            s = float(f @ v / np.linalg.norm(f) / np.linalg.norm(v))
            rows.append((-s, j))
        for s, j in sorted(rows)[:k]:
            out[i, labels[j]] += np.exp(-s / tau)
        out[i] /= max(out[i].sum(), 1e-300)
    return out


def test_scores_equal_the_slow_formulation_with_and_without_own_video():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), rng.integers(0, 4, 60)
    video = np.array([f"v{i // 6}" for i in range(60)], dtype=object)
    for own in (None, video):
        fast = knn_scores(x, Gallery(x, y, video), k=7, tau=0.2, num_classes=4, group=own)
        slow = slow_scores(x, x, y, 7, 0.2, 4, own, video)
        assert np.allclose(fast, slow, atol=1e-5)


def test_planted_clusters_are_found_and_random_labels_give_chance():
    rng = np.random.default_rng(1)
    x, y = planted(rng)
    train, test = np.arange(0, 200, 2), np.arange(1, 200, 2)
    scores = knn_scores(x[test], Gallery(x[train], y[train]), k=20, tau=0.07, num_classes=5)
    assert knn_accuracy(scores, y[test], 20)["accuracy"] == 1
    free = rng.normal(size=(2000, 8))
    wrong = rng.integers(0, 5, 2000)
    scores = knn_scores(free[:1000], Gallery(free[1000:], wrong[1000:]), k=20, tau=1, num_classes=5)
    accuracy = knn_accuracy(scores, wrong[:1000], 20)["accuracy"]
    assert abs(accuracy - 0.2) < 3 * np.sqrt(0.2 * 0.8 / 1000)


def test_one_neighbour_is_the_argmax_and_a_large_temperature_is_the_majority():
    rng = np.random.default_rng(2)
    x, gallery, y = rng.normal(size=(50, 6)), rng.normal(size=(80, 6)), rng.integers(0, 3, 80)
    similarity = unit_rows(x) @ unit_rows(gallery).T
    single = knn_scores(x, Gallery(gallery, y), k=1, tau=0.07, num_classes=3)
    assert np.array_equal(single.argmax(1), y[similarity.argmax(1)])
    flat = knn_scores(x, Gallery(gallery, y), k=9, tau=1e3, num_classes=3)
    near = np.argsort(-similarity, axis=1)[:, :9]
    votes = np.stack([(y[near] == c).mean(1) for c in range(3)], axis=1)
    assert np.allclose(flat, votes, atol=1e-3)


def test_hand_case_one_close_neighbour_outvotes_two_at_a_low_temperature():
    query = np.array([[1.0, 0.0, 0.0]])
    cosines = (0.9, 0.8, 0.8)
    gallery = np.array([[s, np.sqrt(1 - s * s), 0.0] for s in cosines])
    gallery[2] = [0.8, 0.0, 0.6]
    labels = np.array([0, 1, 1])
    sharp = knn_scores(query, Gallery(gallery, labels), k=3, tau=0.07, num_classes=2)
    weights = np.array([3.83e5, 9.19e4 * 2])
    assert np.allclose(sharp[0], weights / weights.sum(), rtol=2e-3)
    soft = knn_scores(query, Gallery(gallery, labels), k=3, tau=1, num_classes=2)
    assert (sharp.argmax(), soft.argmax()) == (0, 1)


def test_features_that_name_the_video_help_only_without_the_mask():
    rng = np.random.default_rng(3)
    video = np.repeat(np.arange(30), 8)
    label = rng.permutation(np.repeat(np.arange(3), 10))[video]
    features = np.eye(30)[video]
    name = video.astype(str).astype(object)
    gallery = Gallery(features, label, name)
    leaking = knn_scores(features, gallery, k=8, tau=0.07, num_classes=3)
    assert knn_accuracy(leaking, label, 8)["accuracy"] == 1
    masked = knn_scores(features, gallery, k=232, tau=0.07, num_classes=3, group=name)
    assert np.allclose(masked[0], np.bincount(label[8:], minlength=3) / 232)
    assert knn_accuracy(masked, label, 232)["accuracy"] <= 1 / 3


def test_ties_go_to_the_lowest_index():
    values = np.array([[1.0, 3.0, 3.0, 2.0, 3.0, 1.0], [0.0] * 6])
    assert top_k(values, 2).tolist() == [[1, 2], [0, 1]]
    assert top_k(values, 4).tolist() == [[1, 2, 4, 3], [0, 1, 2, 3]]


def test_balanced_scores_undo_the_gallery_counts():
    gallery = np.tile([1.0, 0.0], (12, 1))
    labels = np.array([0] * 9 + [1] * 3)
    plain = knn_scores(gallery[:1], Gallery(gallery, labels), k=12, tau=1, num_classes=2)
    even = knn_scores(
        gallery[:1], Gallery(gallery, labels), k=12, tau=1, num_classes=2, balanced=True
    )
    assert np.allclose(plain, [[0.75, 0.25]])
    assert np.allclose(even, [[0.5, 0.5]])


def test_small_temperatures_do_not_overflow_and_wrong_settings_are_refused():
    x = np.eye(4)
    scores = knn_scores(x, Gallery(x, np.arange(4)), k=2, tau=1e-4, num_classes=4)
    assert np.allclose(scores, np.eye(4))
    with pytest.raises(SettingError, match="tau"):
        knn_scores(x, Gallery(x, np.arange(4)), k=2, tau=0, num_classes=4)
    one = np.array(["a"] * 4, dtype=object)
    alone = knn_scores(x, Gallery(x, np.arange(4), one), k=2, tau=1, num_classes=4, group=one)
    with pytest.raises(InputError, match="another video"):
        knn_accuracy(alone, np.arange(4), 2)


def test_a_class_without_a_neighbour_is_not_among_the_best_five():
    """Where fewer than five classes have any weight, the others are no answer (ties at zero)."""
    scores = np.zeros((2, 8))
    scores[:, 7] = 1
    figures = knn_accuracy(scores, np.array([0, 7]), k=20)
    assert figures["accuracy_top5"] == 0.5
