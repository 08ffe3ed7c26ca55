"""Which encoder has that name? A run's, or a baseline that every trained encoder must beat.

A baseline is an encoder like any other, so that its figures come from the same code: `pixels`,
`histogram`, a supervised timm trunk (`timm:NAME`, `timm:NAME@WEIGHTS` for a local file), and any
network at `package.module:function`, with the weights that it comes with.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs import plugins
from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError, SettingError
from marey.models.encoders.encoder import Encoder
from marey.pipeline.embedding.encoder_files import load_encoder
from marey.pipeline.runtime.storage import Folder, absolute

TIMM = "timm:"
NETWORK_SIZE = 224
"""Side in pixels at which a network in a module is given images, normalised as for ImageNet."""


class Pixels(nn.Module):
    """The image itself: 32x32, grey, each image with mean 0 and variance 1."""

    image_size = 32
    out_dim = 32 * 32

    def preprocess(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float [N, 3, 32, 32] in [0, 1]."""
        images = frames.permute(0, 3, 1, 2).float() / 255
        return functional.interpolate(images, (self.image_size,) * 2, mode="area")

    def forward(self, images: Tensor) -> Tensor:
        """float [N, 3, 32, 32] -> float [N, 1024]."""
        luma = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        grey = (images * luma).sum(dim=1).flatten(1)
        centred = grey - grey.mean(dim=1, keepdim=True)
        # below 3/255 an image is blank, and dividing would only enlarge its noise
        return centred / centred.std(dim=1, correction=0, keepdim=True).clamp(min=3 / 255)


class Histogram(nn.Module):
    """How much there is of each colour: 8x8x8 bins of RGB, summing to 1, square roots taken.

    The product of two such vectors is the Hellinger (Bhattacharyya) kernel of the histograms.
    """

    image_size = 128
    out_dim = 8**3

    def preprocess(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> uint8 [N, 3, H, W]."""
        return frames.permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float [N, 512], unit length."""
        level = (images.long() >> 5).flatten(2)
        bins = 64 * level[:, 0] + 8 * level[:, 1] + level[:, 2]
        count = torch.zeros(len(images), self.out_dim, device=images.device)
        count.scatter_add_(1, bins, torch.ones_like(bins, dtype=count.dtype))
        return (count / bins.shape[1]).sqrt()


_BY_NAME: dict[str, type[Pixels] | type[Histogram]] = {"pixels": Pixels, "histogram": Histogram}


def encoder_location(name: str) -> str:
    """A run folder as a location that every process understands; a baseline's name as it is.

    name: what a person has typed, which allows the module that it may name (`configs.plugins`).
    """
    if name in _BY_NAME:
        return name
    if name.startswith(TIMM):
        model, _, weights = name.partition("@")
        return f"{model}@{absolute(weights)}" if weights else name
    return plugins.allow_name(name) if is_network(name) else absolute(name)


def is_network(name: str) -> bool:
    """Whether a name is that of a network in a module, and no folder."""
    return plugins.is_dotted(name) and not name.startswith(TIMM) and not Path(name).exists()


def open_encoder(name: str) -> tuple[Any, dict[str, Any]]:
    """The encoder of a run folder or a baseline, in evaluation mode, and what is known of it.

    The module has `preprocess`, `forward` and `out_dim`; an `Encoder` also `features`. The
    description is that of `encoder.json`. Raises InputError for what is neither.
    """
    if name in _BY_NAME:
        module = _BY_NAME[name]()
        return module.eval(), {
            "architecture": {"backbone": name, "image_size": module.image_size},
            "out_dim": module.out_dim,
            "preprocessing": {"resize_short_side": module.image_size, "channels": "RGB"},
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
        }
    if name.startswith(TIMM):
        return _timm(*name.removeprefix(TIMM).partition("@")[::2])
    if is_network(name):
        # weights that it draws at random must be the same in every process
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _described(Encoder(EncoderConfig(backbone=name, image_size=NETWORK_SIZE)))
    return load_encoder(name)


def _timm(model: str, weights: str) -> tuple[Encoder, dict[str, Any]]:
    """A timm trunk, its last map averaged, with timm's own weights or those of a file."""
    import timm

    try:
        known: Any = timm.create_model(model, pretrained=False)
    except RuntimeError as error:
        raise SettingError(f"{TIMM}{model}: {error}") from error
    settings = known.pretrained_cfg
    config = EncoderConfig(
        backbone=model,
        pretrained=not weights,
        image_size=settings["input_size"][-1],
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )
    encoder = Encoder(config)
    if weights:
        load_trunk(encoder.trunk.model, _read_weights(weights), known.state_dict(), weights)  # pyright: ignore
    return _described(encoder)


def _described(encoder: Encoder) -> tuple[Encoder, dict[str, Any]]:
    """The encoder in evaluation mode, and what `encoder.json` would say of it."""
    config = encoder.config
    digest = hashlib.sha256()
    for tensor in encoder.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return encoder.eval(), {
        "architecture": config.model_dump(mode="json"),
        "out_dim": encoder.out_dim,
        "preprocessing": {
            "resize_short_side": config.image_size, "mean": config.mean, "std": config.std,
            "channels": "RGB",
        },
        "sha256": digest.hexdigest(),
    }  # fmt: skip


NETWORKS = ("state_dict", "model", "model_state_dict", "teacher")
"""Names under which training programs keep a network's tensors; the first that is there counts."""


def _read_weights(location: str) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a state dict that torch saved."""
    parent, _, file = location.replace("\\", "/").rpartition("/")
    content = Folder(parent or ".").read(file)
    try:
        if file.endswith(".safetensors"):
            return safetensors.torch.load(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise errors of many unrelated kinds
        raise InputError(f"{location}: not readable as weights: {error}") from error
    while isinstance(state, dict):
        inside = [name for name in NETWORKS if isinstance(state.get(name), dict)]
        if not inside:
            break
        state = state[inside[0]]
    if not isinstance(state, dict) or not state:
        raise InputError(f"{location}: holds no state dict (names and tensors)")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{location}: holds no state dict (names and tensors), itself or under "
            f"{', '.join(NETWORKS)}; it has {', '.join(map(str, list(state)[:6]))}"
        )
    return state


def load_trunk(
    trunk: nn.Module, found: dict[str, Tensor], whole: dict[str, Tensor], location: str
) -> None:
    """Load a trunk from a state dict of the whole timm network, or of another code base's.

    whole: the network's own state dict, of any weights. Of its tensors only those of the trunk are
    needed: a classifier may be absent or have other classes. Feature networks rename what they wrap
    (`stages.0.norm` is `stages_0.norm` there). Raises InputError where names and shapes do not fit.
    """
    state = trunk.state_dict()
    full_names = {_flat(name): name for name in whole}
    names = {own: full_names.get(_flat(own), own) for own in state}
    needed = {names[own]: tensor for own, tensor in state.items()}
    found = _without_prefix(found, needed) or _in_order(found, whole, needed, location)
    trunk.load_state_dict({own: found[name] for own, name in names.items()})


def _without_prefix(
    found: dict[str, Tensor], needed: dict[str, Tensor]
) -> dict[str, Tensor] | None:
    """The tensors by their names within the network; None where it is not found under one prefix
    (`module.`, `backbone.`, `module.encoder_q.`: the first that fits)."""
    probe = next(iter(needed))
    for name in found:
        prefix = name.removesuffix(probe)
        if name != prefix and all(
            prefix + key in found and found[prefix + key].shape == tensor.shape
            for key, tensor in needed.items()
        ):
            return {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
    return None


def _flat(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _in_order(
    found: dict[str, Tensor],
    whole: dict[str, Tensor],
    needed: dict[str, Tensor],
    location: str,
) -> dict[str, Tensor]:
    """Tensors under timm's names, by their order.

    Other code bases name the same layers otherwise but list them in the same order; order counts
    only where number, shapes and the last part of every name (weight, running_mean) all agree.
    """
    pairs = list(zip(whole, found, strict=False))
    fits = len(found) == len(whole) and all(
        whole[key].shape == found[other].shape and key.split(".")[-1] == other.split(".")[-1]
        for key, other in pairs
    )
    if not fits:
        absent = [key for key in needed if key not in found]
        other = [key for key in needed if key in found and found[key].shape != needed[key].shape]
        raise InputError(
            f"{location}: is not of this timm model: of the {len(needed)} tensors needed "
            f"{len(absent)} are absent and {len(other)} have other shapes "
            f"(e.g. {', '.join([*absent, *other][:3])})"
        )
    return {key: found[other] for key, other in pairs}
