"""Does MAE paint from the visible patches alone, with the loss of its paper?"""

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.masking import random_mask
from marey.models.context.mae import MAE, MAEConfig
from marey.models.encoders.encoder import Encoder
from marey.models.objectives.reconstruction import reconstruction
from tests.learning import train
from tests.test_method_masked_pixels import halves, noise, wallpaper


def _method(encoder: dict | None = None, **settings: object) -> MAE:
    torch.manual_seed(0)
    architecture = EncoderConfig.model_validate(
        {"backbone": "tiny_vit", "stages": 2, "image_size": 32, **(encoder or {})}
    )
    config = MAEConfig.model_validate(
        {
            "decoder_width": 32,
            "decoder_depth": 1,
            "decoder_heads": 4,
            "augment": AugmentConfig(),
            **settings,
        }
    )
    return MAE(Encoder(architecture), config)


def test_zeros_have_the_error_of_normalised_patches() -> None:
    """The unbiased variance leaves 767/768 (and the floor next to nothing) of patches of 768."""
    patches = torch.randn(3, 49, 768) * 2 + 1
    mask = random_mask(3, 49).mask
    values = reconstruction(torch.zeros_like(patches), patches, mask, norm_pix=True, squared=True)
    assert values["loss"].item() == pytest.approx(767 / 768, abs=1e-5)
    assert values["relative_error"].item() == pytest.approx(1, abs=1e-5)


def test_gradient_is_zero_at_visible_patches() -> None:
    predicted = torch.randn(2, 16, 48, requires_grad=True)
    mask = random_mask(2, 16).mask
    reconstruction(predicted, torch.randn(2, 16, 48), mask, norm_pix=True, squared=True)[
        "loss"
    ].backward()
    assert (predicted.grad[~mask] == 0).all()
    assert (predicted.grad[mask] != 0).all()


def test_no_answer_depends_on_a_hidden_pixel() -> None:
    method = _method(norm_pix=False).eval()
    batch = method.augment(noise(torch.Generator().manual_seed(0), 4))
    fine = batch["mask"].view(4, 1, 1, 8, 8).repeat_interleave(4, 3).repeat_interleave(4, 4)
    changed = torch.where(fine, batch["images"] + 1000, batch["images"])
    with torch.no_grad():
        loss = method({**batch, "images": changed})["loss"].item()
    # the same answers under targets that moved by 1000
    assert loss == pytest.approx(1e6, rel=0.01)


def test_mask_and_visible_patches_agree() -> None:
    batch = _method().augment(halves(torch.Generator().manual_seed(0), 6))
    assert batch["mask"].shape == (6, 1, 64)
    assert batch["keep"].shape == (6, 1, 16)
    assert (batch["mask"].sum(2) == 64 - 16).all()
    assert not batch["mask"].gather(2, batch["keep"]).any()


def test_it_learns_to_paint() -> None:
    method = _method()
    metrics = train(method, wallpaper, steps=60)
    assert method.chance == {"error_over_fill": 1.0, "relative_error": 1.0}
    assert metrics["relative_error"] < 0.3


def test_noise_cannot_be_painted() -> None:
    metrics = train(_method(), noise, steps=15, lr=1e-3)
    assert metrics["relative_error"] > 0.98


def test_flat_pictures_give_finite_gradients() -> None:
    method = _method()
    batch = halves(torch.Generator().manual_seed(0), 4)
    batch["frames"] = torch.full_like(batch["frames"], 200)
    metrics = method(method.augment(batch))
    metrics["loss"].backward()
    assert all(value.isfinite() for value in metrics.values())
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_it_trains_a_plain_transformer_of_timm() -> None:
    method = _method({"backbone": "vit_tiny_patch16_224", "image_size": 64})
    batch = method.augment(halves(torch.Generator().manual_seed(0), 4))
    assert batch["keep"].shape == (4, 1, 4)  # of 16 patches
    method(batch)["loss"].backward()
    assert all(p.grad is not None for p in method.encoder.parameters())


@pytest.mark.parametrize(
    ("encoder", "settings", "words"),
    [
        ({"backbone": "tiny"}, {}, ["tiny_vit", "'tiny'"]),
        ({}, {"decoder_heads": 5}, ["5", "32"]),
        ({"embedding_dim": 8}, {}, ["head"]),
    ],
)
def test_what_does_not_fit_is_refused(encoder: dict, settings: dict, words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        _method(encoder, **settings)
    assert all(word.strip("'") in str(caught.value) for word in words)
