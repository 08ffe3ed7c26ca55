"""Pretrained weights of a backbone: what input do they want, and can they be fetched?"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch

from marey.configs.encoder import LAB_MEAN, LAB_STD, EncoderConfig
from marey.configs.errors import InputError, SettingError
from marey.models.encoders.any_network import find_backbone, is_timm

Scale = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of RGB in [0, 1]."""
IMAGENET: Scale = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TORCHVISION = ("r3d_18", "mc3_18", "r2plus1d_18")
"""Video networks whose weights are torchvision's."""
WAIT_S = 10.0
"""Longest wait for the server of the weights: without a network its client tries for minutes."""


def with_input_scale(config: EncoderConfig) -> EncoderConfig:
    """The settings with `mean` and `std` filled in where they are unset.

    Those that the pretrained weights were trained with; ImageNet's for weights that start at
    random; those of Lab for `lab_split`.
    """
    if config.mean is not None and config.std is not None:
        return config
    if config.input == "lab_split":
        mean, std = LAB_MEAN, LAB_STD
    else:
        mean, std = scale_of_weights(config.backbone) if config.pretrained else IMAGENET
    return config.model_copy(update={"mean": config.mean or mean, "std": config.std or std})


def scale_of_weights(backbone: str) -> Scale:
    """What the default pretrained weights of a backbone were trained with; nothing is fetched."""
    if backbone in TORCHVISION:
        from torchvision.models import get_model_weights

        weights: Any = get_model_weights(backbone)
        preset = weights.DEFAULT.transforms()
        mean, std = preset.mean, preset.std
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
    import timm

    if not timm.is_model(backbone.split(".")[0]):
        return IMAGENET  # it is refused by name where it is built
    known = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    if known is None:
        return IMAGENET
    mean, std = (tuple(map(float, part)) for part in (known.mean, known.std))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def check_weights(name: str) -> None:
    """Raises SettingError for a backbone of marey, timm or torchvision without pretrained weights,
    InputError where they are not in the cache and their server does not answer within `WAIT_S`.

    Nothing is fetched. What a plugin's network does about weights is its own matter.
    """
    import timm

    if name in TORCHVISION:
        from torchvision.models import get_model_weights

        weights: Any = get_model_weights(name)
        _check_file(name, str(weights.DEFAULT.url))
    elif is_timm(name):
        known = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if known is None or not known.has_weights:
            raise SettingError(f"backbone {name!r} has no pretrained weights: set pretrained=false")
        if known.hf_hub_id:
            _check_hub(name, known)
        elif known.url:
            _check_file(name, str(known.url))
    elif find_backbone(name) is None:
        raise SettingError(f"backbone {name!r} has no pretrained weights: set pretrained=false")


def _check_file(name: str, url: str) -> None:
    """Whether torch has a file of weights in its cache, or can ask for it."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(url).path).name
    if not file.exists():
        _ask(name, url)


def _ask(name: str, url: str) -> None:
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=WAIT_S).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        raise unfetched(name, error) from error


def _check_hub(name: str, known: Any) -> None:
    """The same of weights of the Hugging Face hub. known: what timm says of them."""
    from huggingface_hub import constants, try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
    if known.hf_hub_filename:
        files = (known.hf_hub_filename, *files)
    if any(isinstance(try_to_load_from_cache(known.hf_hub_id, file), str) for file in files):
        return
    if constants.HF_HUB_OFFLINE:
        raise unfetched(name, OSError("HF_HUB_OFFLINE is set"))
    _ask(name, f"{constants.ENDPOINT}/{known.hf_hub_id}")


def unfetched(name: str, error: Exception) -> InputError:
    """The error of weights that cannot be fetched or read."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"the pretrained weights of {name!r} cannot be fetched ({reason}); set "
        "encoder.pretrained=false, or copy the cache (HF_HOME, TORCH_HOME) of a machine that has "
        "them"
    )
