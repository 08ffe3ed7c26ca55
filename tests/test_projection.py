"""The map of many frames agrees with the map of few."""

import numpy as np

from marey.pipeline.report.projection import project


def test_rows_beyond_the_landmarks_lie_with_their_like():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 6, 3000)
    features = rng.normal(size=(6, 24))[kind] + 0.15 * rng.normal(size=(3000, 24))
    points, method = project(features, landmarks=300)
    assert "of 300 frames" in method
    centres = np.array([points[kind == k].mean(axis=0) for k in range(6)])
    nearest = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == kind).mean() > 0.99
    np.testing.assert_array_equal(points, project(features, landmarks=300)[0])


def test_as_many_rows_as_landmarks_are_placed_by_the_method_alone():
    features = np.random.default_rng(0).normal(size=(60, 8))
    assert "of" not in project(features, landmarks=60)[1]
