"""Are patches cut where they were placed, and is what gives them away kept from the network?"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from marey.models.augmentation.patch_grid import (
    AWAY_FROM_GREEN,
    cut,
    drop_colors,
    even_contrast,
    grid_corners,
    on_frame,
    pixelate,
    project_colors,
    standardize,
    textured,
    whole_offsets,
)
from tests.pictures import coordinates, noise, smooth


def _cells(count: int, side: int, grid: int, patch: int, apart: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes of patches in the middle of each cell, and each patch's place from -1 to 1, [P, 2].

    apart: each channel is displaced by up to this many pixels.
    """
    cell = side / grid
    corners = grid_corners(grid, cell, first=(cell - patch) / 2)
    places = corners.expand(count, -1, -1)[:, :, None]
    places = places + whole_offsets(count, grid**2, 3, 2, low=0, high=apart)
    frame = torch.tensor([[0.0, 0.0, side, side]]).expand(count, 4)
    return on_frame(places, patch, side, frame), 2 * (corners + patch / 2) / side - 1


def _explained(features: Tensor, target: Tensor) -> float:
    """R2 of ridge regression on the second half of the rows, fitted on the first; both [N, *]."""
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    target = target.double()
    half = len(features) // 2
    scale = features[:half].square().mean(dim=0).sqrt().clamp_min(1e-9)
    features = features / scale
    gram = features[:half].T @ features[:half] + 1e-2 * half * torch.eye(features.shape[1])
    weight = torch.linalg.solve(gram, features[:half].T @ target[:half])
    rest = (target[half:] - features[half:] @ weight).square().sum()
    return float(1 - rest / (target[half:] - target[half:].mean(dim=0)).square().sum())


def _channel_correlations(patches: Tensor) -> Tensor:
    """How each channel goes with each, displaced by up to two pixels: [N, 9 * 25].

    What a convolution, a square and an average can know of a lens.
    """
    patches = patches - patches.mean(dim=(2, 3), keepdim=True)
    power = patches.square().mean(dim=(1, 2, 3)).clamp_min(1e-9)
    size, lag = patches.shape[-1], 2
    inner = patches[:, :, lag : size - lag, lag : size - lag]
    found = []
    for down in range(2 * lag + 1):
        for right in range(2 * lag + 1):
            high, wide = inner.shape[2:]
            moved = patches[:, :, down : down + high, right : right + wide]
            found.append(torch.einsum("nchw,ndhw->ncd", inner, moved) / inner[0, 0].numel())
    return torch.stack(found, dim=1).flatten(1) / power[:, None]


def _through_a_lens(count: int, side: int, shift: float) -> Tensor:
    """Grey texture whose green is drawn outwards, by `shift` pixels at the middle of each side."""
    generator = torch.Generator().manual_seed(0)
    texture = smooth(count, side, generator, cells=side // 3)[..., :1].permute(0, 3, 1, 2).float()
    identity = torch.eye(2, 3).expand(count, -1, -1)
    grid = functional.affine_grid(identity, [count, 1, side, side], align_corners=False)
    zoomed = grid * (1 - 2 * shift / side)
    green = functional.grid_sample(texture, zoomed, padding_mode="border", align_corners=False)
    frames = torch.cat([texture, green, texture], dim=1)
    return frames.round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def test_a_lens_tells_where_a_patch_was_until_its_colours_are_dropped_or_projected() -> None:
    torch.manual_seed(0)
    count, side, grid, patch = 160, 60, 3, 16
    frames = _through_a_lens(count, side, shift=1.5)
    boxes, place = _cells(count, side, grid, patch)
    patches = cut(frames, boxes, patch).flatten(0, 1)
    target = place.repeat(count, 1)

    def told(shown: Tensor) -> float:
        return _explained(_channel_correlations(shown), target)

    assert told(patches) > 0.5
    assert abs(told(drop_colors(patches))) < 0.15
    assert abs(told(project_colors(patches))) < 0.15
    jittered, _ = _cells(count, side, grid, patch, apart=2)
    assert told(cut(frames, jittered, patch).flatten(0, 1)) < 0.7 * told(patches)


def test_brightness_tells_where_a_patch_was_until_patches_are_standardized() -> None:
    torch.manual_seed(0)
    count, side, grid, patch = 60, 60, 3, 16
    light = torch.linspace(0.3, 1.0, side)[None, :, None, None]
    frames = (smooth(count, side, torch.Generator().manual_seed(0), 30) * light).byte()
    boxes, place = _cells(count, side, grid, patch)
    target = place.repeat(count, 1)[:, 1:]

    def told(shown: Tensor) -> float:
        flat = shown.flatten(0, 1)
        return _explained(torch.cat([flat.mean(dim=(2, 3)), flat.std(dim=(2, 3))], 1), target)

    patches = cut(frames, boxes, patch)
    assert told(patches) > 0.7
    assert told(standardize(patches)) < 0.05


def test_patches_are_the_pixels_they_were_placed_on() -> None:
    frame = coordinates(40, 50)[None]
    corners = torch.tensor([[3.0, 5.0], [20.0, 0.0]])[None, :, None]
    boxes = on_frame(corners, 8, 40, torch.tensor([[10.0, 0.0, 40.0, 40.0]]))
    patches = (255 * cut(frame, boxes, 8)).round().long()
    for number, (left, top) in enumerate(((13, 5), (30, 0))):
        wanted = frame[0, top : top + 8, left : left + 8].long().permute(2, 0, 1)
        assert torch.equal(patches[0, number], wanted)


def test_each_channel_can_be_cut_at_a_place_of_its_own() -> None:
    frame = coordinates(40, 40)[None]
    corners = torch.tensor([[3.0, 5.0], [4.0, 7.0], [5.0, 5.0]])[None, None]
    patch = 255 * cut(frame, on_frame(corners, 8, 40, torch.tensor([[0.0, 0.0, 40.0, 40.0]])), 8)
    assert patch[0, 0, 0, 0, 0].item() == pytest.approx(3, abs=1e-3)
    assert patch[0, 0, 1, 0, 0].item() == pytest.approx(7, abs=1e-3)
    assert patch[0, 0, 2, 0, 0].item() == pytest.approx(5, abs=1e-3)


def test_nothing_beyond_its_edges_shows_in_a_patch() -> None:
    """Also not where a patch is enlarged from a part of a pixel to the next."""
    frames = noise(2, 24, torch.Generator().manual_seed(0))
    boxes = torch.tensor([6.3, 7.9, 8.4, 8.4]).expand(2, 1, 1, 4)
    patches = cut(frames, boxes, 16)
    # pixels whose centre lies in 6.3..14.7 and 7.9..16.3
    frames[:, :8], frames[:, 16:], frames[:, :, :6], frames[:, :, 15:] = 0, 0, 255, 255
    assert torch.equal(patches, cut(frames, boxes, 16))


def test_the_projection_removes_green_against_magenta_only() -> None:
    matrix = torch.tensor(AWAY_FROM_GREEN, dtype=torch.float64)
    axis = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(matrix, torch.eye(3).double() - torch.outer(axis, axis) / 6)
    torch.testing.assert_close(matrix @ matrix, matrix)
    assert torch.linalg.matrix_rank(matrix) == 2
    torch.testing.assert_close(matrix @ axis, torch.zeros(3).double())
    gray = torch.full((2, 3, 4, 4), 0.3)
    torch.testing.assert_close(project_colors(gray), gray)
    patches = torch.rand(2, 3, 4, 4)
    slow = torch.stack([(matrix.float() @ p.flatten(1)).view(3, 4, 4) for p in patches])
    torch.testing.assert_close(project_colors(patches), slow)


def test_one_channel_is_kept_and_the_others_are_noise() -> None:
    torch.manual_seed(0)
    patches = torch.rand(300, 3, 16, 16)
    dropped = drop_colors(patches)
    centred = patches - patches.mean(dim=(2, 3), keepdim=True)
    kept = torch.isclose(dropped, centred, atol=1e-6).flatten(2).all(dim=2)
    assert (kept.sum(dim=1) == 1).all()
    assert kept.float().mean(dim=0).sub(1 / 3).abs().max() < 0.1
    ratio = dropped[~kept].std() / dropped[kept].std()
    assert ratio.item() == pytest.approx(0.01, rel=0.1)


def test_contrast_is_even_and_flat_patches_stay_flat() -> None:
    patches = torch.rand(5, 3, 8, 8) * torch.tensor([0.1, 0.3, 0.5, 0.7, 1.0])[:, None, None, None]
    even = even_contrast(patches, 0.2)
    torch.testing.assert_close(even.square().mean(dim=(1, 2, 3)).sqrt(), torch.full((5,), 0.2))
    torch.testing.assert_close(even.mean(dim=(2, 3)), torch.zeros(5, 3), atol=1e-6, rtol=0)
    flat = torch.full((1, 3, 8, 8), 0.4)
    assert even_contrast(flat, 0.2).abs().max() < 1e-5
    assert standardize(flat).abs().max() < 1e-4
    assert not textured(flat).item()
    assert textured(patches).all()


def test_pixelation_blurs_the_chosen_share_and_keeps_flat_patches() -> None:
    torch.manual_seed(0)
    patches = torch.rand(400, 3, 12, 12)
    changed = (pixelate(patches, 0.33) != patches).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(0.33, abs=0.08)
    assert torch.equal(pixelate(patches, 0.0), patches)
    torch.testing.assert_close(
        pixelate(torch.full_like(patches, 0.3), 1.0)[0], patches[0] * 0 + 0.3
    )
    blurred = pixelate(patches, 1.0)
    assert blurred.std(dim=(2, 3)).mean() < 0.9 * patches.std(dim=(2, 3)).mean()


def test_half_precision_does_not_reach_pixelation() -> None:
    patches = torch.rand(20, 3, 12, 12)
    torch.manual_seed(0)
    expected = pixelate(patches, 1.0)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pixelate(patches, 1.0), expected)
