"""Are colours binned, weighed and decoded as the paper says, and learned from lightness alone?"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.augmentation.color import rgb_to_lab
from marey.models.batch import Batch
from marey.models.context.colorization import (
    Colorization,
    ColorizationConfig,
    best_constant,
    soft_cross_entropy,
)
from marey.models.encoders.encoder import Encoder
from marey.models.method import Progress
from marey.models.objectives.color_bins import annealed_mean, bin_weights, gamut_bins, soft_bins
from tests.learning import train
from tests.pictures import batch_of, noise, smooth

BINS = gamut_bins()


def _method(**settings: Any) -> Colorization:
    torch.manual_seed(0)
    config = ColorizationConfig.model_validate(
        {"augment": AugmentConfig(), "width": 32, "bin_step": 20.0, **settings}
    )
    return Colorization(Encoder(EncoderConfig(stages=2, image_size=32)), config)


def _told_by_lightness(generator: torch.Generator) -> Batch:
    """Bright squares are yellow, dark ones blue, each at a random level."""
    bright = torch.rand(24, 4, 4, generator=generator) < 0.5
    level = 0.85 + 0.15 * torch.rand(24, 4, 4, 1, generator=generator)
    color = torch.where(
        bright[..., None], torch.tensor([230.0, 210.0, 60.0]), torch.tensor([30.0, 40.0, 140.0])
    )
    squares = (color * level).byte()
    return batch_of(squares.repeat_interleave(8, 1).repeat_interleave(8, 2))


def _rgb_of_lab(lab: Tensor) -> Tensor:
    """The inverse, written the other way round: Lab [N, 3] -> sRGB in [0, 1], float64."""
    y = (lab[:, 0] + 16) / 116
    bent = torch.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], dim=1)
    xyz = torch.where(bent > 6 / 29, bent**3, 3 * (6 / 29) ** 2 * (bent - 4 / 29))
    rows = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip
    matrix = torch.tensor(rows, dtype=torch.float64)
    linear = torch.linalg.solve(matrix, (xyz * matrix.sum(dim=1)).T).T.clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_rgb_survives_lab() -> None:
    rgb = torch.rand(500, 3, dtype=torch.float64)
    lab = rgb_to_lab(rgb.T[None, :, None].float())[0, :, 0].T.double()
    assert (_rgb_of_lab(lab) - rgb).abs().max() < 1 / 255


def test_every_colour_lies_between_four_bins() -> None:
    assert len(BINS) == 309
    assert torch.equal(BINS % 10, torch.zeros_like(BINS))
    rgb = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)).round(decimals=2)
    ab = rgb_to_lab(rgb.T[None, :, None])[0, 1:, 0].T
    known = {tuple(row) for row in BINS.tolist()}
    corner = (ab / 10).floor() * 10
    for right, up in ((0, 0), (0, 10), (10, 0), (10, 10)):
        assert all((a + right, b + up) in known for a, b in corner.tolist())


@pytest.mark.parametrize(("neighbours", "share"), [(5, 0.6488), (10, 0.6192)])
def test_a_colour_on_a_centre_is_shared_as_the_paper_shares_it(
    neighbours: int, share: float
) -> None:
    bins, shares = soft_bins(torch.tensor([[10.0, -20.0]]), BINS, neighbours)
    assert BINS[bins[0, 0]].tolist() == [10, -20]
    assert shares[0, 0].item() == pytest.approx(share, abs=1e-4)


def test_soft_targets_equal_a_slow_formulation() -> None:
    colors = 60 * torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).double() - 30
    bins, shares = soft_bins(colors, BINS, 5)
    for row, color in enumerate(colors):
        distance = (BINS.double() - color).square().sum(dim=1)
        order = distance.argsort()[:5]
        weights = torch.exp(-distance[order] / 50)
        assert set(bins[row].tolist()) == set(order.tolist())
        torch.testing.assert_close(shares[row], weights / weights.sum())
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(50).double())


def test_weights_have_mean_one_and_the_limits_of_lambda() -> None:
    counts = torch.tensor([0, 5, 90, 0, 40, 1] * 50 + [3] * 9).double()
    share = counts / counts.sum()
    for mix, sigma in ((0.5, 5.0), (0.5, 0.0), (0.2, 10.0), (0.0, 0.0), (1.0, 5.0)):
        weights = bin_weights(counts, BINS, mix, sigma)
        assert (share * weights).sum().item() == pytest.approx(1, abs=1e-6)
    alike = bin_weights(counts, BINS, mix=1.0, sigma=5.0)
    torch.testing.assert_close(alike, torch.ones(309).double())
    rare = bin_weights(counts, BINS, mix=0.0, sigma=0.0)
    seen = counts > 0
    torch.testing.assert_close(rare[seen], 1 / (seen.sum() * share[seen]))
    assert not rare[~seen].any()
    assert torch.equal(bin_weights(torch.zeros(309), BINS), torch.ones(309).double())


def test_weights_smoothed_equal_a_slow_formulation() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 100, (309,), generator=generator).double()
    share = counts / counts.sum()
    smooth_share = torch.zeros(309).double()
    for source in range(309):
        kernel = torch.exp(-(BINS - BINS[source]).double().square().sum(dim=1) / 50)
        smooth_share += share[source] * kernel / kernel.sum()
    weights = 1 / (0.5 * smooth_share + 0.5 / 309)
    torch.testing.assert_close(bin_weights(counts, BINS), weights / (share * weights).sum())


def test_colours_survive_encoding_and_decoding() -> None:
    rgb = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    ab = rgb_to_lab(rgb.T[None, :, None])[0, 1:, 0].T
    bins, shares = soft_bins(ab, BINS)
    decoded = (shares[..., None] * BINS[bins]).sum(dim=1)
    error = (decoded - ab).square().sum(dim=1).sqrt()
    assert error.max() < 5
    assert error.mean() < 1.5


def test_annealing_goes_from_the_mean_to_the_mode() -> None:
    logits = torch.randn(20, 309, generator=torch.Generator().manual_seed(0)) * 2
    share = logits.double().softmax(dim=1)
    torch.testing.assert_close(annealed_mean(logits, BINS, 1.0).double(), share @ BINS.double(),
                               atol=1e-3, rtol=0)  # fmt: skip
    torch.testing.assert_close(annealed_mean(logits, BINS, 1e-3), BINS[logits.argmax(dim=1)])
    warmed = share ** (1 / 0.38)
    warmed = warmed / warmed.sum(dim=1, keepdim=True)
    torch.testing.assert_close(annealed_mean(logits, BINS).double(), warmed @ BINS.double(),
                               atol=1e-3, rtol=0)  # fmt: skip


def test_the_loss_equals_a_slow_formulation() -> None:
    method = _method().eval()
    method.weights.copy_(torch.rand(len(method.centres)) + 0.5)
    batch = method.augment(batch_of(smooth(3, 32, torch.Generator().manual_seed(0))))
    logits = method.decoder(method.encoder.features(batch["lightness"][:, 0])).double()
    total = 0.0
    for image in range(3):
        for y in range(8):
            for x in range(8):
                distance = (method.centres - batch["colors"][image, 0, :, y, x]).square().sum(dim=1)
                near = distance.argsort()[:5]
                target = torch.exp(-distance[near].double() / 50)
                target = target / target.sum()
                log_share = logits[image, :, y, x].log_softmax(dim=0)[near]
                total -= method.weights[near[0]].item() * (target * log_share).sum().item()
    assert method(batch)["loss"].item() == pytest.approx(total / (3 * 64), abs=1e-4)


def test_equal_logits_give_log_q_times_the_mean_weight() -> None:
    method = _method()
    torch.nn.init.zeros_(method.decoder.last.weight)
    torch.nn.init.zeros_(method.decoder.last.bias)  # pyright: ignore[reportArgumentType]
    batch = method.augment(batch_of(noise(6, 32, torch.Generator().manual_seed(0))))
    first = method(batch)
    assert first["loss"].item() == pytest.approx(math.log(len(method.centres)), abs=1e-5)
    method.after_step(Progress(1, 2, 0))
    second = method(batch)  # the corpus is this batch: weights differ, their mean is 1
    assert method.weights.std() > 0.05
    assert second["weight"].item() == pytest.approx(1, abs=1e-5)
    assert second["loss"].item() == pytest.approx(math.log(len(method.centres)), abs=1e-4)


def test_counting_is_for_training_and_for_after_the_step() -> None:
    method = _method()
    batch = method.augment(batch_of(noise(4, 32, torch.Generator().manual_seed(0))))
    method.eval()(batch)
    assert not method.pending.any()
    method.train()(batch)
    method(batch)
    assert not method.counts.any()
    method.after_step(Progress(1, 2, 0))
    assert method.counts.sum().item() == 2 * 4 * 64


def test_targets_are_the_means_of_patches_and_the_trunk_sees_lightness_only() -> None:
    method = _method()
    frames = noise(2, 32, torch.Generator().manual_seed(0))
    batch = method.augment(batch_of(frames))
    lab = rgb_to_lab(frames.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(batch["colors"][1, 0, :, 2, 5], lab[1, 1:, 8:12, 20:24].mean((1, 2)),
                               atol=1e-3, rtol=0)  # fmt: skip
    shown = batch["lightness"][:, 0] * method.encoder.std + method.encoder.mean
    for channel in range(3):
        torch.testing.assert_close(shown[:, channel], lab[:, 0] / 100, atol=1e-4, rtol=0)


def test_grey_pictures_give_no_gradient() -> None:
    method = _method()
    gray = smooth(4, 32, torch.Generator().manual_seed(0))[..., :1].expand(-1, -1, -1, 3)
    batch = batch_of(gray.contiguous())
    metrics = method(method.augment(batch))
    metrics["loss"].backward()
    assert metrics["loss"].item() == metrics["valid"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())
    method.after_step(Progress(1, 2, 0))
    assert not method.counts.any()


def test_the_gradient_is_right() -> None:
    bins, shares = soft_bins(torch.tensor([[3.0, 4.0], [-31.0, 12.0]]).double(), BINS[100:130])
    logits = torch.randn(2, 30, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, bins, shares), logits)


def test_no_constant_answer_beats_the_best_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    bins, shares = soft_bins(40 * torch.randn(200, 2, generator=generator), BINS)
    weight = torch.rand(200, generator=generator)
    best = best_constant(bins, shares, weight, len(BINS))
    logits = torch.zeros(309, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(200):
        loss = (weight * soft_cross_entropy(logits.expand(200, -1), bins, shares)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert best.item() <= loss.item() + 1e-5
    assert best.item() == pytest.approx(loss.item(), abs=0.02)


def test_it_learns_colours_from_lightness() -> None:
    metrics = train(_method(), _told_by_lightness, steps=25)
    assert metrics["information"] > 0.3  # nats; log 2 is all that there is, times the weight
    assert metrics["top1"] > 0.6


def test_it_learns_nothing_from_noise() -> None:
    metrics = train(_method(), lambda g: batch_of(noise(24, 32, g)), steps=25)
    assert metrics["information"] < 0.05


def test_an_encoder_with_a_head_is_refused() -> None:
    encoder = Encoder(EncoderConfig(stages=2, image_size=32, embedding_dim=8))
    with pytest.raises(SettingError, match="embedding_dim unset"):
        Colorization(encoder, ColorizationConfig())
