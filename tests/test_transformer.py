"""Do small transformers see the patches they are shown, in their places, and no others?"""

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.encoders.backbones import build_trunk
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import (
    hide,
    normalize_patches,
    patchify,
    spread,
    tubelets,
    unpatchify,
)
from marey.models.encoders.sines import grid_positions, sincos
from marey.models.encoders.transformer import (
    PatchDecoder,
    take,
    tiny_video_vit,
    tiny_vit,
)
from marey.models.encoders.trunk import PatchTrunk


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_patchify_cuts_row_by_row_and_back() -> None:
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    corner = images[1, :, 4:8, 8:12].permute(1, 2, 0)
    torch.testing.assert_close(patches[1, 5].view(4, 4, 3), corner)
    assert torch.equal(unpatchify(patches, 4, 8), images)


def test_tubelets_of_one_frame_are_patches() -> None:
    clips = torch.randn(2, 3, 4, 8, 8)
    frames = [patchify(clips[:, :, t], 4) for t in range(4)]
    assert torch.equal(tubelets(clips, 1, 4), torch.cat(frames, dim=1))
    pairs = tubelets(clips, 2, 4)
    assert torch.equal(pairs[:, :4, :48], frames[0])
    assert torch.equal(pairs[:, 4:, 48:], frames[3])


def test_normalized_patches_have_no_mean_and_unit_variance_and_flat_ones_are_zero() -> None:
    patches = torch.randn(2, 5, 768) * 3 + 7
    patches[0, 0] = 0.25
    scaled = normalize_patches(patches)
    assert scaled[0, 0].abs().max() == 0
    torch.testing.assert_close(scaled.mean(2), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled[1].var(1), torch.ones(5), atol=1e-4, rtol=0)
    nearly = normalize_patches(torch.full((1, 768), 0.5) + 1e-9 * torch.randn(1, 768))
    assert nearly.abs().max() < 1e-2


def test_hidden_cells_show_the_tile_and_others_themselves() -> None:
    images, tile = torch.randn(2, 3, 8, 8), torch.randn(3, 4, 4)
    mask = torch.tensor([[[1, 0], [0, 0]], [[0, 0], [0, 1]]], dtype=torch.bool)
    covered = hide(images, mask, tile)
    assert torch.equal(covered[1, :, 4:, 4:], tile)
    untouched = ~spread(mask, 8, 8)[:, None].expand_as(images)
    assert torch.equal(covered[untouched], images[untouched])


def test_the_same_patches_as_lightly() -> None:
    utils = pytest.importorskip("lightly.models.utils")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(patchify(images, 8), utils.patchify(images, 8))
    assert torch.equal(unpatchify(patchify(images, 8), 8, 32), images)
    torch.testing.assert_close(
        normalize_patches(patchify(images, 8)), utils.normalize_mean_var(utils.patchify(images, 8))
    )


def test_the_same_patch_embedding_as_timm() -> None:
    layers = pytest.importorskip("timm.layers")
    trunk = tiny_vit(32)
    images = torch.randn(2, 3, 32, 32)
    embed = layers.PatchEmbed(32, 4, 3, 128)
    with torch.no_grad():
        embed.proj.weight.copy_(trunk.embed.weight.view(128, 4, 4, 3).permute(0, 3, 1, 2))
        embed.proj.bias.copy_(trunk.embed.bias)
    torch.testing.assert_close(trunk.embed(trunk.cut(images)), embed(images), atol=1e-5, rtol=1e-4)


def test_positions_differ_and_those_of_a_smaller_crop_span_the_same() -> None:
    waves = sincos(grid_positions(8, 8), 128)
    assert waves.shape == (64, 128)
    assert torch.cdist(waves, waves).fill_diagonal_(9).min() > 0.5
    small, large = grid_positions(4, 4), grid_positions(8, 8)
    torch.testing.assert_close(small.mean(0), large.mean(0))
    clip = grid_positions(4, 8, 8)
    assert clip[64].tolist() == [1, 0, 0]
    assert sincos(clip, 128).shape == (256, 128)


def test_sines_follow_their_formula() -> None:
    waves = sincos(torch.tensor([[3.0]]), 8)[0].double()
    for n in range(4):
        angle = torch.tensor(3.0 / 10_000 ** (n / 4)).double()
        torch.testing.assert_close(waves[n], angle.sin(), atol=1e-6, rtol=0)
        torch.testing.assert_close(waves[4 + n], angle.cos(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [16, 32, 64, 96])
def test_tiny_vit_has_an_eight_by_eight_map_at_any_size(size: int) -> None:
    encoder = Encoder(EncoderConfig(backbone="tiny_vit", image_size=size))
    features = encoder.features(torch.randn(2, 3, size, size))
    assert features.shape == (2, 128, 8, 8)
    encoder(torch.randn(2, 3, size, size)).square().mean().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_tiny_vit_lays_its_patches_out_in_rows_and_takes_smaller_crops() -> None:
    trunk = tiny_vit(32, stages=1)
    image = torch.zeros(1, 3, 32, 32)
    marked = image.clone()
    marked[..., 4:8, 12:16] = 3  # patch in row 1, column 3
    change = (trunk(marked) - trunk(image)).abs().sum(1)[0]
    assert change.argmax().item() == 1 * 8 + 3
    assert trunk(torch.randn(1, 3, 16, 16)).shape == (1, 128, 4, 4)


def test_tiny_video_vit_keeps_time_before_space() -> None:
    trunk = tiny_video_vit(32, 8, stages=1)
    clip = torch.zeros(1, 3, 8, 32, 32)
    marked = clip.clone()
    marked[:, :, 4:6, 4:8, 12:16] = 3
    change = (trunk(marked) - trunk(clip)).abs().sum(1)[0]
    assert change.shape == (4, 8, 8)
    assert change.argmax().item() == 2 * 64 + 1 * 8 + 3


@pytest.mark.parametrize("name", ["tiny_vit", "vit_tiny_patch16_224"])
def test_visible_patches_see_nothing_that_was_left_out(name: str) -> None:
    trunk, _ = build_trunk(name, stages=2, image_size=64)
    assert isinstance(trunk, PatchTrunk)
    trunk.eval()
    side = 64 // trunk.levels[-1].reduction
    images = torch.randn(2, 3, 64, 64)
    everything = torch.arange(side**2).expand(2, -1)
    whole = trunk(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(trunk.visible(images, everything), whole, atol=1e-4, rtol=1e-4)
    keep = torch.tensor([[1, 5, 6], [0, 2, 15]])
    hidden = torch.ones(2, side**2, dtype=torch.bool).scatter(1, keep, False)
    patch = trunk.levels[-1].reduction
    covered = hide(images, hidden.view(2, side, side), torch.full((3, patch, patch), 9.0))
    seen = trunk.visible(images, keep)
    torch.testing.assert_close(trunk.visible(covered, keep), seen)
    assert not torch.allclose(seen, take(whole, keep), atol=1e-2)


def test_fillers_change_nothing() -> None:
    trunk = tiny_vit(32)
    decoder = PatchDecoder(128, 32, 1, 4, values=7)
    images, positions = torch.randn(1, 3, 32, 32), grid_positions(8, 8)
    keep = torch.tensor([[3, 9, 40]])
    filled = torch.tensor([[3, 9, 40, 41, 63]])
    present = torch.tensor([[True, True, True, False, False]])
    tokens = trunk.visible(images, keep)
    more = trunk.visible(images, filled, present)
    torch.testing.assert_close(more[:, :3], tokens, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        decoder(more, filled, positions, present),
        decoder(tokens, keep, positions),
        atol=1e-5,
        rtol=1e-4,
    )


def test_the_decoder_puts_tokens_where_they_belong() -> None:
    """Which order the kept patches are listed in changes nothing."""
    decoder = PatchDecoder(16, 32, 2, 4, values=5)
    tokens, keep = torch.randn(2, 3, 16), torch.tensor([[1, 4, 7], [0, 2, 3]])
    positions = grid_positions(3, 3)
    order = [2, 0, 1]
    torch.testing.assert_close(
        decoder(tokens, keep, positions), decoder(tokens[:, order], keep[:, order], positions)
    )
    assert not torch.allclose(
        decoder(tokens, keep, positions), decoder(tokens[:, order], keep, positions)
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "tiny_vit", "image_size": 36}, ["multiple", "36"]),
        ({"backbone": "tiny_vit", "stages": 5}, ["4 stages", "5"]),
        ({"backbone": "tiny_vit", "pretrained": True}, ["tiny_vit", "pretrained"]),
        ({"backbone": "tiny_video_vit", "clip_frames": 5}, ["multiple", "5"]),
        ({"backbone": "tiny_video_vit"}, ["clip_frames"]),
    ],
)
def test_what_a_transformer_cannot_be_is_refused(settings: dict, words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        Encoder(EncoderConfig(**settings))
    assert all(word in str(caught.value) for word in words)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(SettingError, match="3 attention heads"):
        PatchDecoder(16, 32, 1, 3, values=5)
