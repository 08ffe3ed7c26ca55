"""What a run leaves for the world: `encoder.safetensors` and `encoder.json`, written and read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import safetensors
import safetensors.torch
import torch

from marey import __version__
from marey.configs import plugins
from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError, SettingError
from marey.configs.load import check
from marey.models.encoders.encoder import Encoder
from marey.pipeline.runtime.storage import Folder

FORMAT = 1
"""Of what `export_encoder` writes."""
DESCRIPTION = "encoder"
"""Key of the description in the metadata of the weights."""


def export_encoder(run: Folder, encoder: Encoder, provenance: dict[str, Any]) -> str:
    """Write `encoder.safetensors` and `encoder.json`; returns the digest of the weights."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()}
    config = encoder.config
    brought = plugins.bringer("backbone", config.backbone)
    about: dict[str, Any] = {
        "format": FORMAT,
        "architecture": config.model_dump(mode="json"),
        "out_dim": encoder.out_dim,
        "preprocessing": {
            "resize_short_side": config.image_size,
            "center_crop": config.image_size,
            "clip_frames": config.clip_frames,
            "clip_step_s": config.clip_step_s,
            "mean": config.mean,
            "std": config.std,
            "range": [0, 1],
            "channels": "RGB" if config.input == "rgb" else "CIE Lab",
        },
        "plugins": [brought] if brought else [],
        "provenance": {
            **provenance,
            "marey": __version__,
            "torch": torch.__version__,
        },
    }
    # also inside the weights: whoever reads between the two writes below has a whole encoder
    content = safetensors.torch.save(tensors, {DESCRIPTION: json.dumps(about)})
    digest = hashlib.sha256(content).hexdigest()
    run.write("encoder.safetensors", content)
    run.write("encoder.json", json.dumps(about | {"sha256": digest}, indent=1).encode())
    return digest


def _described(content: bytes, name: str) -> dict[str, Any]:
    """What weights say of themselves. Raises InputError where they do not."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return json.loads(header["__metadata__"][DESCRIPTION])
    except (ValueError, KeyError) as error:
        raise InputError(f"{name} is not the file that encoder.json beside it names") from error


def load_encoder(location: str) -> tuple[Encoder, dict[str, Any]]:
    """The encoder of a run folder, in evaluation mode, and what `encoder.json` says of it.

    Raises InputError when the folder holds none, when weights and description do not match or are
    damaged, or when another version of marey wrote what this one cannot build; UsageError
    when it needs a plugin that nobody has allowed (see `configs.plugins`).
    """
    run = Folder(location)
    if not run.exists("encoder.json"):
        raise InputError(f"{location} holds no encoder.json; is it the folder of a marey run?")
    content = run.read("encoder.safetensors")
    digest = hashlib.sha256(content).hexdigest()
    try:
        about: dict[str, Any] = json.loads(run.read("encoder.json"))
        wanted = about.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError):
        about, wanted = {}, ""
    if wanted != digest:
        described = _described(content, f"{location}/encoder.safetensors")
        if described == about:  # the very export: a kill between its writes leaves an older one
            raise InputError(
                f"{location}/encoder.safetensors is damaged: it is not the file that was written"
            )
        about = described
    about["sha256"] = digest
    written_by = f"marey {about.get('provenance', {}).get('marey', '(unknown)')}"
    if about.get("format", FORMAT) > FORMAT:
        raise InputError(
            f"{location} holds an encoder of {written_by} in format {about['format']}; this is "
            f"marey {__version__}, which reads up to {FORMAT}: update marey"
        )
    plugins.need(about.get("plugins", []), f"{location}/encoder.json")
    try:
        architecture = {**about["architecture"], "pretrained": False}
        encoder = Encoder(check(EncoderConfig, architecture, "encoder."))
    except (KeyError, TypeError, SettingError) as error:
        raise InputError(
            f"{location} holds an encoder of {written_by} that marey {__version__} cannot build: "
            f"{error}"
        ) from error
    try:
        encoder.load_state_dict(safetensors.torch.load(content))
    except (safetensors.SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{location}/encoder.safetensors is damaged, or not of the encoder that is described "
            f"beside it ({written_by}): {reason}"
        ) from error
    return encoder.eval(), about
