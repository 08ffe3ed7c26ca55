"""Does batched augmentation draw and compute what the reference transforms do?"""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms import v2

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation import color
from marey.models.augmentation.augment import AugmentConfig, augment_frames, random_boxes
from marey.models.augmentation.multi_crop import (
    MultiCrop,
    TwoCrops,
    as_rows,
    encode_crops,
    multi_crops,
    small_crops,
    two_crops,
)
from marey.models.augmentation.resample import gaussian_blur, resample, resize_weights
from marey.models.encoders.encoder import Encoder

EVERYTHING = AugmentConfig(
    crop_scale=(0.2, 1.0),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.2,
    blur=0.5,
)


@pytest.fixture
def frames() -> Tensor:
    """Smooth random pictures, uint8 [8, 48, 64, 3]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 6, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (48, 64), mode="bicubic")
    return (fine.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)


def _floats(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("box", [(3, 5, 40, 30), (0, 0, 64, 48), (20, 10, 9, 11)])
@pytest.mark.parametrize("size", [16, 32, 80])
def test_a_resized_crop_equals_the_antialiased_reference(
    frames: Tensor, box: tuple[int, int, int, int], size: int
) -> None:
    left, top, wide, high = box
    ones = torch.ones(len(frames))
    rows = resize_weights(top * ones, high * ones, 48, size)
    columns = resize_weights(left * ones, wide * ones, 64, size)
    reference = v2.functional.resized_crop(
        _floats(frames), top, left, high, wide, [size, size], antialias=True
    )
    torch.testing.assert_close(
        resample(frames, rows, columns), reference.clamp(0, 1), atol=2e-4, rtol=0
    )


def test_mirrored_columns_mirror_the_image(frames: Tensor) -> None:
    zeros, length = torch.zeros(8), torch.full((8,), 48.0)
    rows = resize_weights(zeros, length, 48, 24)
    mirror = torch.arange(8) % 2 == 0
    plain = resample(frames, rows, resize_weights(zeros, length, 64, 24))
    mirrored = resample(frames, rows, resize_weights(zeros, length, 64, 24, mirror=mirror))
    torch.testing.assert_close(mirrored[::2], plain[::2].flip(3))
    assert torch.equal(mirrored[1::2], plain[1::2])


def test_zooming_out_shows_black_around_the_whole_picture() -> None:
    white = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    weights = resize_weights(torch.tensor([-32.0]), torch.tensor([96.0]), 32, 30)
    image = resample(white, weights, weights)[0, 0]
    torch.testing.assert_close(image[10:20, 10:20], torch.ones(10, 10))
    image[10:20, 10:20] = 0
    assert image.max() == 0


@pytest.mark.parametrize(
    ("ours", "reference", "amounts"),
    [
        (color.adjust_brightness, v2.functional.adjust_brightness, (0.0, 0.6, 1.0, 1.7)),
        (color.adjust_contrast, v2.functional.adjust_contrast, (0.0, 0.6, 1.0, 1.7)),
        (color.adjust_saturation, v2.functional.adjust_saturation, (0.0, 0.6, 1.0, 1.7)),
        (color.adjust_hue, v2.functional.adjust_hue, (-0.5, -0.1, 0.0, 0.2)),
    ],
)
def test_colour_operations_equal_the_reference(frames: Tensor, ours, reference, amounts) -> None:
    images = _floats(frames[:4])
    images[0, :, :4] = 0.5  # grey pixels have no hue
    expected = torch.stack([reference(i, a) for i, a in zip(images, amounts, strict=True)])
    torch.testing.assert_close(ours(images, torch.tensor(amounts)), expected, atol=1e-5, rtol=0)


def test_what_is_gray_before_the_jitter_has_no_colour_and_no_turned_luma(frames: Tensor) -> None:
    varied = {"jitter": 1.0, "hue": 0.5, "grayscale": 1.0}
    plain = augment_frames(frames, 24, AugmentConfig(grayscale=1.0))
    first = augment_frames(frames, 24, AugmentConfig(**varied, grayscale_first=True))
    after = augment_frames(frames, 24, AugmentConfig(**varied))
    torch.testing.assert_close(first, plain, atol=1e-5, rtol=0)
    assert (after - plain).abs().mean() > 0.02
    torch.testing.assert_close(after[:, :1].expand(-1, 3, -1, -1), after)


def test_grayscale_equals_the_reference(frames: Tensor) -> None:
    images = _floats(frames)
    torch.testing.assert_close(
        color.grayscale(images), v2.functional.rgb_to_grayscale(images), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("radius", [1, 3, 30])
def test_blur_equals_the_reference(frames: Tensor, radius: int) -> None:
    images = _floats(frames)[:3, :, :32, :32]
    sigma = torch.tensor([0.1, 0.8, 2.0])
    taps = 2 * radius + 1
    expected = torch.stack(
        [
            v2.functional.gaussian_blur(i, [taps, taps], [s, s])
            for i, s in zip(images, sigma.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(gaussian_blur(images, sigma, radius), expected, atol=1e-5, rtol=0)


def test_boxes_have_the_distribution_of_the_reference() -> None:
    torch.manual_seed(0)
    scale, ratio, count = (0.2, 1.0), (3 / 4, 4 / 3), 1500
    ours = random_boxes(count, 48, 80, scale, ratio)
    image = torch.zeros(3, 48, 80)
    drawn = [v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(1, scale, ratio), [image])
             for _ in range(count)]  # fmt: skip
    theirs = torch.tensor(
        [[p["left"], p["top"], p["width"], p["height"]] for p in drawn], dtype=torch.float
    )
    error = (ours.var(0) / count + theirs.var(0) / count).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.06, atol=0)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= 80).all()
    assert (ours[:, 1] + ours[:, 3] <= 48).all()


def test_a_crop_that_cannot_fit_is_the_largest_centred_one() -> None:
    boxes = random_boxes(3, 10, 100, (0.9, 1.0), (3 / 4, 4 / 3))
    assert boxes.tolist() == [[43.0, 0.0, 13.0, 10.0]] * 3


def test_outputs_have_the_moments_of_the_reference(frames: Tensor) -> None:
    torch.manual_seed(0)
    count = 300
    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(16, (0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([jitter], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], 0.5),
        ]
    )
    picture = frames[:1]
    theirs = torch.stack([reference(_floats(picture)[0]) for _ in range(count)])
    ours = augment_frames(picture.expand(count, -1, -1, -1), 16, EVERYTHING)
    assert ours.shape == theirs.shape
    channel_ours, channel_theirs = ours.mean((2, 3)), theirs.mean((2, 3))
    error = (channel_ours.var(0) / count + channel_theirs.var(0) / count).sqrt()
    assert ((channel_ours.mean(0) - channel_theirs.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(channel_ours.std(0), channel_theirs.std(0), rtol=0.2, atol=0)
    contrast_ours, contrast_theirs = ours.std((2, 3)).mean(), theirs.std((2, 3)).mean()
    torch.testing.assert_close(contrast_ours, contrast_theirs, rtol=0.06, atol=0)


def test_images_stay_in_range_and_differ(frames: Tensor) -> None:
    torch.manual_seed(0)
    images = augment_frames(frames[:1].expand(32, -1, -1, -1), 24, EVERYTHING)
    assert images.shape == (32, 3, 24, 24)
    assert images.min() >= 0
    assert images.max() <= 1
    assert len(torch.unique(images.flatten(1), dim=0)) == 32


def test_a_seed_fixes_the_augmentation(frames: Tensor) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment_frames(frames, 24, EVERYTHING))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_autocast_does_not_round_the_colours(frames: Tensor) -> None:
    torch.manual_seed(1)
    expected = augment_frames(frames, 24, EVERYTHING)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment_frames(frames, 24, EVERYTHING), expected)


def test_switched_off_it_is_the_evaluation_preprocessing(frames: Tensor) -> None:
    square = augment_frames(frames, 48, AugmentConfig())
    assert torch.allclose(square, _floats(frames)[..., 8:56], atol=1e-6)
    encoder = Encoder(EncoderConfig(image_size=24))
    halved = encoder.normalize(augment_frames(frames, 24, AugmentConfig()))
    # Evaluation resizes before it crops, so that the outermost columns see beyond the square.
    inner = (..., slice(1, -1))
    torch.testing.assert_close(halved[inner], encoder.preprocess(frames)[inner])


def test_frames_of_a_group_share_their_crop_but_not_their_colours(frames: Tensor) -> None:
    torch.manual_seed(0)
    group = frames[:1].expand(6, -1, -1, -1)
    cropped = augment_frames(group, 24, AugmentConfig(crop_scale=(0.1, 0.5), flip=0.5), shared=3)
    assert torch.equal(cropped[0], cropped[1])
    assert torch.equal(cropped[3], cropped[5])
    assert not torch.equal(cropped[0], cropped[3])
    varied = augment_frames(group, 24, AugmentConfig(jitter=1.0, brightness=0.5), shared=3)
    assert not torch.equal(varied[0], varied[1])
    with pytest.raises(ValueError, match="groups of 4"):
        augment_frames(group, 24, AugmentConfig(), shared=4)


def test_zoom_goes_in_and_out_about_the_centre() -> None:
    torch.manual_seed(0)
    white = torch.full((400, 32, 32, 3), 255, dtype=torch.uint8)
    images = augment_frames(white, 30, AugmentConfig(zoom=0.5))
    share = images[:, 0].mean((1, 2))  # of the picture that is not black
    black = (share < 1).float().mean().item()
    assert black == pytest.approx(0.25, abs=0.07)  # half of the half that is zoomed
    assert share.min() == pytest.approx(1 / 3, abs=0.03)  # three times the picture's area
    torch.testing.assert_close(images, images.flip(3))


@pytest.mark.parametrize(
    "setting",
    [
        {"crop_scale": (0.5, 1.2)},
        {"crop_scale": (0.0, 1.0)},
        {"blur_sigma": (2.0, 1.0)},
        {"zoom": 0.5, "crop_scale": (0.5, 1.0)},
        {"flip": 1.5},
        {"hue": 0.6},
        {"sharpness": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict) -> None:
    with pytest.raises(ValidationError):
        AugmentConfig(**setting)


def test_log_aspect_is_uniform() -> None:
    """Neither tall nor wide crops are preferred."""
    torch.manual_seed(0)
    boxes = random_boxes(4000, 200, 200, (0.1, 0.5), (0.5, 2.0))
    log_aspect = (boxes[:, 2] / boxes[:, 3]).log()
    assert log_aspect.mean().item() == pytest.approx(0, abs=0.03)
    assert log_aspect.std().item() == pytest.approx(2 * math.log(2) / math.sqrt(12), rel=0.05)


def test_colours_are_jittered_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each of the four places of the order, each operation works on a quarter of the images."""
    torch.manual_seed(0)
    sizes: list[int] = []

    def watched(operation):
        def run(images: Tensor, amount: Tensor) -> Tensor:
            sizes.append(len(images))
            return operation(images, amount)

        return run

    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue"):
        monkeypatch.setattr(color, name, watched(getattr(color, name)))
    config = AugmentConfig(jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    augment_frames(torch.zeros(400, 8, 8, 3, dtype=torch.uint8), 8, config)
    assert len(sizes) == 16
    assert all(60 < size < 140 for size in sizes)


def test_solarizing_equals_the_reference(frames: Tensor) -> None:
    images = _floats(frames)
    expected = torch.stack([v2.functional.solarize(image, 0.5) for image in images])
    assert torch.equal(color.solarize(images), expected)


def test_as_many_images_are_solarized_as_by_the_reference(frames: Tensor) -> None:
    torch.manual_seed(0)
    square = frames[:1, :, 8:56].expand(600, -1, -1, -1)
    ours = augment_frames(square, 48, AugmentConfig(solarize=0.3))
    plain = _floats(frames[:1, :, 8:56])
    reference = v2.RandomSolarize(0.5, 0.3)
    theirs = torch.stack([reference(plain[0]) for _ in range(600)])
    changed_ours = (ours - plain).abs().amax((1, 2, 3)) > 0.01
    changed_theirs = (theirs - plain).abs().amax((1, 2, 3)) > 0.01
    assert changed_ours.float().mean().item() == pytest.approx(0.3, abs=0.08)
    assert changed_theirs.float().mean().item() == pytest.approx(0.3, abs=0.08)
    torch.testing.assert_close(ours[changed_ours][0], theirs[changed_theirs][0], atol=1e-5, rtol=0)


def _images(frames: Tensor, varied: AugmentConfig, *, size: int = 24) -> Tensor:
    flat = augment_frames(frames.flatten(0, -4), size, varied)
    return flat.unflatten(0, frames.shape[:-3])


def test_each_of_two_crops_has_its_own_recipe(frames: Tensor) -> None:
    """BYOL's second view alone is solarised; blur and solarising come after everything else."""
    torch.manual_seed(0)
    samples = frames.unflatten(0, (4, 2))
    config = TwoCrops(first=AugmentConfig(grayscale=1.0), second=AugmentConfig(solarize=1.0))
    crops = two_crops(_images, samples, config)
    assert crops.shape == (4, 2, 2, 3, 24, 24)
    first, second = crops[:, 0], crops[:, 1]
    assert torch.equal(first[:, :, 0], first[:, :, 2])
    assert not torch.equal(second[:, :, 0], second[:, :, 2])
    torch.testing.assert_close(second, color.solarize(_images(samples, AugmentConfig())))
    assert torch.equal(as_rows(crops)[:8], first.flatten(0, 1))
    assert torch.equal(as_rows(crops)[8:], second.flatten(0, 1))


def test_what_is_not_said_of_another_crop_is_as_in_the_first() -> None:
    """So one word on the command line does not take all else from a crop."""
    first = {"crop_scale": (0.2, 1.0), "flip": 0.5, "blur": 1.0}
    said = {"first": first, "second": {"blur": 0.1}, "small": {"crop_scale": (0.05, 0.2)}}
    for given in (said, said | {"first": AugmentConfig.model_validate(first)}):
        config = MultiCrop.model_validate(given)
        assert config.second == config.first.model_copy(update={"blur": 0.1})
        assert config.small == config.first.model_copy(update={"crop_scale": (0.05, 0.2)})
        assert MultiCrop.model_validate(config.model_dump()) == config
    whole = MultiCrop.model_validate(said | {"second": AugmentConfig(flip=1.0)})
    assert whole.second == AugmentConfig(flip=1.0)
    with pytest.raises(ValidationError, match="first"):
        MultiCrop.model_validate(said | {"first": 3})


def test_small_crops_of_which_nothing_is_said_are_varied_as_the_first(frames: Tensor) -> None:
    torch.manual_seed(0)
    recipe = AugmentConfig(crop_scale=(0.05, 0.4), flip=0.5)
    crops = small_crops(_images, frames[:1, None], MultiCrop(first=recipe, small_size=12))
    assert len(torch.unique(crops.flatten(0, 2).flatten(1), dim=0)) == 6


def test_two_crops_of_one_recipe_are_drawn_independently(frames: Tensor) -> None:
    torch.manual_seed(0)
    crops = two_crops(_images, frames[:, None], TwoCrops(first=EVERYTHING))
    assert len(torch.unique(as_rows(crops).flatten(1), dim=0)) == 16


def test_small_crops_have_the_moments_of_the_reference(frames: Tensor) -> None:
    torch.manual_seed(0)
    count = 300
    recipe = AugmentConfig(crop_scale=(0.05, 0.4), flip=0.5)
    config = MultiCrop(small=recipe, small_crops=3, small_size=12)
    picture = frames[:1, None].expand(count // 3, -1, -1, -1, -1)
    crops = small_crops(_images, picture, config)
    assert crops.shape == (count // 3, 3, 1, 3, 12, 12)
    reference = v2.Compose(
        [v2.RandomResizedCrop(12, (0.05, 0.4), antialias=True), v2.RandomHorizontalFlip()]
    )
    theirs = torch.stack([reference(_floats(frames[:1])[0]) for _ in range(count)])
    ours = as_rows(crops)
    means_ours, means_theirs = ours.mean((2, 3)), theirs.mean((2, 3))
    error = (means_ours.var(0) / count + means_theirs.var(0) / count).sqrt()
    assert ((means_ours.mean(0) - means_theirs.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(means_ours.std(0), means_theirs.std(0), rtol=0.2, atol=0)
    torch.testing.assert_close(
        ours.std((2, 3)).mean(), theirs.std((2, 3)).mean(), rtol=0.08, atol=0
    )
    # independent draws: no two crops of one picture are the same
    assert len(torch.unique(ours.flatten(1), dim=0)) > 0.98 * count


def test_no_small_crops_are_an_empty_stack(frames: Tensor) -> None:
    config = MultiCrop(small_crops=0, small_size=12)
    assert small_crops(_images, frames[:, None], config).shape == (8, 0, 1, 3, 12, 12)


@pytest.mark.parametrize("small", [0, 3])
def test_crops_of_both_sizes_are_encoded_crop_after_crop(frames: Tensor, small: int) -> None:
    config = MultiCrop(second=AugmentConfig(solarize=1.0), small_crops=small, small_size=12)
    crops = multi_crops(_images, frames.unflatten(0, (4, 2)), config)
    assert crops["images"].shape == (4, 2, 2, 3, 24, 24)
    means = encode_crops(lambda images: images.mean((2, 3)), **crops)
    expected = [rows.transpose(0, 1).mean((4, 5)) for rows in crops.values()]
    torch.testing.assert_close(means.unflatten(0, (2 + small, 4, 2)), torch.cat(expected))
