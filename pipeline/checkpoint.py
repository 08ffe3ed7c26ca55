"""What a run leaves on disk: the exported encoder for the world, its state for resuming."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from configs.encoder import EncoderConfig
from configs.errors import InputError
from models.encoder import Encoder
from pipeline.plan import Position
from pipeline.storage import Folder

LATEST = "latest.json"
DESCRIPTION = "encoder"
"""Key of the description in the metadata of the weights."""
KEPT = 2
"""Checkpoints that a run keeps for resuming."""


def save_state(run: Folder, step: int, state: dict[str, Any], position: Position) -> None:
    """Write a checkpoint and then, in one rename, make it the latest.

    state: tensors, numbers and strings only, so that it loads without unpickling code.
    """
    name = f"checkpoints/step-{step:08d}.pt"
    content = {
        **state,
        "step": step,
        "position": {"below": position.below, "ahead": torch.tensor(sorted(position.ahead))},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    run.write(name, buffer.getvalue())
    run.write(LATEST, json.dumps({"checkpoint": name, "step": step}).encode())
    for old in run.names("checkpoints", ".pt")[:-KEPT]:
        run.remove(f"checkpoints/{old}")


def load_state(run: Folder) -> dict[str, Any] | None:
    """The latest checkpoint on the CPU, or None before the first."""
    if not run.exists(LATEST):
        return None
    name = json.loads(run.read(LATEST))["checkpoint"]
    return torch.load(io.BytesIO(run.read(name)), map_location="cpu", weights_only=True)


def position_of(state: dict[str, Any] | None) -> Position:
    """The samples that a checkpoint has been trained on."""
    if state is None:
        return Position()
    return Position(int(state["position"]["below"]), state["position"]["ahead"].tolist())


def own_version() -> str:
    """The version of the code that runs: that of its checkout, or of the installed package."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.is_file():
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    return importlib.metadata.version("marey")


def export_encoder(run: Folder, encoder: Encoder, provenance: dict[str, Any]) -> str:
    """Write `encoder.safetensors` and `encoder.json`; returns the digest of the weights."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()}
    config = encoder.config
    about: dict[str, Any] = {
        "format": 1,
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
        "provenance": {
            **provenance,
            "marey": own_version(),
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

    Raises InputError when the folder holds none, or when weights and description do not match.
    """
    run = Folder(location)
    if not run.exists("encoder.json"):
        raise InputError(f"{location} holds no encoder.json; is it the folder of a marey run?")
    about: dict[str, Any] = json.loads(run.read("encoder.json"))
    content = run.read("encoder.safetensors")
    digest = hashlib.sha256(content).hexdigest()
    if digest != about["sha256"]:
        about = _described(content, f"{location}/encoder.safetensors") | {"sha256": digest}
    architecture = {**about["architecture"], "pretrained": False}
    encoder = Encoder(EncoderConfig.model_validate(architecture))
    encoder.load_state_dict(safetensors.torch.load(content))
    return encoder.eval(), about
