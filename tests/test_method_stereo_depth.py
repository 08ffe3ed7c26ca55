"""Does Monodepth compare what it should, keep left and right apart, and learn depth?"""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.autograd import gradcheck

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.depth.camera import focal_share
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.stereo_depth import (
    StereoDepth,
    StereoDepthConfig,
    blend_mirrored,
    stereo_loss,
)
from marey.pipeline.evaluate.depth import depth_errors, order_agreement, summarize
from tests.depth_scenes import BASELINE_M, FIELD_OF_VIEW_DEG, stereo_batch
from tests.learning import train

SIDE = 32


def _method(**settings) -> StereoDepth:
    torch.manual_seed(0)
    config = StereoDepthConfig.model_validate(
        {"baseline_m": BASELINE_M, "field_of_view_deg": FIELD_OF_VIEW_DEG, **settings}
    )
    return StereoDepth(Encoder(EncoderConfig(image_size=SIDE)), config)


def _batch(frames: Tensor) -> Batch:
    return {"frames": frames, "instance": torch.arange(len(frames))}


def _double(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _read(row: np.ndarray, place: float) -> np.ndarray:
    """A row [..., S] at a place in pixels, pixel centres at whole numbers, edges repeated."""
    place = min(max(place, 0.0), row.shape[-1] - 1.0)
    low = min(int(place), row.shape[-1] - 2)
    return row[..., low] * (1 - place + low) + row[..., low + 1] * (place - low)


def _slow_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="reflect") for x in (a, b))
    height, width = a.shape[1] - 2, a.shape[2] - 2
    result = np.zeros((len(a), height, width))
    for c, y, x in np.ndindex(result.shape):
        p, q = a[c, y : y + 3, x : x + 3], b[c, y : y + 3, x : x + 3]
        shared = (p * q).mean() - p.mean() * q.mean()
        result[c, y, x] = (2 * p.mean() * q.mean() + 1e-4) * (2 * shared + 9e-4)
        result[c, y, x] /= (p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4)
    return result


def _slow_loss(disparities: list[Tensor], pair: Tensor) -> float:
    """Section 3.3 of the paper, one picture, one pixel at a time."""
    total = 0.0
    for scale, maps in enumerate(disparities):
        for item in range(len(maps)):
            size, step = maps.shape[-1], 2**scale
            disparity = maps[item].numpy()
            image = pair[item].numpy().reshape(2, 3, size, step, size, step).mean(axis=(3, 5))
            for side, sign in ((0, -1), (1, 1)):
                own, other = image[side], image[1 - side]
                made, seen = np.zeros_like(own), np.zeros((size, size))
                for y, x in np.ndindex(size, size):
                    place = x + sign * disparity[side, y, x] * size
                    made[:, y, x] = _read(other[:, y], place)
                    seen[y, x] = _read(disparity[1 - side, y], place)
                structure = np.clip((1 - _slow_ssim(own, made)) / 2, 0, 1)
                terms = (0.85 * structure + 0.15 * np.abs(own - made)).mean()
                terms += np.abs(disparity[side] - seen).mean()
                for axis in (0, 1):
                    slope = np.abs(np.diff(disparity[side], axis=axis))
                    edge = np.abs(np.diff(own, axis=axis + 1)).mean(axis=0)
                    terms += 0.1 / step * (slope * np.exp(-edge)).mean()
                total += terms / len(maps)
    return total


def test_the_loss_is_the_papers_pixel_by_pixel() -> None:
    pair = _double(2, 2, 3, 8, 8, seed=0)
    disparities = [0.3 * _double(2, 2, side, side, seed=side) for side in (8, 4)]
    loss, _ = stereo_loss(disparities, pair)
    assert loss.item() == pytest.approx(_slow_loss(disparities, pair), abs=1e-6)


def test_the_gradient_is_that_of_the_loss() -> None:
    pair = _double(1, 2, 3, 4, 4, seed=0)
    # away from pixel centres, where bilinear reading has kinks
    maps = (0.1 + 0.05 * _double(1, 2, 4, 4, seed=1)).requires_grad_()
    assert gradcheck(lambda x: stereo_loss([x], pair)[0], (maps,))


def test_the_true_disparity_is_better_than_none_and_than_its_opposite() -> None:
    frames, depth = stereo_batch(range(4), SIDE)
    pair = frames.permute(0, 1, 4, 2, 3).float() / 255
    share = BASELINE_M * focal_share(FIELD_OF_VIEW_DEG)
    left = torch.from_numpy(share / depth)[:, None]
    true = torch.cat([left, left], dim=1)  # the right map is close to the left one
    errors = {
        name: stereo_loss([maps], pair)[1]["photometric"].item()
        for name, maps in (("true", true), ("none", 0 * true), ("opposite", -true))
    }
    assert errors["true"] < 0.6 * errors["none"] < errors["opposite"]


def test_a_mirrored_pair_changes_sides_and_stays_a_stereo_pair() -> None:
    frames, _ = stereo_batch(range(3), SIDE)
    plain = _method(mirror=0.0, augment=AugmentConfig()).augment(_batch(frames))["pair"]
    mirrored = _method(mirror=1.0, augment=AugmentConfig()).augment(_batch(frames))["pair"]
    torch.testing.assert_close(mirrored[:, 0], plain[:, 1].flip(3))
    torch.testing.assert_close(mirrored[:, 1], plain[:, 0].flip(3))
    # still left and right: a shift to the left explains it, one to the right does not
    maps = torch.full((3, 2, SIDE, SIDE), 0.04)
    errors = [stereo_loss([sign * maps], mirrored)[1]["photometric"] for sign in (1, -1)]
    assert errors[0] < errors[1]


def test_only_the_network_sees_changed_colours() -> None:
    frames, _ = stereo_batch(range(4), SIDE)
    method = _method(mirror=0.0)
    method.config = method.config.model_copy(
        update={"augment": method.config.augment.model_copy(update={"jitter": 1.0})}
    )
    batch = method.augment(_batch(frames))
    assert torch.equal(batch["pair"], _method(mirror=0.0).augment(_batch(frames))["pair"])
    unchanged = method.encoder.normalize(batch["pair"][:, 0])
    assert (batch["images"] - unchanged).abs().flatten(1).amax(dim=1).min() > 0.02


def test_mirroring_and_colours_differ_from_pair_to_pair() -> None:
    frames, _ = stereo_batch(range(1), SIDE)
    batch = _method().augment(_batch(frames.expand(32, -1, -1, -1, -1)))
    first = batch["pair"][:, 0]
    assert len(torch.unique(first.flatten(1), dim=0)) == 2
    assert len(torch.unique(batch["images"].flatten(1), dim=0)) > 8


def test_depth_is_focal_length_times_baseline_over_disparity() -> None:
    method = _method().eval()
    frames, _ = stereo_batch(range(2), SIDE)
    images = method.augment(_batch(frames))["images"]
    with torch.no_grad():
        disparity = method.disparities(images)[0][:, :1]
        depth = method.depth(images, refined=False)
    pixels = disparity * SIDE
    focal_pixels = SIDE / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    torch.testing.assert_close(depth, BASELINE_M * focal_pixels / pixels)


def test_blending_takes_each_edge_from_the_map_that_is_right_there() -> None:
    maps, mirrored = torch.full((1, 1, 100, 100), 1.0), torch.full((1, 1, 100, 100), 3.0)
    blended = blend_mirrored(maps, mirrored)[0, 0]
    torch.testing.assert_close(blended[:, 10:90], torch.full((100, 80), 2.0))
    torch.testing.assert_close(blended[:, :5], torch.full((100, 5), 3.0))
    torch.testing.assert_close(blended[:, 95:], torch.full((100, 5), 1.0))
    torch.testing.assert_close(blend_mirrored(maps, maps), maps)


def test_depth_of_a_mirrored_picture_is_the_mirrored_depth() -> None:
    method = _method().eval()
    frames, _ = stereo_batch(range(2), SIDE)
    images = method.augment(_batch(frames))["images"]
    with torch.no_grad():
        torch.testing.assert_close(method.depth(images.flip(3)), method.depth(images).flip(3))


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": {"kind": "view_pairs", "pairs": 1, "anchors": "one_view"}},
        {"sampling": {"kind": "view_pairs", "pairs": 2, "anchors": "first_view"}},
        {"augment": {"flip": 0.5}},
        {"augment": {"crop_scale": (0.5, 1.0)}},
        {"augment": {"jitter": 1.0, "brightness": 0.2}},
    ],
)
def test_settings_that_break_the_geometry_are_refused(settings: dict) -> None:
    with pytest.raises(ValidationError, match=r"first_view|mirror|shared"):
        StereoDepthConfig.model_validate(settings)


def test_it_learns_depth_from_pairs_alone() -> None:
    frames, _ = stereo_batch(range(24), SIDE)

    def draw(generator: torch.Generator) -> Batch:
        return _batch(frames[torch.randperm(len(frames), generator=generator)[:8]])

    method = _method()
    metrics = train(method, draw, steps=90, lr=2e-3)
    assert metrics["gain"] > method.chance["gain"] + 0.7
    frames, truth = stereo_batch(range(100, 108), SIDE)
    method.eval()
    seen = method.encoder.normalize(frames[:, 0].permute(0, 3, 1, 2).float() / 255)
    with torch.no_grad():
        guess = method.depth(seen)[:, 0].numpy()
    pairs = list(zip(guess, truth, strict=True))
    summary = summarize([depth_errors(p, t) for p, t in pairs])
    assert summary.mean.abs_rel < 0.3  # one depth everywhere: 0.48
    assert np.mean([order_agreement(p, t) for p, t in pairs]) > 0.85  # one depth: 0.5


def test_pictures_show_each_sample() -> None:
    frames, _ = stereo_batch(range(2), SIDE)
    with torch.no_grad():
        pictures = _method().eval().pictures(_batch(frames))
    assert set(pictures) == {"left", "nearness", "left from right"}
    assert all(p.shape == (2, SIDE, SIDE, 3) and p.dtype == torch.uint8 for p in pictures.values())
    assert (pictures["left"].float() - frames[:, 0].float()).abs().max() <= 1
