"""A run that starts from weights that exist: `encoder.weights`, read without running code."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import nn

from marey.configs.errors import InputError
from marey.configs.schema import RunConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.start_from import Started, start_from
from marey.models.method import Method, find_method
from marey.pipeline.runtime.storage import Folder, split

ENCODER = "encoder.safetensors"
"""What a run folder is read for."""


def started_method(config: RunConfig) -> tuple[Method, Started]:
    """Encoder and method of the run's seed, with the weights of `encoder.weights`; what fitted.

    The encoder is loaded first, so that momentum encoders begin as copies of it. Raises InputError
    where the file cannot be read or does not fit.
    """
    where = config.encoder.weights or ""
    content = read_weights(where)
    torch.manual_seed(config.trainer.seed)
    encoder = Encoder(config.encoder)
    start_from(_Holder(encoder), content, where)
    method = find_method(config.name)(encoder, config.method)
    return method, start_from(method, content, where)


class _Holder(nn.Module):
    """An encoder under the name that it has in a method."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder


def read_weights(location: str) -> Mapping[str, object]:
    """The tensors of a file, or of a run folder: safetensors, or what `torch.save` wrote.

    Only tensors and plain values are unpickled. Raises InputError where there is no such file, it
    is damaged, or it holds objects.
    """
    folder, name = split(location)
    run = Folder(location)
    if run.exists(ENCODER):
        folder, name = location, ENCODER
    if not Folder(folder).exists(name):
        raise InputError(
            f"encoder.weights={location}: no such file; give a safetensors file, a state dict "
            "written by torch.save, or the folder of a run"
        )
    content = Folder(folder).read(name)
    try:
        if name.endswith(".safetensors"):
            return safetensors.torch.load(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"encoder.weights={location} holds more than tensors, which would run code ({reason}); "
            "save its state dict alone, best as safetensors"
        ) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"encoder.weights={location} is damaged: {reason}") from error
    if not isinstance(found, Mapping):
        raise InputError(f"encoder.weights={location} holds {type(found)}, not a state dict")
    return found
