"""Which parameters are decayed, at which rate each learns, and schedules with ends of their own."""

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.configs.load import check
from marey.configs.schema import OptimizerConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.momentum import MomentumCopy
from marey.models.encoders.recompute import recompute_blocks
from marey.models.encoders.transformer import DropPath
from marey.pipeline.training.optim import build_optimizer, learning_rate, weight_decay

VIT = {"backbone": "vit_tiny_patch16_224", "stages": 3, "image_size": 32}


class Alone(torch.nn.Module):
    def __init__(self, **settings) -> None:
        super().__init__()
        self.encoder = Encoder(EncoderConfig(**settings))


def _by_name(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize(
    ("decay_on", "embedding", "norm"),
    [("weights", 0.0, 0.0), ("matrices", 0.1, 0.0), ("all", 0.1, 0.1)],
)
def test_what_is_decayed(decay_on, embedding, norm) -> None:
    model = Alone(**VIT)
    config = OptimizerConfig(weight_decay=0.1, decay_on=decay_on)
    groups = _by_name(model, build_optimizer(model, config))
    trunk = "encoder.trunk.model."
    assert groups[f"{trunk}pos_embed"]["weight_decay"] == embedding
    assert groups[f"{trunk}cls_token"]["weight_decay"] == embedding
    assert groups[f"{trunk}blocks.0.norm1.weight"]["weight_decay"] == norm
    assert groups[f"{trunk}blocks.0.attn.qkv.weight"]["weight_decay"] == 0.1


def test_earlier_blocks_learn_more_slowly() -> None:
    model = Alone(**VIT)
    groups = _by_name(model, build_optimizer(model, OptimizerConfig(layer_decay=0.5)))
    trunk = "encoder.trunk.model."
    scale = {name.removeprefix(trunk): group["scale"] for name, group in groups.items()}
    assert scale["blocks.2.mlp.fc1.weight"] == 1.0
    assert scale["blocks.0.mlp.fc1.weight"] == 0.25
    assert scale["norm.weight"] == 1.0
    assert scale["pos_embed"] == scale["patch_embed.proj.weight"] == 0.0625
    with pytest.raises(SettingError, match="layer_decay"):
        build_optimizer(Alone(backbone="tiny"), OptimizerConfig(layer_decay=0.5))


def test_the_optimiser_has_the_betas_and_momentum_that_are_set() -> None:
    model = Alone(backbone="tiny")
    adam = build_optimizer(model, OptimizerConfig(momentum=0.85, beta2=0.95))
    assert adam.defaults["betas"] == (0.85, 0.95)
    plain = build_optimizer(model, OptimizerConfig(name="sgd", nesterov=False))
    assert not plain.defaults["nesterov"]


def test_a_cosine_ends_where_it_is_told() -> None:
    config = OptimizerConfig(lr=1.0, lr_start=0.2, lr_end=0.1, warmup=0.5)
    rates = [learning_rate(config, step, 100) for step in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([0.2, 0.6, 1.0, 0.55, 0.1])


def test_defaults_are_what_they_were() -> None:
    """The schedule of earlier versions: warm-up by steps, then half a cosine to 0."""
    config = OptimizerConfig(lr=1.0, warmup=0.1)
    assert learning_rate(config, 0, 100) == pytest.approx(1 / 11)
    assert learning_rate(config, 55, 100) == pytest.approx(0.5)
    assert weight_decay(config, 50, 100) == config.weight_decay


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"schedule": "step"}, "milestones"),
        ({"milestones": [0.5]}, "schedule=step"),
        ({"schedule": "step", "milestones": [1.5]}, "shares of the run"),
        ({"name": "lars", "decay_on": "all"}, "lars"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, reason) -> None:
    with pytest.raises(SettingError, match=reason):
        check(OptimizerConfig, settings)


def test_a_skipped_branch_is_made_up_for_and_never_skipped_in_evaluation() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    kept = drop(torch.ones(4000, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert kept.mean() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(3, 1)), torch.ones(3, 1))


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "video_vit_small"])
def test_momentum_encoders_skip_nothing(backbone) -> None:
    clips = {"clip_frames": 2, "clip_step_s": 0.1} if backbone.startswith("video") else {}
    config = EncoderConfig(backbone=backbone, stages=2, image_size=32, drop_path=0.5, **clips)
    encoder = Encoder(config).train()
    copied = MomentumCopy(encoder).train()
    inputs = torch.randn(4, 3, *([2] if clips else []), 32, 32)
    assert torch.equal(copied(inputs), copied(inputs))
    assert not torch.equal(encoder(inputs), encoder(inputs))


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "video_vit_small", "stages": 2, "clip_frames": 2, "image_size": 32},
        {"backbone": "vit_tiny_patch16_224", "stages": 2, "image_size": 32},
        {"backbone": "resnet18", "image_size": 32},
    ],
)
def test_recomputed_activations_give_the_same_gradient(settings) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(**settings)).train()
    inputs = torch.randn(2, 3, *([2] if "clip_frames" in settings else []), 32, 32)

    def gradient() -> list[torch.Tensor]:
        encoder.zero_grad(set_to_none=True)
        encoder(inputs).square().mean().backward()
        return [p.grad for p in encoder.parameters() if p.grad is not None]

    before = gradient()
    recompute_blocks(encoder)
    for one, other in zip(before, gradient(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    with pytest.raises(SettingError, match="recompute"):
        recompute_blocks(Encoder(EncoderConfig(backbone="tiny")))


def test_the_class_token_is_timm_s() -> None:
    encoder = Encoder(EncoderConfig(**VIT, pool="class_token")).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = encoder.trunk.model.forward_features(images)[:, 0]  # pyright: ignore
        assert torch.equal(encoder(images), expected)
    with pytest.raises(SettingError, match="class_token"):
        encoder.embed(encoder.features(images))
    with pytest.raises(SettingError, match="class_token"):
        Encoder(EncoderConfig(backbone="tiny", pool="class_token"))


def test_fixed_positions_are_not_trained_and_small_crops_are_taken() -> None:
    encoder = Encoder(EncoderConfig(**VIT, positions="sine", pool="class_token"))
    own = dict(encoder.named_parameters())
    assert not own["trunk.model.pos_embed"].requires_grad
    assert own["trunk.model.pos_embed"][0, 0].abs().sum() == 0  # the class token has no place
    assert encoder(torch.randn(2, 3, 16, 16)).shape == (2, 192)


def test_a_line_falls_from_the_peak_to_the_end() -> None:
    config = OptimizerConfig(lr=1.0, lr_start=0.0, lr_end=0.2, schedule="linear", warmup=0.1)
    rates = [learning_rate(config, step, 100) for step in (0, 5, 10, 55, 100)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2])
