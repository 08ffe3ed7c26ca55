"""Do trunks, pooling and the encoder keep their shapes, sizes and promises?"""

import re

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.encoders.backbones import build_trunk
from marey.models.encoders.dense_heads import PlaceHead
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import SpatialSoftmax, mlp


@pytest.mark.parametrize(
    ("name", "stages", "shape"),
    [
        ("tiny", None, (128, 8, 8)),
        ("tiny", 2, (64, 16, 16)),
        ("resnet18", None, (512, 2, 2)),
        ("resnet18", 4, (256, 4, 4)),
        ("resnet18", 3, (128, 8, 8)),
        ("vit_tiny_patch16_224", 2, (192, 4, 4)),
        ("convnext_atto", 3, (160, 4, 4)),
        ("swin_tiny_patch4_window7_224", 2, (192, 8, 8)),
    ],
)
def test_a_trunk_gives_the_map_it_announces(name: str, stages: int | None, shape: tuple) -> None:
    trunk, channels = build_trunk(name, stages=stages)
    features = trunk(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, *shape)
    assert channels == shape[0]
    features.square().mean().backward()
    unused = [key for key, value in trunk.named_parameters() if value.grad is None]
    assert unused == []  # a parameter without gradient stops data parallel training


def test_a_plain_transformer_lays_its_tokens_out_in_rows() -> None:
    torch.manual_seed(0)
    trunk, _ = build_trunk("vit_tiny_patch16_224", stages=1)
    trunk.eval()
    image = torch.zeros(1, 3, 64, 64)
    marked = image.clone()
    marked[..., 16:32, 48:64] = 3  # patch in row 1, column 3
    change = (trunk(marked) - trunk(image)).abs().sum(1)[0]
    assert change.argmax().item() == 1 * 4 + 3


@pytest.mark.parametrize(
    ("name", "stages", "reductions"),
    [
        ("tiny", None, [2, 4, 8]),
        ("tiny", 1, [2, 4]),
        ("resnet18", 4, [2, 4, 8, 16]),
        ("swin_tiny_patch4_window7_224", 3, [4, 8, 16]),
        ("vit_tiny_patch16_224", 1, [16]),
    ],
)
def test_a_pyramid_has_the_levels_it_announces(
    name: str, stages: int | None, reductions: list[int]
) -> None:
    trunk, _ = build_trunk(name, stages=stages)
    trunk.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = trunk.pyramid(images)
        assert torch.equal(trunk(images), maps[-1])
    assert [level.reduction for level in trunk.levels] == reductions
    assert [tuple(m.shape[1:]) for m in maps] == [
        (level.channels, 64 // level.reduction, 64 // level.reduction) for level in trunk.levels
    ]


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_a_trunk_can_take_two_stacked_frames(name: str) -> None:
    trunk, channels = build_trunk(name, in_channels=6)
    assert trunk(torch.randn(2, 6, 64, 64)).shape[1] == channels


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("xcit_nano_12_p16_224", 4),  # the patch's side is a number, not a pair
        ("convit_tiny", 4),  # families that have to be built for the size of the images
        ("pit_ti_224", 2),
        ("vit_tiny_r_s16_p8_224", 2),  # patches of a map that has a reduction already
    ],
)
def test_families_of_fixed_size_are_built_for_the_images(name: str, side: int) -> None:
    trunk, channels = build_trunk(name, image_size=64)
    trunk.eval()
    with torch.no_grad():
        assert trunk(torch.randn(1, 3, 64, 64)).shape == (1, channels, side, side)
    assert trunk.levels[-1] == (channels, 64 // side)


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224"])
def test_a_size_that_does_not_fit_is_refused_with_sizes_that_do(name: str) -> None:
    with pytest.raises(SettingError, match=r"encoder\.image_size=") as caught:
        build_trunk(name, image_size=64)
    sizes = re.search(r"image_size=([\d or]+) fits", str(caught.value))
    assert sizes is not None
    for size in map(int, re.findall(r"\d+", sizes[1])):
        trunk, channels = build_trunk(name, image_size=size)
        assert trunk.eval()(torch.zeros(1, 3, size, size)).shape[1] == channels


@pytest.mark.parametrize(("backbone", "size"), [("resnet18", 64), ("resnet18", 96), ("tiny", 56)])
def test_a_head_has_the_grid_of_the_map_that_there_is(backbone: str, size: int) -> None:
    encoder = Encoder(EncoderConfig(backbone=backbone, image_size=size)).eval()
    features = encoder.features(torch.zeros(1, 3, size, size))
    head = PlaceHead(encoder, features.shape[-1], 5)
    assert head(features).shape == (1, features.shape[-1] ** 2, 5)


@pytest.mark.parametrize(
    ("backbone", "size", "fits"), [("resnet18", 100, 96), ("resnet18", 48, 64), ("tiny", 60, 56)]
)
def test_a_head_takes_no_map_whose_places_drift_from_the_cells_they_answer_for(
    backbone: str, size: int, fits: int
) -> None:
    """A last place that is cut off: 4 places of 32 px over 100 px."""
    with pytest.raises(SettingError, match=rf"multiple of.*\b{fits}\b"):
        PlaceHead(Encoder(EncoderConfig(backbone=backbone, image_size=size)), size, 5)
    PlaceHead(Encoder(EncoderConfig(backbone=backbone, image_size=fits)), fits, 5)


def test_the_tiny_trunk_is_small() -> None:
    trunk, _ = build_trunk("tiny")
    assert sum(p.numel() for p in trunk.parameters()) < 1_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet81"}, ["'resnet81'", "resnet18"]),
        ({"name": "tinyy"}, ["tiny"]),
        ({"name": "resnet18", "stages": 6}, ["5 stages", "6"]),
        ({"name": "tiny", "stages": 5}, ["4 stages", "5"]),
        ({"name": "tiny", "pretrained": True}, ["pretrained"]),
    ],
)
def test_what_does_not_exist_is_refused_by_name(arguments: dict, words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        build_trunk(**arguments)
    assert all(word in str(caught.value) for word in words)


def test_spatial_softmax_finds_where_each_channel_is_active() -> None:
    features = torch.zeros(1, 3, 5, 9)
    features[0, 0, 0, 8] = 1  # top right
    features[0, 1, 2, 4] = 1  # centre
    features[0, 2, 4, 0] = 1  # bottom left
    positions = SpatialSoftmax(temperature=0.01)(features)
    expected = torch.tensor([[1.0, 0.0, -1.0, -1.0, 0.0, 1.0]])
    torch.testing.assert_close(positions, expected, atol=1e-4, rtol=0)


def test_a_flat_map_has_its_mean_position_at_the_centre() -> None:
    positions = SpatialSoftmax()(torch.ones(2, 4, 8, 8))
    torch.testing.assert_close(positions, torch.zeros(2, 8), atol=1e-6, rtol=0)


def test_spatial_softmax_computes_in_full_precision_and_learns_its_temperature() -> None:
    pool = SpatialSoftmax(0.1)
    features = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        positions = pool(features.bfloat16())
    assert positions.dtype == torch.float32
    torch.testing.assert_close(positions, pool(features.bfloat16().float()))
    positions.square().sum().backward()
    assert pool.log_temperature.grad.abs() > 0


def test_an_mlp_has_norms_where_it_was_told() -> None:
    kinds = [type(layer).__name__ for layer in mlp(8, 16, 4, norm=True)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    head = mlp(8, 16, 4, norm=False, norm_out=True)
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Linear", "BatchNorm1d"]
    assert head[0].bias is not None
    assert head[2].bias is None
    assert [type(layer).__name__ for layer in mlp(8, 4, norm=True)] == ["Linear"]


@pytest.mark.parametrize("shape", [(64, 64), (90, 160), (160, 90), (32, 48)])
def test_the_encoder_takes_frames_of_any_shape(shape: tuple[int, int]) -> None:
    config = EncoderConfig(pool="spatial_softmax", embedding_dim=16, hidden=(32,), unit_norm=True)
    encoder = Encoder(config).eval()
    frames = torch.randint(0, 256, (2, *shape, 3), dtype=torch.uint8)
    images = encoder.preprocess(frames)
    assert images.shape == (2, 3, 64, 64)
    embeddings = encoder(images)
    assert embeddings.shape == (2, encoder.out_dim)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_without_an_embedding_the_encoder_gives_its_pooled_vector() -> None:
    assert Encoder(EncoderConfig()).out_dim == 128
    assert Encoder(EncoderConfig(pool="spatial_softmax")).out_dim == 256


def test_embeddings_have_full_precision_length_under_autocast() -> None:
    encoder = Encoder(EncoderConfig(embedding_dim=16, unit_norm=True)).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = encoder(torch.randn(2, 3, 64, 64))
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_a_repeated_border_marks_no_place_of_an_even_picture() -> None:
    """With zeros around it the features of an even picture differ at its border."""
    even = torch.full((1, 3, 64, 64), 0.7)

    def spread(padding: str) -> float:
        torch.manual_seed(0)
        config = EncoderConfig.model_validate({"padding": padding})
        features = Encoder(config).eval().features(even)
        return (features.amax((2, 3)) - features.amin((2, 3))).abs().max().item()

    assert spread("replicate") < 1e-4
    assert spread("zeros") > 0.1
