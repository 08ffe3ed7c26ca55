"""What a run leaves for resuming: its state as tensors, the newest two kept."""

from __future__ import annotations

import io
import json
from typing import Any

import torch

from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import Position

LATEST = "latest.json"
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
