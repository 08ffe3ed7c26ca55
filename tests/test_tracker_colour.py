"""Colours say where the box went; the evidence of a step is what its names say."""

import numpy as np
import pytest
import torch

from benchmarks.tracker_scores import fit_weights
from benchmarks.trackers import boxes, scene
from marey.trackers import State, build, iou
from marey.trackers.colour_response import BINS, ColourResponse
from marey.trackers.evidence import likeness, remember
from marey.trackers.peaks import find_peaks
from marey.trackers.variants import VARIANTS
from tests.tracked_scenes import moving_square, texture

CPU = torch.device("cpu")


def response(**changed) -> ColourResponse:
    return ColourResponse(**{"pixels": 80, "window": 2.5, "cells": 20, "device": CPU} | changed)


@pytest.mark.parametrize(("pixels", "window", "cells"), [(80, 2.5, 20), (160, 4.0, 40)])
def test_the_response_is_the_mean_over_the_displaced_box(pixels, window, cells):
    """Box by box, with nothing outside of the window."""
    made = response(pixels=pixels, window=window, cells=cells)
    torch.manual_seed(0)
    likelihood = torch.rand(2, made.side, made.side)
    got = made.respond(likelihood).numpy()
    box, step, half = made._box(made.core), made.side // cells, cells // 2
    low = (made.side - box) // 2
    padded = np.pad(likelihood.numpy(), ((0, 0), (made.side,) * 2, (made.side,) * 2))
    for dy, dx in [(0, 0), (3, -2), (-half, half - 1), (half - 1, -half), (5, 5)]:
        y, x = made.side + low + dy * step, made.side + low + dx * step
        want = padded[:, y : y + box, x : x + box].mean(axis=(1, 2))
        np.testing.assert_allclose(got[:, dy % cells, dx % cells], want, atol=1e-5)


def test_the_peak_of_the_colours_lies_where_they_went():
    crops = torch.zeros(1, 80, 80, 3, dtype=torch.uint8)
    crops[:, 24:56, 24:56] = torch.tensor([200, 40, 40], dtype=torch.uint8)
    made = response(core=1.0)
    model = made.start(made.index(crops))
    moved = made.index(crops.roll((8, -12), (1, 2)))
    peak = find_peaks(made.respond(made.likelihood(model, moved)), with_psr=False)[0]
    np.testing.assert_allclose(peak[1:3], [-3.0, 2.0], atol=0.1)
    again = made.shift(moved, torch.tensor([[-3.0, 2.0]]))
    torch.testing.assert_close(again, made.index(crops))


def test_histograms_are_shares_of_inside_and_outside():
    crops = torch.full((1, 80, 80, 3), 255, dtype=torch.uint8)
    crops[:, 24:56, 24:56] = 0
    model = response().start(response().index(crops))
    assert model["inside"][0, 0] == pytest.approx(1.0, abs=1e-4)
    assert model["outside"][0, BINS - 1] == pytest.approx(1.0, abs=1e-4)
    fresh = response().shares(response().index(torch.zeros_like(crops)))
    response(rate=0.25).learn(model, fresh, torch.ones(1))
    assert model["outside"][0, 0] == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("cells", [20, 21])
def test_likeness_is_the_correlation_of_the_maps(cells):
    torch.manual_seed(0)
    maps = torch.rand(3, 4, cells, cells)
    other = torch.rand(3, 4, cells, cells) + 0.5 * maps
    got = likeness(remember(torch.fft.rfft2(maps)), torch.fft.rfft2(other)).numpy()
    a = (maps - maps.mean((2, 3), keepdim=True)).flatten(1).numpy()
    b = (other - other.mean((2, 3), keepdim=True)).flatten(1).numpy()
    want = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    np.testing.assert_allclose(got, want, atol=1e-4)
    spectra = torch.fft.rfft2(maps)
    np.testing.assert_allclose(likeness(remember(spectra), spectra).numpy(), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ["dcf-colour", "dcf-colour-scale", "staple"])
def test_colour_trackers_follow_and_do_not_depend_on_their_neighbours(name):
    frames, truth = moving_square(10, (5, 2))
    tracker = build(name)
    other = truth[:1] + np.array([70, 20, 4, 6], np.float32)
    together = tracker.track(frames, np.concatenate([truth[:1], other, other + 3]))
    alone = tracker.track(frames, truth[:1])
    np.testing.assert_allclose(together.boxes[:, 0], alone.boxes[:, 0], atol=1e-3)
    assert iou(alone.boxes[:, 0], truth).min() > 0.75


def test_a_red_thing_is_told_from_a_green_twin_of_the_same_brightness():
    """Grey gradients are the same for both; only colours are not."""
    rng = np.random.default_rng(0)
    frames = np.stack([texture(160, 240, 3)] * 20) // 4 + 90
    grey = cut = texture(40, 40, 9)[:, :, :1].astype(int)
    red = np.clip(np.concatenate([grey + 60, grey - 31, grey - 31], 2), 0, 255)
    green = np.clip(np.concatenate([grey - 60, grey + 31, grey - 31], 2), 0, 255)
    assert cut.std() > 10
    truth = np.zeros((20, 4), np.float32)
    for t in range(20):
        x = 40 + 5 * t
        frames[t, 60:100, x + 44 : x + 84] = green  # leads the way, one box ahead
        frames[t, 60:100, x : x + 40] = red
        frames[t] = np.clip(frames[t] + rng.normal(0, 2, frames[t].shape), 0, 255)
        truth[t] = x, 60, 40, 40
    track = build("dcf-colour").track(frames, truth[:1])
    assert iou(track.boxes[:, 0], truth).min() > 0.6


@pytest.mark.parametrize("name", ["dcf-colour", "dcf-colour-scale", "staple", "strcf"])
def test_the_score_falls_where_the_thing_is_gone_and_the_background_stays(name):
    """Over eight drawn scenes: a filter left on the background finds a sharp peak there too."""
    right, lost = [], []
    for seed in range(8):
        frames, truth = moving_square(20, (4, 1), seed=10 * seed)
        frames[12:] = texture(200, 280, 10 * seed)  # the background alone
        track = build(name, persistent=True).track(frames, truth[:1])
        right.append(float(np.median(track.score[3:12, 0])))
        lost.append(float(np.median(track.score[15:, 0])))
    told = np.mean(np.array(right)[:, None] > np.array(lost)[None])
    assert told >= 0.9
    assert np.median(lost) < 0.5


def test_no_evidence_counts_against_a_box():
    """A negative weight would call a perfect match lost."""
    for name, variant in VARIANTS.items():
        assert min(variant.calibration[1:], default=0.0) >= 0.0, name
    assert sum(bool(variant.calibration) for variant in VARIANTS.values()) >= 4


def test_fitted_weights_are_never_negative_and_tell_the_halves_apart():
    rng = np.random.default_rng(0)
    right = rng.random(2000) < 0.8
    signal = right + rng.normal(0, 0.5, 2000)
    values = np.column_stack([signal, rng.normal(0, 1, 2000) - right, rng.normal(0, 1, 2000)])
    constant, weights = fit_weights(values, right)
    assert (weights >= 0).all()
    assert weights[0] > 1.0
    assert weights[1] == 0.0  # it would like to be negative
    at_half = constant + weights[0] * 0.5
    assert abs(at_half) < 0.6  # as likely right as lost, though four fifths are right


@pytest.mark.parametrize("name", ["dcf-colour", "dcf-colour-scale", "staple", "strcf"])
def test_a_thing_of_its_surroundings_colours_is_not_given_up(name):
    """Pieces of one textured plane under a moving camera: their colours tell nothing."""
    frames = scene(16, 320, 240)
    track = build(name).track(frames, boxes(12, 64, frames))
    assert (track.state[-1] == State.TRACKED).mean() >= 0.9
