"""Do small maps on CPUs have the sums and gradients of any other, whatever lay in memory before?"""

import copy
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from marey.configs.encoder import EncoderConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.small_maps import suit_small_maps, taps_met
from marey.pipeline.embedding.encoder_files import load_encoder
from marey.pipeline.training import run_state
from marey.pipeline.training.launch import prepare, run_training
from tests.corpora import encode_corpus
from tests.test_train import make_config


def foul_memory() -> None:
    """Leave NaN in memory that is given out again."""
    kept = [
        torch.full((1 << size,), float("nan")) for size in (12, 14, 16, 18, 20) for _ in "123456"
    ]
    del kept


def gradients(network: nn.Module, images: Tensor, half: bool) -> list[Tensor]:
    network.zero_grad()
    images = images.clone().requires_grad_()
    foul_memory()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        maps = network(images)
    maps.float().square().mean().backward()
    assert images.grad is not None
    return [images.grad, *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


SHAPES = {
    "two frames": (nn.Conv3d(16, 16, 3, padding=1), (4, 16, 2, 8, 8)),
    "two frames, time alone": (nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0)), (4, 16, 2, 7, 7)),
    "one column": (nn.Conv2d(32, 32, 3, 2, padding=1), (16, 32, 4, 1)),
    "one place": (nn.Conv2d(32, 32, 3, 2, padding=1, bias=False), (16, 32, 1, 1)),
    "two by two, grouped": (nn.Conv2d(32, 32, 3, padding=1, groups=4), (16, 32, 2, 2)),
    "dilated": (nn.Conv2d(32, 32, 3, padding=2, dilation=2), (16, 32, 2, 2)),
    "large": (nn.Conv3d(16, 16, 3, padding=1), (2, 16, 4, 8, 8)),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_gradients_are_those_of_float32(name: str) -> None:
    convolution, shape = SHAPES[name]
    network = nn.Sequential(copy.deepcopy(convolution))
    suit_small_maps(network)
    torch.manual_seed(0)
    images = torch.randn(shape)
    for found, wanted in zip(
        gradients(network, images, True), gradients(convolution, images, False), strict=True
    ):
        assert (found - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("name", list(SHAPES))
def test_the_module_stays_what_it_was(name: str) -> None:
    convolution, shape = SHAPES[name]
    network = nn.Sequential(copy.deepcopy(convolution))
    suit_small_maps(network)
    assert [*network.state_dict()] == [f"0.{key}" for key in convolution.state_dict()]
    images = torch.randn(shape)
    torch.testing.assert_close(network(images), convolution(images))
    with torch.autocast("cpu", torch.bfloat16):  # one picture without a batch
        torch.testing.assert_close(network(images[0]), convolution(images[0]))
    foreign = copy.deepcopy(network)  # as momentum encoders are made
    assert torch.equal(foreign(images), network(images))


def test_taps_left_out_met_nothing() -> None:
    """Sums and all gradients in float64 are those of the whole kernel."""
    lengths, kernels, strides, paddings = (1, 2, 3, 4), (1, 2, 3, 5, 7), (1, 2, 3), (0, 1, 2, 3)
    for length, kernel, stride, padding in product(lengths, kernels, strides, paddings):
        if kernel > length + 2 * padding:
            continue  # no place for this kernel
        whole = nn.Conv2d(3, 4, (kernel, 3), (stride, 1), (padding, 1)).double()
        suited = nn.Sequential(copy.deepcopy(whole))
        suit_small_maps(suited)
        images = torch.randn(2, 3, length, 5).double()
        found, wanted = (summed(network, images) for network in (suited, whole))
        torch.testing.assert_close(found, wanted, msg=f"{length=} {kernel=} {stride=} {padding=}")


def summed(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The output, and the gradients of its squares, of images and parameters."""
    images = images.clone().requires_grad_()
    output = network(images)
    output.square().sum().backward()
    grads = [tensor.grad for tensor in (images, *network.parameters())]
    return [output.detach(), *(grad for grad in grads if grad is not None)]


def test_one_tap_of_nine_meets_a_single_place() -> None:
    assert taps_met(1, 3, 1, 1) == (1, 2)
    assert taps_met(2, 3, 2, 1) == (1, 3)
    assert taps_met(2, 3, 1, 1) == (0, 3)
    assert taps_met(1, 7, 2, 3) == (3, 4)


def test_wide_small_maps_have_channels_first() -> None:
    """The sums are those of channels last."""
    whole = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)  # pyright: ignore
    suited = nn.Sequential(copy.deepcopy(whole))
    suit_small_maps(suited)
    images = torch.randn(4, 256, 4, 4).contiguous(memory_format=torch.channels_last)
    assert suited(images).is_contiguous()
    found, wanted = (summed(network, images) for network in (suited, whole))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backbone", ["tiny_r3d", "tiny_r2plus1d"])
def test_encoders_of_clips_are_guarded(backbone: str) -> None:
    """Eight frames come down to two."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(backbone=backbone, clip_frames=8, image_size=64))
    suit_small_maps(encoder)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)  # blocks begin as their shortcuts: with no gradient inside
    clips = torch.randn(4, 3, 8, 64, 64)
    names = [name for name, _ in encoder.named_parameters()]
    for _ in range(3):
        half, full = (gradients(encoder, clips, on)[1:] for on in (True, False))
        for name, found, wanted in zip(names, half, full, strict=True):
            assert torch.isfinite(found).all()
            if name.startswith("trunk.3.second"):  # the maps of two frames
                assert (found - wanted).norm() < 0.3 * wanted.norm(), name


def test_an_encoder_has_the_convolutions_of_torch_and_can_be_exported() -> None:
    """What is off unless training on a CPU asks for it must not stand in anybody's way."""
    encoder = Encoder(EncoderConfig(stages=2, image_size=32)).eval()
    kinds = {type(module) for module in encoder.modules() if isinstance(module, nn.Conv2d)}
    assert kinds == {nn.Conv2d}
    images = torch.randn(2, 3, 32, 32)
    program = torch.export.export(encoder, (images,)).module()
    torch.testing.assert_close(program(images), encoder(images))
    first = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    torch.testing.assert_close(torch.jit.script(first)(images), first(images))
    torch.testing.assert_close(torch.jit.trace(encoder, images)(images), encoder(images))


def test_training_on_a_cpu_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the trainer's encoder, and in none that a run has written."""
    suited: list[nn.Module] = []
    monkeypatch.setattr(run_state, "suit_small_maps", suited.append)
    index = encode_corpus(tmp_path / "videos", events=2)
    config = make_config()
    run_training(prepare(config, str(index), str(tmp_path / "run")), engine="local")
    assert [type(module) for module in suited] == [Encoder]
    loaded, _ = load_encoder(str(tmp_path / "run"))
    assert {type(m) for m in loaded.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
