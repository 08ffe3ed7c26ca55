"""What an encoder sees: lightness and colour apart; and nothing of its neighbours in the batch."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from marey.configs.encoder import LAB_MEAN, LAB_STD, EncoderConfig
from marey.models.augmentation.color import rgb_to_lab
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.norms import has_batch_norm
from marey.pipeline.embedding.encoder_files import export_encoder, load_encoder
from marey.pipeline.runtime.storage import Folder


def _encoder(**settings: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig.model_validate({"image_size": 32, **settings}))


def _frames(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)


def test_lab_is_scaled_to_about_one() -> None:
    axis = torch.linspace(0, 1, 17)
    cube = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(2)[None]
    scaled = _encoder(input="lab_split").normalize(cube)
    wanted = (rgb_to_lab(cube)[0, :, 3, 5] - torch.tensor(LAB_MEAN)) / torch.tensor(LAB_STD)
    torch.testing.assert_close(scaled[0, :, 3, 5], wanted)
    lows, highs = scaled.amin(dim=(0, 2, 3)), scaled.amax(dim=(0, 2, 3))
    torch.testing.assert_close(lows, -torch.ones(3), atol=0.01, rtol=0)
    torch.testing.assert_close(highs, torch.ones(3), atol=0.01, rtol=0)


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_the_first_half_sees_lightness_only_and_the_second_colour_only(backbone: str) -> None:
    encoder = _encoder(input="lab_split", backbone=backbone).eval()
    images = encoder.preprocess(_frames())
    lighter, redder = images.clone(), images.clone()
    lighter[:, 0] += 0.5
    redder[:, 1] += 0.5
    with torch.no_grad():
        lightness, color = encoder(images).chunk(2, dim=1)
        lightness_of_redder, color_of_redder = encoder(redder).chunk(2, dim=1)
        lightness_of_lighter, color_of_lighter = encoder(lighter).chunk(2, dim=1)
    assert torch.equal(lightness, lightness_of_redder)
    assert torch.equal(color, color_of_lighter)
    assert not torch.allclose(lightness, lightness_of_lighter)
    assert not torch.allclose(color, color_of_redder)


@pytest.mark.parametrize("settings", [{"input": "lab_split"}, {"norm": "layer"}])
def test_such_encoders_are_rebuilt_from_what_is_exported(settings: dict, tmp_path: Path) -> None:
    encoder = _encoder(**settings).eval()
    export_encoder(Folder(str(tmp_path)), encoder, {})
    again, about = load_encoder(str(tmp_path))
    frames = _frames()
    assert torch.equal(again(again.preprocess(frames)), encoder(encoder.preprocess(frames)))
    shown = "CIE Lab" if "input" in settings else "RGB"
    assert about["preprocessing"]["channels"] == shown


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_with_layer_norm_no_image_sees_its_neighbours(backbone: str) -> None:
    """In training mode; with batch norm an embedding depends on the whole batch."""
    for norm, alone in (("layer", True), ("batch", False)):
        encoder = _encoder(
            backbone=backbone, norm=norm, pool_norm=True, hidden=(16,), embedding_dim=8
        )
        assert has_batch_norm(encoder) is not alone
        images = encoder.preprocess(_frames())
        others = torch.cat([images[:1], -images[1:]])
        assert torch.allclose(encoder(images)[0], encoder(others)[0], atol=1e-5) is alone


def test_layer_norm_keeps_how_residual_blocks_begin() -> None:
    """As their shortcuts: the scale of each block's last norm starts at 0."""
    scales = [
        module.weight for module in _encoder(norm="layer").trunk.modules()
        if isinstance(module, torch.nn.GroupNorm)
    ]  # fmt: skip
    assert sum(bool((scale == 0).all()) for scale in scales) == 3
    assert sum(bool((scale == 1).all()) for scale in scales) == len(scales) - 3


@pytest.mark.parametrize(
    "settings",
    [{"input": "lab_split", "clip_frames": 4}, {"norm": "layer", "pretrained": True}],
)
def test_what_contradicts_itself_is_refused(settings: dict) -> None:
    with pytest.raises(ValidationError, match=r"clip_frames|pretrained"):
        EncoderConfig.model_validate(settings)
