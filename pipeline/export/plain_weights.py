"""An encoder's trunk as plain weights, which timm or torchvision load without marey."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from marey.configs.errors import InputError, MareyError
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.pretrained import TORCHVISION
from marey.pipeline.export.encoders import ExportedEncoder, compared, opened
from marey.pipeline.runtime.storage import Folder

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True, slots=True)
class _Plain:
    """Weights under the names of the library that has the network."""

    weights: dict[str, Tensor]
    network: nn.Module
    """The library's own, with these weights."""
    pooled: bool
    """Whether it gives vectors; else the last of its maps is averaged."""
    usage: str
    config: dict[str, Any]


def export_plain(location: str, out: str) -> ExportedEncoder:
    """Write a folder with `model.safetensors` and timm's `config.json`, and run the library on it.

    What the library has no place for is left out, and said: the embedding head behind the trunk.
    Raises InputError for a network that neither library has.
    """
    encoder, _ = opened(location)
    library = _torchvision if encoder.config.backbone in TORCHVISION else _timm
    plain = library(encoder, out)
    reference = _Trunk(encoder)

    def run(frames: Tensor) -> Tensor:
        found = plain.network(encoder.preprocess(frames))
        return found if plain.pooled else found[-1].mean(dim=(-2, -1))

    difference = compared(reference, run, "the network of the library")  # pyright: ignore
    weights = {name: tensor.contiguous().clone() for name, tensor in plain.weights.items()}
    folder = Folder(out)
    folder.write(CONFIG, json.dumps(plain.config, indent=1).encode())
    folder.write(WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
    remark = (
        "the trunk alone: the layers behind it (pool, head, unit length) have no place there; "
        "--to torch or --to onnx writes all"
        if _has_more(encoder)
        else ""
    )
    return ExportedEncoder(plain.usage, difference, remark)


class _Trunk(nn.Module):
    """The encoder as far as a plain network goes: its trunk's last map, averaged."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.preprocess = encoder.preprocess

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.features(images).flatten(2).mean(dim=2)


def _has_more(encoder: Encoder) -> bool:
    config = encoder.config
    return bool(
        config.embedding_dim or config.pool_norm or config.unit_norm or config.pool != "average"
    )


def _timm(encoder: Encoder, out: str) -> _Plain:
    import timm

    config = encoder.config
    trunk: Any = encoder.trunk
    if config.clip_frames > 1 or config.input != "rgb" or not timm.is_model(_base(config.backbone)):
        raise InputError(
            f"neither timm nor torchvision has this network ({_described(encoder)}): "
            "write it with --to torch or --to onnx"
        )
    state = trunk.model.state_dict()
    # a plain transformer is cut by its number of blocks, and its patch tokens are averaged
    tokens = hasattr(trunk, "last")
    for arguments in _ways(encoder, trunk.model) if tokens else [{"num_classes": 0}]:
        whole = _loaded(config.backbone, arguments, state)
        if whole is None or not _same(encoder, whole[0]):
            continue
        network, weights = whole
        extra = {name: value for name, value in arguments.items() if name != "num_classes"}
        usage = (
            f'model = timm.create_model("local-dir:{out}", pretrained=True)\n'
            "# or, from the weights alone:\n"
            f'model = timm.create_model("{config.backbone}", {_written(arguments)}, '
            f'checkpoint_path="{out}/{WEIGHTS}")'
        )
        return _Plain(weights, network, True, usage, _config(encoder, extra))
    if tokens:
        raise InputError(
            f"timm's {config.backbone} computes something else with these weights: "
            "write it with --to torch or --to onnx"
        )
    levels = tuple(range(len(trunk.levels)))
    arguments: dict[str, Any] = {"features_only": True, "out_indices": levels}
    network = timm.create_model(config.backbone, **arguments).eval()
    network.load_state_dict(state)
    usage = (
        f'model = timm.create_model("{config.backbone}", {_written(arguments)})\n'
        f'model.load_state_dict(safetensors.torch.load_file("{out}/{WEIGHTS}"))  '
        "# the last of its maps is marey's"
    )
    return _Plain(state, network, False, usage, _config(encoder, {}))


def _ways(encoder: Encoder, model: nn.Module) -> list[dict[str, Any]]:
    """Arguments with which timm may build a plain transformer as the encoder has it: the patch
    tokens averaged, as many blocks, and the images' size in the way of its family."""
    from timm.models import VisionTransformer

    config = encoder.config
    arguments: dict[str, Any] = {"num_classes": 0, "global_pool": "avg"}
    if isinstance(model, VisionTransformer):
        arguments |= {"fc_norm": False}
    if config.stages:
        arguments |= {"depth": config.stages}
    sizes: list[dict[str, Any]] = [
        {"dynamic_img_size": True}, {"img_size": config.image_size}, {}
    ]  # fmt: skip
    return [arguments | size for size in sizes]


def _loaded(
    name: str, arguments: dict[str, Any], state: dict[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor]] | None:
    """timm's whole network with the trunk's weights under its own names; None where some lack.

    Feature networks flatten the names of what they wrap: `stages.0` is `stages_0` there.
    """
    import timm

    try:
        network = timm.create_model(name, **arguments).eval()
    except (TypeError, RuntimeError, ValueError):  # arguments of another family
        return None
    found = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    own = network.state_dict()
    weights = {key: found.get(key.replace(".", "_")) for key in own}
    if len(found) != len(own) or any(
        tensor is None or tensor.shape != own[key].shape for key, tensor in weights.items()
    ):
        return None
    network.load_state_dict(weights)
    return network, weights  # pyright: ignore


def _same(encoder: Encoder, network: nn.Module) -> bool:
    """Whether a network gives the vectors of the trunk, and not those of further layers."""
    try:
        compared(_Trunk(encoder), lambda frames: network(encoder.preprocess(frames)))  # pyright: ignore
    except (MareyError, RuntimeError, AssertionError):
        return False
    return True


def _torchvision(encoder: Encoder, out: str) -> _Plain:
    from torchvision.models import get_model

    config = encoder.config
    parts = ("stem", "layer1", "layer2", "layer3", "layer4")
    if config.differences:
        raise InputError(
            "torchvision has no network of frame differences: write it with --to torch or --to onnx"
        )
    if config.stages not in (None, len(parts)):
        raise InputError(
            f"torchvision's {config.backbone} has {len(parts)} stages, this encoder the first "
            f"{config.stages}: write it with --to torch or --to onnx"
        )
    weights = {
        f"{parts[int(number)]}.{rest}": tensor
        for number, _, rest in (key.partition(".") for key in encoder.trunk.state_dict())
        for tensor in [encoder.trunk.state_dict()[f"{number}.{rest}"]]
    }
    network = get_model(config.backbone, weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(weights)
    usage = (
        f"model = torchvision.models.get_model({config.backbone!r})\nmodel.fc = torch.nn.Identity()"
        f'\nmodel.load_state_dict(safetensors.torch.load_file("{out}/{WEIGHTS}"))'
    )
    return _Plain(weights, network.eval(), True, usage, _config(encoder, {}))


def _config(encoder: Encoder, arguments: dict[str, Any]) -> dict[str, Any]:
    """What timm reads beside weights in a folder (`local-dir:`), its preprocessing among it."""
    config = encoder.config
    base, _, tag = config.backbone.partition(".")
    return {
        "architecture": base,
        "num_classes": 0,
        "num_features": encoder.feature_dim,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": tag, "num_classes": 0, "input_size": [3, config.image_size, config.image_size],
            "mean": config.mean, "std": config.std, "interpolation": "bilinear", "crop_pct": 1.0,
            "crop_mode": "center", "first_conv": None, "classifier": None,
        },
    }  # fmt: skip


def _base(name: str) -> str:
    return name.partition(".")[0]


def _described(encoder: Encoder) -> str:
    config = encoder.config
    words = [f"backbone={config.backbone}"]
    words += [f"clip_frames={config.clip_frames}"] if config.clip_frames > 1 else []
    words += [f"input={config.input}"] if config.input != "rgb" else []
    return ", ".join(words)


def _written(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
