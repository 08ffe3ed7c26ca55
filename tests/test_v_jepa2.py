"""V-JEPA 2: rotations against their definition, and equality with Hugging Face's VJEPA2Model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError, SettingError
from marey.configs.load import read_preset, run_config
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.layouts import as_vjepa2
from marey.models.encoders.sines import rotate, rotations
from marey.models.encoders.start_from import start_from
from marey.models.method import Progress, find_method
from marey.models.temporal.v_jepa import VJEPA, VJEPAConfig
from marey.pipeline.embedding.encoder_files import export_encoder
from marey.pipeline.export.transformers_weights import export_transformers
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import Position
from marey.pipeline.training.checkpoint import save_state

FRAMES, SIDE, WIDTH = 4, 64, 384
LENGTH = (FRAMES // 2) * (SIDE // 16) ** 2


def test_rotations_are_those_of_their_definition() -> None:
    width = 14  # two pairs an axis, and two numbers that are not turned
    places = torch.tensor([[0.0, 0, 0], [2, 3, 5]])
    values = torch.randn(1, 1, 2, width, dtype=torch.float64)
    turned = rotate(values, rotations(places.double(), width))
    assert torch.equal(turned[0, 0, 0], values[0, 0, 0])
    slow = values[0, 0, 1].clone()
    for axis, place in enumerate(places[1].tolist()):
        # numbers of an axis have the frequencies f0, f1, f0, f1; pairs are neighbours
        frequency = [1.0, 10_000 ** (-1 / 2)] * 2
        for number in range(4):
            at = 4 * axis + number
            other = values[0, 0, 1, at + 1 if number % 2 == 0 else at - 1]
            sign = -1 if number % 2 == 0 else 1
            angle = place * frequency[number]
            slow[at] = values[0, 0, 1, at] * math.cos(angle) + sign * other * math.sin(angle)
    torch.testing.assert_close(turned[0, 0, 1], slow, rtol=1e-6, atol=1e-6)


def test_what_is_hidden_does_not_change_what_is_seen() -> None:
    """Tokens of visible patches depend on these and on their places alone."""
    encoder = _encoder()
    trunk: Any = encoder.trunk
    clips = torch.randn(1, 3, FRAMES, SIDE, SIDE)
    keep = torch.tensor([[3, 7, 18, 20]])
    seen = trunk.visible(clips, keep)
    hidden = clips.clone()
    hidden[:, :, :, :16, :16] += 1.0  # patches 0 and 16
    torch.testing.assert_close(trunk.visible(hidden, keep), seen)
    assert not torch.allclose(trunk.visible(clips, keep.flip(1)).flip(1), seen.flip(1))
    moved = trunk.visible(clips.roll(16, dims=-1), torch.tensor([[4, 8, 19, 21]]))
    assert not torch.allclose(moved, seen, atol=1e-3)


def _encoder(size: str = "small") -> Encoder:
    return Encoder(
        EncoderConfig(
            backbone=f"video_vit_{size}", stages=2, positions="rotary", image_size=SIDE,
            clip_frames=FRAMES, clip_step_s=0.25,
        )
    )  # fmt: skip


def _method() -> VJEPA:
    settings = {
        "sampling": {"kind": "clips", "num_frames": FRAMES, "spacing_s": 0.25},
        "predictor_width": 48, "predictor_depth": 2, "predictor_heads": 2, "mask_tokens": 2,
        "momentum": 0.9, "momentum_end": 0.9,
    }  # fmt: skip
    return VJEPA(_encoder(), VJEPAConfig.model_validate(settings))


def test_only_clips_have_rotary_positions() -> None:
    with pytest.raises(ValueError, match="positions=rotary is for clips"):
        EncoderConfig(backbone="video_vit_small", positions="rotary")
    with pytest.raises(SettingError, match="positions=rotary is for video_vit_small"):
        Encoder(EncoderConfig(backbone="r3d_18", positions="rotary", clip_frames=4))


def test_the_momentum_of_the_target_stays() -> None:
    method = _method()
    before = [p.clone() for p in method.target.parameters()]
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter += 1
    for fraction in (0, 99):
        method.after_step(Progress(fraction, 100, 0))
    expected = 1 - 0.9**2
    for was, now in zip(before, method.target.parameters(), strict=True):
        torch.testing.assert_close(now, was + expected)


def test_the_file_of_the_authors_is_taken_whole() -> None:
    """Names as `app/vjepa/train.py` saves them, made from ours by hand."""
    method = _method()
    theirs: dict[str, dict[str, Tensor]] = {"encoder": {}, "predictor": {}, "target_encoder": {}}
    parts = {"norm": "norm1", "inwards": "attn.qkv", "outwards": "attn.proj", "mlp.0": "norm2",
             "mlp.1": "mlp.fc1", "mlp.3": "mlp.fc2"}  # fmt: skip
    for name, tensor in method.state_dict().items():
        tensor = tensor + 0.5
        if name.startswith("encoder.trunk."):
            rest, group = name.removeprefix("encoder.trunk."), "encoder"
        elif name.startswith("predictor."):
            rest, group = name.removeprefix("predictor."), "predictor"
        else:
            continue
        head = "predictor_" if group == "predictor" else ""
        if rest.startswith("blocks.blocks."):
            number, _, inner = rest.removeprefix("blocks.blocks.").partition(".")
            part, _, kind = inner.rpartition(".")
            rest = f"{head}blocks.{number}.{parts[part]}.{kind}"
        elif rest.startswith("blocks.norm."):
            rest = head + rest.removeprefix("blocks.")
        elif rest.startswith("embed."):
            rest = "patch_embed.proj." + rest.removeprefix("embed.")
            if tensor.ndim == 2:
                tensor = tensor.unflatten(1, (2, 16, 16, 3)).permute(0, 4, 1, 2, 3)
        elif rest == "unseen":
            for number, vector in enumerate(tensor):
                theirs[group][f"module.backbone.mask_tokens.{number}"] = vector[None, None]
            continue
        else:
            rest = rest.replace("project.", "predictor_embed.").replace(
                "predict.", "predictor_proj."
            )
        theirs[group][f"module.backbone.{rest}"] = tensor
    theirs["target_encoder"] = {n: t + 1 for n, t in theirs["encoder"].items()}
    other = _method()
    started = start_from(other, {"epoch": 3, "opt": {}, **theirs}, "latest.pt")
    assert not started.new
    assert not started.resized
    assert not started.unused
    wanted = method.state_dict()
    for name, tensor in other.state_dict().items():
        if name.startswith("predictor."):
            assert torch.equal(tensor, wanted[name] + 0.5), name
        elif name.startswith("encoder.trunk."):  # of both encoders the target
            assert torch.equal(tensor, wanted[name] + 0.5 + 1), name


@pytest.fixture
def both():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.VJEPA2Config(
        crop_size=SIDE, frames_per_clip=FRAMES, hidden_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=6, pred_hidden_size=48, pred_num_attention_heads=2,
        pred_num_hidden_layers=2, pred_num_mask_tokens=2, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.VJEPA2Model(config).eval()
    with torch.no_grad():  # weights of 0 and 1 would hide a wrong place
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = _method()
    started = start_from(ours, theirs.state_dict(), "VJEPA2Model")
    # a run loads its encoder before the method copies it (`started_method`)
    ours.exported.load_state_dict(ours.encoder.state_dict())
    return theirs, ours, started


def test_the_weights_of_hugging_face_go_in_and_out_with_the_same_bits(both) -> None:
    theirs, ours, started = both
    assert (started.new, started.resized, started.unused) == ([], [], [])
    out = as_vjepa2(ours.state_dict(), (2, 16, 16))
    wanted = theirs.state_dict()
    assert out.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(out[name], tensor), name
    assert all(torch.equal(t, ours.encoder.state_dict()[n])
               for n, t in ours.exported.state_dict().items())  # fmt: skip


def test_encoder_predictor_loss_and_gradients_are_those_of_hugging_face(both) -> None:
    theirs, ours, _ = both
    torch.manual_seed(1)
    clips = torch.randn(2, 3, FRAMES, SIDE, SIDE)
    whole = theirs.encoder(clips.transpose(1, 2)).last_hidden_state
    mine = ours.encoder.features(clips).flatten(2).transpose(1, 2)
    torch.testing.assert_close(mine, whole, atol=1e-5, rtol=1e-5)
    batch: dict[str, Tensor] = {"clips": clips[:, None]}
    losses = []
    for which, (name, count) in enumerate((("short", 20), ("long", 9))):
        keep = torch.stack([torch.randperm(LENGTH)[:count].sort().values for _ in clips])
        hidden = torch.ones(2, LENGTH, dtype=torch.bool).scatter(1, keep, False)
        target = hidden.nonzero()[:, 1].view(2, -1)
        batch |= {f"mask_{name}": hidden[:, None], f"keep_{name}": keep[:, None],
                  f"present_{name}": torch.ones_like(keep, dtype=torch.bool)[:, None]}  # fmt: skip
        # their encoder has no masks: its layers do
        tokens = theirs.encoder.embeddings(clips.transpose(1, 2))
        tokens = tokens.gather(1, keep[..., None].expand(-1, -1, WIDTH))
        for layer in theirs.encoder.layer:
            tokens = layer(tokens, keep)[0]
        tokens = theirs.encoder.layernorm(tokens)
        seen = ours.encoder.trunk.visible(clips, keep)
        torch.testing.assert_close(seen, tokens, atol=1e-5, rtol=1e-5)
        placed = torch.zeros(2, LENGTH, WIDTH).scatter(1, keep[..., None].expand_as(tokens), tokens)
        predicted = _predicted(theirs, placed, keep, target, which)
        places = ours.encoder.trunk.places(clips.shape[2:], clips.device)
        answer = ours.predictor(seen, keep, places, None, which)[hidden].view(2, -1, WIDTH)
        torch.testing.assert_close(answer, predicted, atol=1e-5, rtol=1e-5)
        goal = torch.nn.functional.layer_norm(whole.detach(), (WIDTH,))
        losses.append((predicted - goal[hidden].view(2, -1, WIDTH)).abs().mean())
    loss = (losses[0] + losses[1]) / 2  # each mask's mean counts alike
    found = ours(batch)["loss"]
    torch.testing.assert_close(found, loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    found.backward()
    grads = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    mine = as_vjepa2(grads, (2, 16, 16))
    wanted = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert mine.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(mine[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def _predicted(theirs: Any, placed: Tensor, keep: Tensor, target: Tensor, which: int) -> Tensor:
    """Their predictor with the mask token of this number, which its `forward` does not take."""
    embed = theirs.predictor.embeddings.forward
    theirs.predictor.embeddings.forward = lambda h, c, t: embed(h, c, t, mask_index=which)
    try:
        return theirs.predictor(placed, [keep], [target]).last_hidden_state
    finally:
        theirs.predictor.embeddings.forward = embed


@pytest.mark.parametrize("recipe", ["v_jepa2-l", "v_jepa2-h", "v_jepa2-g"])
def test_recipes_keep_rate_decay_and_momentum_after_the_warm_up(recipe: str) -> None:
    tree = read_preset(recipe)
    config = run_config(tree, find_method("v_jepa").Config)
    optimizer: Any = config.trainer.optimizer
    method: Any = config.method
    assert method.momentum == method.momentum_end == 0.99925
    assert (optimizer.schedule, optimizer.weight_decay_end) == ("constant", None)
    assert optimizer.warmup * config.trainer.steps == pytest.approx(12_000)
    assert config.encoder.positions == "rotary"


def test_a_run_is_exported_for_transformers(tmp_path: Path) -> None:
    """With its predictor, bit for bit; where transformers is installed it is also run."""
    method = _method()
    run = Folder(str(tmp_path / "run"))
    export_encoder(run, method.exported, {})
    run.write(
        "config.yaml", yaml.safe_dump({"config": {"method": {"predictor_heads": 2}}}).encode()
    )
    save_state(run, 1, {"method": method.state_dict(), "optimizer": {}}, Position())
    made = export_transformers(run.location, str(tmp_path / "out"))
    assert made.difference < 1e-5
    assert made.remark in ("", "not run: transformers is not installed")
    weights = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    back = _method()
    started = start_from(back, weights, "out")
    assert (started.new, started.resized, started.unused) == ([], [], [])
    for name, tensor in back.predictor.state_dict().items():
        assert torch.equal(tensor, method.predictor.state_dict()[name]), name
    for name, tensor in back.encoder.trunk.state_dict().items():
        assert torch.equal(tensor, method.exported.trunk.state_dict()[name]), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["pred_num_hidden_layers"], config["pred_num_mask_tokens"]) == (2, 2)
    if "not run" not in made.remark:
        transformers = pytest.importorskip("transformers")
        theirs = transformers.VJEPA2Model.from_pretrained(tmp_path / "out")
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(tensor, weights[name]), name


def test_other_encoders_are_not_for_transformers(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig(backbone="tiny", image_size=32))
    export_encoder(Folder(str(tmp_path)), encoder, {})
    with pytest.raises(InputError, match="positions=rotary"):
        export_transformers(str(tmp_path), str(tmp_path / "out"))
