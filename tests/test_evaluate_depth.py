"""Do depth errors mean what the tables of the field mean by them?"""

import numpy as np
import pytest

from marey.configs.errors import InputError
from marey.pipeline.evaluate.depth import DepthErrors, depth_errors, order_agreement, summarize


def _errors(*arguments, **options) -> DepthErrors:
    errors = depth_errors(*arguments, **options)
    assert errors is not None
    return errors


def test_errors_equal_the_formulas_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.uniform(1, 60, (9, 11)), rng.uniform(1, 60, (9, 11))
    got = _errors(guess, truth)
    abs_rel = sq_rel = square = log = 0.0
    deltas = [0, 0, 0]
    for p, t in zip(guess.ravel().tolist(), truth.ravel().tolist(), strict=True):
        abs_rel += abs(p - t) / t
        sq_rel += (p - t) ** 2 / t
        square += (p - t) ** 2
        log += (np.log(p) - np.log(t)) ** 2
        for power in (1, 2, 3):
            deltas[power - 1] += max(p / t, t / p) < 1.25**power
    n = truth.size
    wanted = (abs_rel / n, sq_rel / n, (square / n) ** 0.5, (log / n) ** 0.5)
    assert np.allclose((got.abs_rel, got.sq_rel, got.rmse, got.rmse_log), wanted)
    assert np.allclose((got.delta_1, got.delta_2, got.delta_3), np.array(deltas) / n)


def test_a_perfect_map_has_no_error_and_a_factor_is_taken_out_by_median_scaling() -> None:
    truth = np.random.default_rng(1).uniform(1, 40, (8, 8))
    for guess, options in ((truth, {}), (3 * truth, {"median_scaling": True})):
        errors = _errors(guess, truth, **options)
        assert errors.abs_rel == pytest.approx(0, abs=1e-12)
        assert errors.delta_1 == 1
    assert _errors(3 * truth, truth, median_scaling=True).scale == pytest.approx(1 / 3)
    assert _errors(3 * truth, truth).abs_rel > 0.9


def test_only_true_depths_in_range_count_and_predictions_are_clamped() -> None:
    truth = np.array([[10.0, 0.0, np.nan, 100.0, np.inf]])
    guess = np.array([[500.0, 1.0, 1.0, 1.0, -3.0]])
    errors = _errors(guess, truth)
    assert errors.abs_rel == pytest.approx((80 - 10) / 10)
    assert depth_errors(guess[:, 1:], truth[:, 1:]) is None


def test_the_crop_leaves_out_what_lies_outside() -> None:
    truth = np.full((100, 100), 10.0)
    guess = truth.copy()
    guess[:40] = 20  # above the crop of Garg et al.
    guess[:, :3] = 20
    assert _errors(guess, truth, crop="garg").abs_rel == 0
    assert _errors(guess, truth).abs_rel > 0.4
    guess[41, 50] = 20
    assert _errors(guess, truth, crop="garg").abs_rel > 0


def test_a_summary_weighs_images_equally_and_counts_those_without_truth() -> None:
    small, large = np.full((2, 2), 10.0), np.full((20, 20), 10.0)
    nothing = depth_errors(small, np.zeros((2, 2)))
    summary = summarize(
        [depth_errors(small * 1.5, small), depth_errors(large, large), nothing],
    )
    assert summary.mean.abs_rel == pytest.approx(0.25)
    assert (summary.images, summary.without_truth) == (2, 1)
    scaled = [depth_errors(f * small, small, median_scaling=True) for f in (1.0, 2.0)]
    assert summarize(scaled).scale_spread > 0.2
    with pytest.raises(InputError, match="none of 1"):
        summarize([nothing])


def test_order_is_right_wrong_or_by_chance() -> None:
    truth = np.random.default_rng(2).uniform(1, 20, (32, 32))
    assert order_agreement(truth**0.3, truth) == 1
    assert order_agreement(1 / truth, truth) == 0
    assert order_agreement(np.ones_like(truth), truth) == 0.5
    assert np.isnan(order_agreement(truth, np.ones_like(truth)))


@pytest.mark.parametrize(
    ("guess", "truth", "crop", "words"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), "none", r"\(2, 3\) and \(3, 2\)"),
        (np.zeros((2, 2)), np.ones((2, 2)), "none", "positive"),
        (np.ones((2, 2)), np.ones((2, 2)), "gard", "garg"),
    ],
)
def test_what_cannot_be_compared_is_refused(guess, truth, crop, words) -> None:
    with pytest.raises(InputError, match=words):
        depth_errors(guess, truth, crop=crop)
