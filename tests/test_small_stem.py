"""Does `encoder.stem=small` make of a ResNet what papers train on CIFAR?"""

import pytest
import torch
from pydantic import ValidationError

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.encoders.encoder import Encoder

SMALL = {"backbone": "resnet18", "image_size": 32, "stem": "small"}


def _encoder(**settings: object) -> Encoder:
    return Encoder(EncoderConfig.model_validate({**SMALL, **settings}))


def test_it_has_as_many_parameters_as_the_network_of_papers() -> None:
    encoder = _encoder()
    # 11,176,512 of ResNet-18, less 64 kernels of 7x7x3, and 64 of 3x3x3 in their place
    assert sum(p.numel() for p in encoder.parameters()) == 11_168_832
    assert encoder.out_dim == 512


def test_its_maps_are_four_times_as_fine() -> None:
    images = torch.rand(2, 3, 32, 32)
    encoder, own = _encoder(), _encoder(stem="own")
    assert encoder.eval().features(images).shape == (2, 512, 4, 4)
    assert own.eval().features(images).shape == (2, 512, 1, 1)
    assert [level.reduction for level in encoder.trunk.levels] == [1, 1, 2, 4, 8]  # pyright: ignore


def test_every_pixel_reaches_the_first_map() -> None:
    """No stride and no pooling: a shifted picture has a shifted map, away from the border."""
    trunk = _encoder(stages=1).eval().trunk
    images = torch.rand(1, 3, 32, 32)
    shifted = torch.roll(images, (1, 1), dims=(2, 3))
    with torch.no_grad():
        one, two = trunk(images), trunk(shifted)
    torch.testing.assert_close(two[..., 4:28, 4:28], one[..., 3:27, 3:27])


def test_its_description_builds_it_again() -> None:
    torch.manual_seed(0)
    encoder = _encoder().eval()
    again = Encoder(EncoderConfig.model_validate(encoder.config.model_dump())).eval()
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again(images), encoder(images))


@pytest.mark.parametrize("backbone", ["tiny", "vit_tiny_patch16_224", "convnext_atto"])
def test_networks_that_begin_otherwise_are_refused(backbone: str) -> None:
    with pytest.raises(SettingError, match=f"stem=small is for ResNets.*{backbone}"):
        _encoder(backbone=backbone)


def test_pretrained_weights_and_clips_are_refused() -> None:
    for other in ({"pretrained": True}, {"clip_frames": 4}):
        with pytest.raises(ValidationError, match="first convolution of its own"):
            EncoderConfig.model_validate({**SMALL, **other})
