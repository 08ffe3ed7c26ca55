"""Is RGB turned into CIE Lab as the standard says?"""

import cv2
import numpy as np
import pytest
import torch

from marey.models.augmentation.color import rgb_to_lab


def _one(*rgb: float) -> torch.Tensor:
    return rgb_to_lab(torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)).flatten()


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
    ],
)
def test_black_white_and_the_primaries_have_their_published_values(
    rgb: tuple[float, ...], lab: tuple[float, ...]
) -> None:
    torch.testing.assert_close(_one(*rgb), torch.tensor(lab).double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("level", [0.01, 0.04, 0.2, 0.5, 0.9])
def test_a_grey_has_no_colour(level: float) -> None:
    lightness, a, b = _one(level, level, level)
    assert 0 < lightness < 100
    assert abs(a) < 1e-9
    assert abs(b) < 1e-9


def test_it_agrees_with_opencv() -> None:
    images = np.random.default_rng(0).uniform(0, 1, (16, 16, 3)).astype(np.float32)
    theirs = cv2.cvtColor(images, cv2.COLOR_RGB2LAB)
    ours = rgb_to_lab(torch.from_numpy(images).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    # OpenCV interpolates a table and rounds the white point differently
    np.testing.assert_allclose(ours.numpy(), theirs, atol=0.5)


def test_the_whole_gamut_lies_within_the_stated_ranges() -> None:
    axis = torch.linspace(0, 1, 33)
    cube = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(2)[None]
    lightness, a, b = rgb_to_lab(cube)[0].flatten(1)
    for values, low, high in ((lightness, 0, 100), (a, -86.2, 98.3), (b, -107.9, 94.5)):
        assert values.min() >= low - 0.05
        assert values.max() <= high + 0.05


def test_gradients_are_right_and_finite_at_black() -> None:
    inside = torch.rand(1, 3, 2, 2, dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(rgb_to_lab, inside.requires_grad_())
    black = torch.zeros(1, 3, 2, 2, requires_grad=True)
    rgb_to_lab(black).sum().backward()
    assert torch.isfinite(black.grad).all()


def test_half_precision_does_not_reach_it() -> None:
    images = torch.rand(1, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = rgb_to_lab(images)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, rgb_to_lab(images))
