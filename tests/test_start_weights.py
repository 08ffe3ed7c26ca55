"""Starting from weights that exist: layouts, refusals, equality with Hugging Face's VideoMAE."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError
from marey.configs.load import override, read_preset, run_config
from marey.configs.schema import RunConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.sines import patch_sines
from marey.models.encoders.start_from import Started, start_from
from marey.models.method import Progress, find_method
from marey.models.temporal.videomae import VideoMAE, VideoMAEConfig
from marey.pipeline.training.start import read_weights, started_method

FRAMES, SIDE = 4, 64


def _config(name: str, *words: str) -> RunConfig:
    tree = override(read_preset(name), list(words))
    return run_config(tree, find_method(tree["name"]).Config)


class Alone(nn.Module):
    encoder: Encoder

    def __init__(self, **settings) -> None:
        super().__init__()
        self.encoder = Encoder(EncoderConfig(**settings))


def _started(content: dict, **settings) -> tuple[Alone, Started]:
    holder = Alone(**settings)
    return holder, start_from(holder, content, "a file")


def test_a_file_of_timm_is_taken_whole_and_its_classifier_left() -> None:
    import timm

    theirs: Any = timm.create_model("resnet18", num_classes=10).eval()
    holder, started = _started(theirs.state_dict(), backbone="resnet18", image_size=32)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        mine = holder.encoder.eval().features(images)
        torch.testing.assert_close(mine, theirs.forward_features(images), atol=1e-5, rtol=1e-4)
    assert not started.new
    assert not started.resized
    assert len(started.unused) == 2  # fc.weight, fc.bias


def test_a_wrapped_checkpoint_is_unwrapped() -> None:
    import timm

    state = timm.create_model("resnet18", num_classes=0).state_dict()
    wrapped = {f"module.encoder_q.{name}": t for name, t in state.items()}
    wrapped |= {f"module.queue_{n}": torch.zeros(2) for n in range(3)}
    holder, started = _started({"epoch": 3, "state_dict": wrapped}, backbone="resnet18")
    own = holder.encoder.state_dict()
    assert torch.equal(own["trunk.model.conv1.weight"], state["conv1.weight"])
    assert len(started.matched) == len(state)


def test_position_embeddings_of_another_grid_are_resized() -> None:
    import timm

    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64)
    holder, started = _started(theirs.state_dict(), backbone="vit_tiny_patch16_224", image_size=224)
    assert started.resized == ["encoder.trunk.model.pos_embed"]
    assert torch.isfinite(holder.encoder.state_dict()["trunk.model.pos_embed"]).all()


def test_torchvision_s_networks_of_clips_are_known() -> None:
    from torchvision.models.video import r3d_18

    theirs = r3d_18(num_classes=3)
    holder, started = _started(theirs.state_dict(), backbone="r3d_18", clip_frames=4)
    assert torch.equal(
        holder.encoder.state_dict()["trunk.4.1.conv2.0.weight"],
        theirs.state_dict()["layer4.1.conv2.0.weight"],
    )
    assert started.unused == ["fc.weight", "fc.bias"] or not started.new


def test_a_file_of_another_backbone_is_refused() -> None:
    import timm

    state = timm.create_model("resnet34", num_classes=0).state_dict()
    with pytest.raises(InputError, match=r"does not fit encoder.backbone.*tensors of the trunk"):
        _started(state, backbone="resnet50")
    with pytest.raises(InputError, match=r"nothing for encoder\.trunk"):
        _started({"a": torch.zeros(2)}, backbone="tiny")


def test_a_kernel_of_images_is_spread_over_the_frames_of_a_patch() -> None:
    settings = {"backbone": "video_vit_small", "stages": 1, "clip_frames": 2, "image_size": 32}
    donor: Any = Alone(**settings).encoder.trunk
    state = {
        "patch_embed.proj.weight": torch.randn(384, 3, 16, 16),
        "patch_embed.proj.bias": torch.randn(384),
        "norm.weight": torch.ones(384), "norm.bias": torch.zeros(384),
    }  # fmt: skip
    block = donor.blocks.blocks[0]
    names = {"norm": "norm1", "inwards": "attn.qkv", "outwards": "attn.proj", "mlp.0": "norm2",
             "mlp.1": "mlp.fc1", "mlp.3": "mlp.fc2"}  # fmt: skip
    for ours, theirs in names.items():
        for kind, tensor in block.get_submodule(ours).state_dict().items():
            state[f"blocks.0.{theirs}.{kind}"] = tensor
    holder, started = _started(state, **settings)
    assert started.resized == ["encoder.trunk.embed.weight"]
    trunk: Any = holder.encoder.trunk
    still = torch.randn(1, 3, 1, 32, 32).expand(-1, -1, 2, -1, -1)
    expected = nn.functional.conv2d(
        still[:, :, 0], state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16
    )
    cut = trunk.embed(trunk.cut(still)).transpose(1, 2).unflatten(2, (2, 2))
    torch.testing.assert_close(cut, expected, atol=1e-4, rtol=1e-4)


def test_another_run_s_weights_start_the_encoder_and_its_momentum_copy(tmp_path: Path) -> None:
    words = ("encoder.backbone=tiny", "encoder.image_size=32")
    donor = find_method("byol")(Encoder(_config("byol", *words).encoder), _config("byol").method)
    file = tmp_path / "donor.safetensors"
    tensors = {name: t.contiguous() for name, t in donor.encoder.state_dict().items()}
    safetensors.torch.save_file(tensors, file)
    method, started = started_method(_config("byol", *words, f"encoder.weights={file}"))
    ours, theirs = method.encoder.state_dict(), donor.encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    copied = [part for part in method.modules() if isinstance(part, Encoder)]
    assert len(copied) == 2
    assert all(torch.equal(copied[1].state_dict()[name], theirs[name]) for name in theirs)
    assert any("new" in line for line in started.lines())  # the heads


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(InputError, match="holds more than tensors"):
        read_weights(str(file))
    with pytest.raises(InputError, match="no such file"):
        read_weights(str(tmp_path / "none.pt"))
    (tmp_path / "x.safetensors").write_bytes(b"not one")
    with pytest.raises(InputError, match="damaged"):
        read_weights(str(tmp_path / "x.safetensors"))


@pytest.fixture
def both():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.VideoMAEConfig(
        image_size=SIDE, patch_size=16, num_frames=FRAMES, tubelet_size=2, hidden_size=384,
        num_hidden_layers=2, num_attention_heads=6, intermediate_size=1536,
        decoder_num_hidden_layers=2, decoder_hidden_size=48, decoder_num_attention_heads=2,
        decoder_intermediate_size=192, norm_pix_loss=True, use_mean_pooling=False,
        layer_norm_eps=1e-6, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.VideoMAEForPreTraining(config)
    with torch.no_grad():  # weights of 0 and 1 would hide a wrong place
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    encoder = Encoder(
        EncoderConfig(
            backbone="video_vit_small", stages=2, positions="sequence", image_size=SIDE,
            clip_frames=FRAMES, clip_step_s=0.1,
        )
    )  # fmt: skip
    ours = VideoMAE(
        encoder,
        VideoMAEConfig.model_validate(
            {
                "sampling": {"kind": "clips", "num_frames": FRAMES, "spacing_s": 0.1},
                "decoder_width": 48, "decoder_depth": 2, "decoder_heads": 2,
                "norm_channels": True, "mask_ratio": 0.5,
            }
        ),
    )  # fmt: skip
    started = start_from(ours, theirs.state_dict(), "VideoMAE")
    return theirs, ours, started


def test_videomae_of_hugging_face_has_the_same_loss_and_gradient(both) -> None:
    theirs, ours, started = both
    assert not started.new
    assert not started.resized
    assert not started.unused
    torch.manual_seed(1)
    clips = torch.randn(2, 3, FRAMES, SIDE, SIDE)
    keep = torch.randperm(16)[:8].sort().values
    keep = torch.cat([keep, keep + 16]).expand(2, -1)
    mask = torch.ones(2, 32, dtype=torch.bool).scatter(1, keep, False)
    answer = theirs(clips.transpose(1, 2), bool_masked_pos=mask)
    batch = {"clips": clips[:, None], "mask": mask[:, None], "keep": keep[:, None]}
    values = ours(batch)
    # the target there is of pixels in [0, 1], whose variance has the same 1e-6 beside it
    torch.testing.assert_close(values["loss"], answer.loss, atol=1e-4, rtol=1e-4)
    trunk = ours.encoder.trunk
    places = trunk.places(clips.shape[2:], clips.device)
    predicted = ours.decoder(trunk.visible(clips, keep), keep, places)
    hidden = predicted[mask].view(2, -1, predicted.shape[2])
    torch.testing.assert_close(hidden, answer.logits, atol=1e-5, rtol=1e-5)
    # the gradient of the very same function of the predictions
    goal = torch.randn_like(answer.logits)
    (answer.logits - goal).square().mean().backward()
    (hidden - goal).square().mean().backward()
    block = theirs.videomae.encoder.layer[0]
    own = trunk.blocks.blocks[0]
    torch.testing.assert_close(
        own.inwards.weight.grad[:384], block.attention.attention.query.weight.grad,
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip
    kernel = theirs.videomae.embeddings.patch_embeddings.projection.weight.grad
    torch.testing.assert_close(
        trunk.embed.weight.grad, kernel.permute(0, 2, 3, 4, 1).flatten(1), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        ours.decoder.unseen.grad, theirs.mask_token.grad.flatten(), atol=1e-5, rtol=1e-4
    )


def test_sines_of_numbers_alternate() -> None:
    waves = patch_sines("sequence", torch.arange(3.0)[:, None], 8)
    torch.testing.assert_close(waves[1, 0], torch.tensor(1.0).sin())
    torch.testing.assert_close(waves[1, 1], torch.tensor(1.0).cos())


def test_a_run_continued_from_a_checkpoint_begins_at_its_loss(tmp_path: Path) -> None:
    from tests.every_method import full_batch

    words = ("encoder.image_size=32", "data.decode_size=40", "method.sampling.num_frames=4",
             "encoder.clip_frames=4")  # fmt: skip
    config = _config("v_jepa2", *words)
    donor = find_method("v_jepa")(Encoder(config.encoder), config.method)
    torch.manual_seed(0)
    batch = donor.augment(full_batch(config, samples=2))
    optimizer = torch.optim.AdamW(donor.parameters(), lr=1e-3)
    for step in range(3):
        donor(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        donor.after_step(Progress(step, 3, 0))
    file = tmp_path / "step-00000003.pt"
    torch.save({"method": donor.state_dict(), "optimizer": optimizer.state_dict()}, file)
    method, started = started_method(_config("v_jepa2", *words, f"encoder.weights={file}"))
    assert (started.new, started.resized, started.unused) == ([], [], [])
    with torch.no_grad():
        wanted = donor(batch)["loss"]
        assert torch.equal(method(batch)["loss"], wanted)
        fresh = find_method("v_jepa")(Encoder(config.encoder), config.method)
        assert not torch.allclose(fresh(batch)["loss"], wanted, atol=1e-3)


def test_of_more_vectors_for_hidden_patches_the_first_are_taken() -> None:
    config = _config("v_jepa2")
    method = find_method("v_jepa")(Encoder(config.encoder), config.method)
    state = method.state_dict()
    many = torch.randn(10, state["predictor.unseen"].shape[1])
    started = start_from(method, {**state, "predictor.unseen": many}, "a file")
    assert started.resized == ["predictor.unseen"]
    assert torch.equal(method.state_dict()["predictor.unseen"], many[:2])
