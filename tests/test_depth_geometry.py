"""Do warps, motions and the photometric error agree with slow formulas and with true scenes?"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.depth.camera import (
    depth_of,
    focal_share,
    pixel_centres,
    reprojection,
    rigid_transform,
    sample_at,
    sideways,
)
from marey.models.depth.decoder import DisparityDecoder, build_decoder, trunk_maps
from marey.models.depth.photometric import (
    photometric_error,
    roughness,
    shrink,
    structural_similarity,
)
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.trunk import Level
from tests.depth_scenes import (
    BASELINE_M,
    FIELD_OF_VIEW_DEG,
    eye_at,
    make_scene,
    render,
    stereo_batch,
)

FOCAL = focal_share(FIELD_OF_VIEW_DEG)


def _images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("pixels", [-3, 0, 2])
def test_a_disparity_of_whole_pixels_shifts_exactly(pixels: int) -> None:
    """With the corners aligned instead, every warp would be off by up to half a pixel."""
    images = _images(1, 3, 8, 8)
    disparity = torch.full((1, 1, 8, 8), pixels / 8, dtype=torch.float64)
    column = (torch.arange(8) + pixels).clamp(0, 7)
    torch.testing.assert_close(sample_at(images, sideways(disparity)), images[..., column])


def test_half_a_pixel_is_the_mean_of_two() -> None:
    images = _images(1, 1, 6, 6)
    moved = sample_at(images, sideways(torch.full((1, 1, 6, 6), 0.5 / 6, dtype=torch.float64)))
    torch.testing.assert_close(moved[..., :5], (images[..., :5] + images[..., 1:]) / 2)


def test_standing_still_leaves_every_pixel_in_its_place_at_any_depth() -> None:
    depth = 1 + 9 * _images(2, 1, 5, 5)
    places = reprojection(depth, rigid_transform(torch.zeros(2, 6, dtype=torch.float64)), FOCAL)
    x, y = pixel_centres(5, depth)
    torch.testing.assert_close(places, torch.stack([x, y], dim=2).expand(2, -1, -1, -1))


def test_reprojection_equals_the_pinhole_formula_point_by_point() -> None:
    depth, size = 2 + 8 * _images(1, 1, 4, 4), 4
    vector = torch.tensor([[0.1, -0.2, 0.05, 0.3, -0.1, 0.4]], dtype=torch.float64)
    places = reprojection(depth, rigid_transform(vector), FOCAL)
    axis, move = vector[0, :3].numpy(), vector[0, 3:].numpy()
    angle = np.linalg.norm(axis)
    x, y, z = axis / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    for row in range(size):
        for column in range(size):
            u, v = (column + 0.5) / size, (row + 0.5) / size
            point = depth[0, 0, row, column].item() * np.array(
                [(u - 0.5) / FOCAL, (v - 0.5) / FOCAL, 1]
            )
            a, b, c = turn @ point + move
            wanted = torch.tensor([FOCAL * a / c + 0.5, FOCAL * b / c + 0.5])
            torch.testing.assert_close(places[0, row, column], wanted.double())


def test_an_inverse_motion_undoes_the_motion_and_standing_still_has_a_gradient() -> None:
    vectors = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    there, back = rigid_transform(vectors), rigid_transform(vectors, inverse=True)
    turned = back[:, :, :3] @ there[:, :, :3]
    moved = back[:, :, :3] @ there[:, :, 3:] + back[:, :, 3:]
    torch.testing.assert_close(turned, torch.eye(3, dtype=torch.float64).expand(3, -1, -1))
    torch.testing.assert_close(moved, torch.zeros_like(moved))
    still = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(rigid_transform, (still,))


def test_a_stereo_pair_is_a_motion_to_the_left() -> None:
    """Target left, source right: the point moves by -baseline, which is a disparity f b / Z."""
    depth = 2 + 8 * _images(1, 1, 6, 6)
    move = torch.tensor([[0, 0, 0, -BASELINE_M, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(
        reprojection(depth, rigid_transform(move), FOCAL),
        sideways(-BASELINE_M * FOCAL / depth),
    )


def _error(first: Tensor, second: Tensor) -> float:
    return photometric_error(first, second).mean().item()


def test_the_true_depth_explains_a_rendered_pair_and_a_wrong_one_does_not() -> None:
    pairs, depth = stereo_batch(range(3), 48)
    left, right = (pairs[:, side].permute(0, 3, 1, 2).float() / 255 for side in (0, 1))
    disparity = BASELINE_M * FOCAL / torch.from_numpy(depth)[:, None]
    right_way = _error(left, sample_at(right, sideways(-disparity)))
    assert right_way < 0.5 * _error(left, right)
    for wrong in (disparity, -disparity.flip(2), -1.5 * disparity):
        assert _error(left, sample_at(right, sideways(wrong))) > 1.5 * right_way


def test_the_true_motion_and_depth_explain_a_turning_camera() -> None:
    scene, yaw, size = make_scene(3), 0.05, 48
    first, depth = render(scene, eye_at(scene, 0.4), size)
    second, _ = render(scene, eye_at(scene, 0.6), size, yaw=yaw)
    here, there = (
        torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (first, second)
    )
    # a point's coordinates after the camera has gone by `step` and turned right by `yaw`
    turn = torch.tensor([[0.0, -yaw, 0.0, 0.0, 0.0, 0.0]])
    rotation = rigid_transform(turn)[:, :, :3]
    step = torch.from_numpy(0.2 * scene.path).float()
    motion = torch.cat([rotation, -(rotation @ step)[..., None]], dim=2)
    places = reprojection(torch.from_numpy(depth)[None, None], motion, FOCAL)
    right_way = _error(here, sample_at(there, places))
    assert right_way < 0.5 * _error(here, there)


def test_similarity_equals_its_definition_pixel_by_pixel() -> None:
    a, b = _images(1, 2, 5, 6, seed=1), _images(1, 2, 5, 6, seed=2)
    got = structural_similarity(a, b)
    for channel in range(2):
        one, two = (np.pad(x[0, channel].numpy(), 1, mode="reflect") for x in (a, b))
        for row in range(5):
            for column in range(6):
                p, q = (x[row : row + 3, column : column + 3] for x in (one, two))
                shared = ((p - p.mean()) * (q - q.mean())).mean()
                top = (2 * p.mean() * q.mean() + 0.01**2) * (2 * shared + 0.03**2)
                low = (p.mean() ** 2 + q.mean() ** 2 + 0.01**2) * (p.var() + q.var() + 0.03**2)
                assert got[0, channel, row, column].item() == pytest.approx(top / low, abs=1e-9)


def test_the_photometric_error_of_known_pictures() -> None:
    image = _images(1, 3, 6, 6)
    torch.testing.assert_close(
        photometric_error(image, image), torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    )
    black, white = torch.zeros(1, 3, 6, 6), torch.ones(1, 3, 6, 6)
    # flat and opposite: no variance, so that similarity is C1 / (1 + C1)
    wanted = 0.85 * (1 - 1e-4 / (1 + 1e-4)) / 2 + 0.15
    assert _error(black, white) == pytest.approx(wanted, abs=1e-6)
    assert gradcheck(
        lambda x: photometric_error(x, _images(1, 3, 4, 4, seed=5)),
        (_images(1, 3, 4, 4).requires_grad_(),),
    )


def test_roughness_is_the_mean_slope_and_edges_of_the_picture_excuse_it() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8) / 8
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert roughness(ramp, flat).item() == pytest.approx(1 / 8)
    assert roughness(torch.ones(1, 1, 8, 8), _images(1, 3, 8, 8).float()).item() == 0
    step = (torch.arange(8) >= 4).float().expand(1, 1, 8, 8)
    excused = roughness(step, step.expand(-1, 3, -1, -1)).item()
    assert excused == pytest.approx(roughness(step, flat).item() * math.exp(-1))


def test_depth_spans_its_range() -> None:
    got = depth_of(torch.tensor([0.0, 1.0]), 0.1, 100.0)
    torch.testing.assert_close(got, torch.tensor([100.0, 0.1]))


def test_shrinking_averages_what_each_pixel_covers() -> None:
    images = _images(1, 1, 4, 4)
    wanted = images.reshape(1, 1, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(shrink(images, 2), wanted)


@pytest.mark.parametrize(
    ("backbone", "size", "sides"), [("tiny", 32, [32, 16, 8]), ("resnet18", 64, [64, 32, 16, 8])]
)
def test_a_decoder_gives_every_scale_and_uses_every_map(
    backbone: str, size: int, sides: list[int]
) -> None:
    encoder = Encoder(EncoderConfig(backbone=backbone, image_size=size))
    decoder = build_decoder(encoder, 2)
    maps = trunk_maps(encoder, torch.randn(2, 3, size, size))
    found = decoder(maps)
    assert [tuple(m.shape) for m in found] == [(2, 2, side, side) for side in sides]
    assert all(((m > 0) & (m < 1)).all() for m in found)
    sum(m.sum() for m in found).backward()
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        assert parameter.grad is not None
    changed = [torch.zeros_like(m) for m in maps]
    for place in range(len(maps)):
        other = decoder([*changed[:place], maps[place], *changed[place + 1 :]])[0]
        assert not torch.equal(other, decoder(changed)[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"embedding_dim": 8}, "encoder.embedding_dim=null"),
        ({"pool": "spatial_softmax"}, "encoder.pool=average"),
        ({"image_size": 60}, "multiple of 8"),
        ({"backbone": "resnet18", "image_size": 32}, "at least 64"),
        ({"backbone": "vit_tiny_patch16_224"}, "several resolutions"),
        ({"clip_frames": 2}, "single images"),
    ],
)
def test_an_encoder_that_depth_cannot_train_is_refused(settings: dict, words: str) -> None:
    encoder = Encoder(EncoderConfig.model_validate(settings))
    with pytest.raises(SettingError, match=words):
        build_decoder(encoder, 1)


def test_a_trunk_coarser_than_the_decoder_reaches_is_refused() -> None:
    with pytest.raises(SettingError, match="32 times"):
        DisparityDecoder([Level(8, 32), Level(8, 64)], 1)
