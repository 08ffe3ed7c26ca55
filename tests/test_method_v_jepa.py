"""Does V-JEPA predict a slow encoder's features of hidden blocks, and nothing else?"""

import pytest
import torch
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.sines import grid_positions
from marey.models.method import Progress
from marey.models.temporal.v_jepa import VJEPA, VJEPAConfig
from tests.learning import train
from tests.test_method_masked_pixels import wallpaper
from tests.test_method_videomae import FRAMES, clips


def _method(**settings: object) -> VJEPA:
    torch.manual_seed(0)
    architecture = EncoderConfig(
        backbone="tiny_video_vit", stages=2, image_size=32, clip_frames=FRAMES, clip_step_s=0.2
    )
    config = VJEPAConfig.model_validate(
        {
            "sampling": ClipsSampling(num_frames=FRAMES, spacing_s=0.2),
            "predictor_width": 32,
            "predictor_depth": 1,
            "predictor_heads": 4,
            "momentum": 0.9,
            "augment": AugmentConfig(),
            **settings,
        }
    )
    return VJEPA(Encoder(architecture), config)


def test_masks_go_through_all_of_time_and_list_what_is_visible() -> None:
    batch = _method().augment(clips(torch.Generator().manual_seed(0)))
    for name, share in (("short", 0.66), ("long", 0.85)):
        mask, keep, present = (
            batch[f"{part}_{name}"][:, 0] for part in ("mask", "keep", "present")
        )
        tubes = mask.view(16, 2, 64)
        assert torch.equal(tubes[:, 0], tubes[:, 1])
        assert mask.float().mean().item() == pytest.approx(share, abs=0.08)
        for n in range(16):
            assert keep[n][present[n]].tolist() == (~mask[n]).nonzero()[:, 0].tolist()


def test_the_loss_is_that_of_a_slow_formulation_clip_by_clip() -> None:
    """Each clip alone, without fillers, has the terms that it has in a batch."""
    method = _method().eval()
    batch = method.augment(clips(torch.Generator().manual_seed(0), 4))
    with torch.no_grad():
        for weight in method.exported.parameters():
            weight.add_(0.1 * torch.randn_like(weight))  # the target is another network
        loss = method(batch)["loss"].item()
        shares = []
        for name in ("short", "long"):
            terms = []
            for n in range(4):
                clip, mask = batch["clips"][n], batch[f"mask_{name}"][n, 0]
                keep = (~mask).nonzero()[:, 0][None]
                tokens = method.encoder.trunk.visible(clip, keep)
                answer = method.predictor(tokens, keep, grid_positions(2, 8, 8))[0]
                wanted = method.exported.features(clip)[0].flatten(1).T
                wanted = functional.layer_norm(wanted, (128,))
                terms += [(answer[i] - wanted[i]).abs().mean() for i in mask.nonzero()[:, 0]]
            shares.append(torch.stack(terms).double().mean())
    assert loss == pytest.approx(torch.stack(shares).mean().item(), abs=1e-5)


def test_the_online_encoder_sees_no_hidden_cube() -> None:
    """Gradient of the loss with respect to hidden pixels is exactly zero."""
    method = _method().eval()
    batch = method.augment(clips(torch.Generator().manual_seed(0), 4))
    both = batch["mask_short"] & batch["mask_long"]
    pixels = batch["clips"].clone().requires_grad_()
    method({**batch, "clips": pixels})["loss"].backward()
    fine = both.view(4, 1, 1, 2, 8, 8)
    for axis, times in ((3, 2), (4, 4), (5, 4)):
        fine = fine.repeat_interleave(times, axis)
    fine = fine.expand_as(pixels)
    assert (pixels.grad[fine] == 0).all()
    assert (pixels.grad[~fine] != 0).any()


def test_the_target_has_no_gradient_and_follows_the_encoder() -> None:
    method = _method()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=100.0)
    method(method.augment(clips(torch.Generator().manual_seed(0))))["loss"].backward()
    assert all(p.grad is None for p in method.target.parameters())
    before = method.exported.trunk.embed.weight.clone()
    optimizer.step()
    trained = method.encoder.trunk.embed.weight.detach()
    assert not torch.equal(before, trained)
    method.after_step(Progress(0, 10, 0))
    torch.testing.assert_close(method.exported.trunk.embed.weight, 0.9 * before + 0.1 * trained)
    method.after_step(Progress(10, 10, 0))  # at the end of a run it stands still
    torch.testing.assert_close(method.exported.trunk.embed.weight, 0.9 * before + 0.1 * trained)


def test_targets_are_layer_normalised() -> None:
    method = _method()
    target = method._targets(method.augment(clips(torch.Generator().manual_seed(0)))["clips"][:, 0])
    assert target.shape == (16, 128, 128)
    torch.testing.assert_close(target.mean(2), torch.zeros(16, 128), atol=1e-5, rtol=0)
    assert not target.requires_grad


def test_it_learns_to_predict_features_of_what_is_hidden() -> None:
    method = _method(momentum=0.98, predictor_width=64)
    metrics = train(method, lambda g: wallpaper(g, 6, FRAMES), steps=60)
    assert method.chance == {"relative_error": 1.0}
    assert metrics["relative_error"] < 0.6
    assert metrics["target_std"] > 0.1  # and has not made all features one
