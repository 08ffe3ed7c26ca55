"""Are holes drawn and weighed rightly, is nothing of them seen, and is painting learned?"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.context.context_encoder import (
    ContextEncoder,
    ContextEncoderConfig,
    draw_holes,
    region_error,
    shrunk,
)
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.map_decoder import ChannelwiseLinear
from tests.learning import train
from tests.pictures import batch_of, noise, smooth


def _method(**settings: Any) -> ContextEncoder:
    torch.manual_seed(0)
    config = ContextEncoderConfig.model_validate(
        {"augment": AugmentConfig(), "width": 32, "critic_width": 8, **settings}
    )
    return ContextEncoder(Encoder(EncoderConfig(stages=2, image_size=32)), config)


def _batch(count: int = 4) -> Batch:
    return batch_of(smooth(count, 32, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("side", [32, 128])
def test_regions_cover_twenty_to_thirty_per_cent_whatever_is_drawn(side: int) -> None:
    torch.manual_seed(0)
    areas = draw_holes("region", 300, side).float().mean(dim=(1, 2))
    assert areas.min() >= 0.2
    assert areas.max() <= 0.3
    assert areas.std() > 0.02
    assert (draw_holes("blocks", 300, side).float().mean(dim=(1, 2)) <= 0.25).all()
    centre = draw_holes("centre", 2, side)
    assert centre.float().mean().item() == 0.25
    assert centre[0, side // 4, side // 4]
    assert not centre[0, side // 4 - 1, side // 2]


def test_regions_are_smooth_and_differ_from_image_to_image() -> None:
    torch.manual_seed(0)
    regions = draw_holes("region", 100, 64)
    edges = (regions[:, 1:] != regions[:, :-1]).float().mean()
    assert edges < 0.08  # 0.375 for pixels drawn one by one
    assert regions.float().mean(dim=0).std() < 0.1
    assert len(regions.flatten(1).unique(dim=0)) == 100


def test_the_band_is_as_wide_as_the_overlap_and_not_along_the_pictures_edge() -> None:
    region = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    region[:, :, :6, 3:10] = True
    hole = shrunk(region, 2)
    wanted = torch.zeros_like(region)
    wanted[:, :, :4, 5:8] = True
    assert torch.equal(hole, wanted)
    assert torch.equal(shrunk(region, 0), region)


def test_the_error_is_the_weighted_mean_over_hole_and_band() -> None:
    generator = torch.Generator().manual_seed(0)
    painted, images = torch.randn(2, 3, 3, 16, 16, generator=generator).double()
    region = draw_holes("region", 3, 16)[:, None]
    hole = shrunk(region, 1)
    for image in range(3):
        inner = (painted - images)[image][hole[image].expand(3, -1, -1)].square().sum() / 3
        band = region[image] & ~hole[image]
        outer = (painted - images)[image][band.expand(3, -1, -1)].square().sum() / 3
        wanted = (10 * outer + inner) / (10 * band.sum() + hole[image].sum())
        found = region_error(painted, images, region, hole, 10.0)[image]
        torch.testing.assert_close(found, wanted)


def test_what_lies_outside_the_region_gives_no_gradient() -> None:
    painted = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    region = draw_holes("centre", 2, 16)[:, None]
    region_error(painted, images, region, shrunk(region, 1), 10.0).sum().backward()
    assert painted.grad is not None
    assert not painted.grad[~region.expand(-1, 3, -1, -1)].any()
    assert painted.grad[region.expand(-1, 3, -1, -1)].all()
    assert torch.autograd.gradcheck(
        lambda p: region_error(p, images, region, shrunk(region, 1), 10.0), painted
    )


def test_painting_the_mean_colour_costs_the_variance_of_the_hole() -> None:
    images = smooth(3, 32, torch.Generator().manual_seed(0)).permute(0, 3, 1, 2).double() / 255
    region = draw_holes("centre", 3, 32)[:, None]
    inside = images[:, :, 8:24, 8:24]
    mean = inside.mean(dim=(2, 3), keepdim=True)
    error = region_error(mean.expand_as(images), images, region, region)
    torch.testing.assert_close(error, inside.var(dim=(2, 3), correction=0).mean(dim=1))


@pytest.mark.parametrize("overlap", [0, 8])
def test_two_images_that_differ_in_the_hole_only_look_the_same(overlap: int) -> None:
    method = _method(hole="centre", overlap=overlap)
    images = torch.randn(2, 3, 32, 32)
    region = draw_holes("centre", 2, 32)[:, None]
    shown, hole = method.seen(images, region)
    assert hole.sum() == 2 * (16 - 2 * overlap // 4) ** 2
    other, _ = method.seen(torch.where(hole, torch.randn_like(images), images), region)
    assert torch.equal(shown, other)
    assert not shown[hole.expand(-1, 3, -1, -1)].any()  # the mean colour
    assert torch.equal(shown[~hole.expand(-1, 3, -1, -1)], images[~hole.expand(-1, 3, -1, -1)])


def test_the_channelwise_layer_has_the_papers_parameters_and_mixes_no_channels() -> None:
    layer = ChannelwiseLinear(channels=5, side=4)
    assert layer.weight.numel() == 5 * 4**4
    assert layer.bias.numel() == 5 * 4**2
    torch.nn.init.dirac_(layer.mix.weight)
    torch.nn.init.zeros_(layer.mix.bias)  # pyright: ignore[reportArgumentType]
    features = torch.randn(2, 5, 4, 4)
    slow = [layer.weight[c] @ features[:, c].flatten(1).T for c in range(5)]
    wanted = torch.stack([w.T for w in slow], dim=1).relu().unflatten(2, (4, 4))
    torch.testing.assert_close(layer(features), wanted)


def test_an_undecided_discriminator_costs_log_two_for_each_player() -> None:
    method = _method(adversarial=0.25)
    torch.nn.init.zeros_(method.critic[-1].weight)
    torch.nn.init.zeros_(method.critic[-1].bias)
    metrics = method(method.augment(_batch()))
    wanted = 0.75 * metrics["reconstruction"] + 1.25 * math.log(2)
    torch.testing.assert_close(metrics["loss"].detach(), wanted)
    assert metrics["told"].item() == 0.5


def _gradients(method: ContextEncoder, loss: Tensor) -> dict[str, Tensor]:
    method.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def test_one_backward_pass_gives_each_player_its_own_gradient() -> None:
    method = _method(adversarial=0.25, hole="centre").eval()
    batch = method.augment(_batch())
    together = _gradients(method, method(batch)["loss"])
    assert len(together) == len(list(method.parameters()))
    images, region = batch["images"][:, 0], batch["region"][:, 0]
    shown, hole = method.seen(images, region)

    def made() -> Tensor:
        return method.paint(shown) * region

    of_real, of_made = method.critic(images * region), method.critic(made().detach())
    bce = functional.binary_cross_entropy_with_logits
    ones = torch.ones_like(of_real)
    alone = _gradients(method, (bce(of_real, ones) + bce(of_made, 0 * ones)) / 2)
    assert set(alone) == {name for name in together if name.startswith("critic")}
    error = region_error(method.paint(shown), images, region, hole, 10.0).mean()
    fooling = bce(method.critic(made()), ones)
    painter = _gradients(method, 0.75 * error + 0.25 * fooling)
    for name, gradient in together.items():
        wanted = alone[name] if name.startswith("critic") else painter[name]
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("hole", ["centre", "blocks", "region"])
def test_it_learns_to_paint(hole: str) -> None:
    """Pictures of one colour each, their brightness rising to one side."""
    method = _method(hole=hole)

    def draw(generator: torch.Generator) -> Batch:
        color = torch.rand(24, 1, 1, 3, generator=generator)
        ramp = torch.linspace(0.3, 1, 32)[None, None, :, None]
        return batch_of((255 * color * ramp).expand(-1, 32, -1, -1).byte())

    assert train(method, draw, steps=20)["explained"] > 0.6


def test_a_report_shows_the_hole_and_what_was_painted_into_it() -> None:
    method = _method(hole="centre").eval()
    batch = _batch(3)
    shown = method.pictures(batch)
    assert {picture.shape for picture in shown.values()} == {(3, 32, 32, 3)}
    frames = batch["frames"][:, 0].int()
    for picture in shown.values():
        outside = (picture.int() - frames).abs()
        outside[:, 8:24, 8:24] = 0
        assert outside.max() <= 1
    hole = shown["seen"][:, 8:24, 8:24].reshape(-1, 3)
    assert hole.unique(dim=0).tolist() == [[124, 116, 104]]  # the mean colour
    assert shown["painted"][:, 8:24, 8:24].float().std() > 0


def test_noise_cannot_be_painted() -> None:
    metrics = train(_method(), lambda g: batch_of(noise(16, 32, g)), steps=15)
    assert metrics["explained"] < 0.1  # the mean of noise is not quite the mean colour


def test_an_encoder_with_a_head_is_refused() -> None:
    encoder = Encoder(EncoderConfig(stages=2, image_size=32, pool="spatial_softmax"))
    with pytest.raises(SettingError, match=r"encoder\.pool must be average"):
        ContextEncoder(encoder, ContextEncoderConfig())
