"""Does SimMIM paint hidden cells from visible ones, and count nothing else?"""

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.context.masked_pixels import MaskedPixels, MaskedPixelsConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import normalize_patches, patchify
from marey.models.objectives.reconstruction import patch_errors, reconstruction
from tests.learning import train


def _method(**settings: object) -> MaskedPixels:
    torch.manual_seed(0)
    encoder = EncoderConfig(stages=2, image_size=32)
    config = MaskedPixelsConfig.model_validate({"cells": 8, "augment": AugmentConfig(), **settings})
    return MaskedPixels(Encoder(encoder), config)


def halves(generator: torch.Generator, count: int = 32) -> Batch:
    """Pictures whose left and right half have a colour each: a hole is painted by its side."""
    colours = torch.rand(count, 2, 3, generator=generator)
    wide = colours.repeat_interleave(16, dim=1)[:, None].expand(-1, 32, -1, -1)
    return {
        "frames": (wide * 255).round().byte()[:, None],
        "time_s": torch.zeros(count, 1),
        "instance": torch.arange(count),
    }


PATTERNS = torch.rand(6, 4, 4, 3, generator=torch.Generator().manual_seed(9))


def wallpaper(generator: torch.Generator, count: int = 16, frames: int = 1) -> Batch:
    """Pictures, or clips that stand still, tiled with one of six patterns of 4 px."""
    chosen = torch.randint(6, (count,), generator=generator)
    tiled = PATTERNS[chosen].repeat(1, 8, 8, 1)[:, None].expand(-1, frames, -1, -1, -1)
    return {
        "frames": (tiled * 255).round().byte(),
        "time_s": torch.zeros(count, frames),
        "instance": torch.arange(count),
    }


def noise(generator: torch.Generator, count: int = 32) -> Batch:
    batch = halves(generator, count)
    frames = torch.randint(0, 256, batch["frames"].shape, generator=generator)
    return {**batch, "frames": frames.byte()}


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_loss_is_that_of_a_slow_formulation(norm_pix: bool, squared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, patches = torch.randn(2, 3, 6, 12, generator=generator, dtype=torch.float64)
    hidden = torch.rand(3, 6, generator=generator) < 0.5
    total, count = 0.0, 0
    for n in range(3):
        for i in range(6):
            if not hidden[n, i]:
                continue
            target = patches[n, i].tolist()
            if norm_pix:
                mean = sum(target) / 12
                variance = sum((x - mean) ** 2 for x in target) / 11
                target = [(x - mean) / (variance + 1e-6) ** 0.5 for x in target]
            for y, x in zip(predicted[n, i].tolist(), target, strict=True):
                total += (y - x) ** 2 if squared else abs(y - x)
                count += 1
    values = reconstruction(predicted, patches, hidden, norm_pix=norm_pix, squared=squared)
    assert values["loss"].item() == pytest.approx(total / count, abs=1e-12)


def test_what_is_predicted_at_visible_places_changes_nothing_and_has_no_gradient() -> None:
    patches, hidden = torch.randn(2, 9, 12), torch.rand(2, 9) < 0.5
    predicted = torch.randn(2, 9, 12, requires_grad=True)
    loss = reconstruction(predicted, patches, hidden, norm_pix=False, squared=False)["loss"]
    loss.backward()
    assert (predicted.grad[~hidden] == 0).all()
    assert (predicted.grad[hidden] != 0).all()
    other = torch.where(hidden[..., None], predicted, predicted + 5)
    again = reconstruction(other, patches, hidden, norm_pix=False, squared=False)["loss"]
    assert torch.equal(again, loss)


def test_gradients_are_those_of_finite_differences() -> None:
    patches, hidden = torch.randn(2, 4, 6).double(), torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0]]) > 0
    predicted = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    for squared in (True, False):
        assert torch.autograd.gradcheck(
            lambda y, s=squared: reconstruction(y, patches, hidden, norm_pix=True, squared=s)[
                "loss"
            ],
            predicted,
        )


def test_with_nothing_hidden_the_loss_is_zero_and_still_attached() -> None:
    predicted = torch.randn(2, 4, 6, requires_grad=True)
    values = reconstruction(
        predicted, torch.randn(2, 4, 6), torch.zeros(2, 4) > 0, norm_pix=False, squared=False
    )
    values["loss"].backward()
    assert values["loss"] == 0
    assert (predicted.grad == 0).all()


def test_a_blind_answer_has_an_error_of_one_and_the_truth_of_none() -> None:
    patches = torch.rand(4, 16, 12)
    hidden = torch.rand(4, 16) < 0.6
    colour = torch.stack([patches[n][~hidden[n]].view(-1, 3).mean(0) for n in range(4)])
    blind = colour.repeat(1, 4)[:, None].expand(-1, 16, -1)
    values = reconstruction(blind, patches, hidden, norm_pix=False, squared=False)
    assert values["relative_error"].item() == pytest.approx(1, abs=1e-4)
    assert reconstruction(patches, patches, hidden, norm_pix=False, squared=False)["loss"] == 0


def test_the_encoder_never_sees_a_hidden_pixel_and_the_loss_is_of_hidden_cells() -> None:
    """Other hidden pixels change the target and nothing that is predicted."""
    method = _method().eval()
    batch = method.augment(halves(torch.Generator().manual_seed(0), 4))
    fine = batch["mask"].repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, None]
    changed = torch.where(fine, batch["images"] + 1000, batch["images"])
    with torch.no_grad():
        loss = method({**batch, "images": changed})["loss"].item()
    assert loss == pytest.approx(1000, abs=5)


def test_the_predicted_pixels_lie_where_the_map_looks() -> None:
    """The head's answer for a pixel comes from the map's place over that pixel."""
    method = _method()
    features = torch.zeros(1, 64, 8, 8)
    features[..., 2, 5] = 1
    with torch.no_grad():
        change = (method.head(features) - method.head(torch.zeros_like(features))).abs().sum(2)
    touched = change.view(32, 32).nonzero()
    assert touched.min(0).values.tolist() == [8, 20]
    assert touched.max(0).values.tolist() == [11, 23]


def test_it_learns_to_paint_a_hole_by_its_side() -> None:
    method = _method()
    metrics = train(method, halves, steps=60)
    assert method.chance == {"error_over_fill": 1.0, "relative_error": 1.0}
    assert metrics["relative_error"] < 0.6


def test_noise_cannot_be_painted() -> None:
    metrics = train(_method(), noise, steps=25)
    assert metrics["relative_error"] > 0.98


def test_pictures_of_one_value_are_nothing_under_norm_pix() -> None:
    method = _method(norm_pix=True)
    batch = halves(torch.Generator().manual_seed(0), 4)
    batch = method.augment({**batch, "frames": torch.full_like(batch["frames"], 90)})
    batch["images"] = torch.full_like(batch["images"], 0.3)
    assert normalize_patches(patchify(batch["images"][:, 0], 4)).abs().max() < 1e-3
    metrics = method(batch)
    metrics["loss"].backward()
    assert all(value.isfinite() for value in metrics.values())
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_errors_of_a_patch_are_means_over_its_values() -> None:
    predicted, target = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.0, 0.0]]])
    assert patch_errors(predicted, target, squared=False).item() == 2
    assert patch_errors(predicted, target, squared=True).item() == 5


@pytest.mark.parametrize(
    ("encoder", "cells", "words"),
    [
        ({}, 7, ["cells", "7", "32"]),
        ({"pool": "spatial_softmax"}, 8, ["pool", "average"]),
        ({"embedding_dim": 8}, 8, ["embedding_dim"]),
        ({"pool_norm": True}, 8, ["pool_norm"]),
        ({"backbone": "resnet18", "image_size": 48}, 8, ["48", "resnet18", "32 or 64"]),
    ],
)
def test_what_does_not_fit_is_refused(encoder: dict, cells: int, words: list[str]) -> None:
    config = EncoderConfig.model_validate({"image_size": 32, **encoder})
    with pytest.raises(SettingError) as caught:
        MaskedPixels(Encoder(config), MaskedPixelsConfig(cells=cells))
    assert all(word in str(caught.value) for word in words)
