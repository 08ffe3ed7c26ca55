"""What a run leaves for resuming: its state as tensors. The two newest checkpoints are kept."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from marey import __version__
from marey.configs.errors import InputError
from marey.models.encoders.momentum import own_share
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import Position

LATEST = "latest.json"
KEPT = 2
"""Checkpoints that a run keeps for resuming."""
FORMAT, SHARDED = 1, 2
"""Of what `save_state` writes, whole and with tensors in shards; checkpoints without the number
were written by format 1 too."""


def save_state(run: Folder, step: int, state: dict[str, Any], position: Position) -> None:
    """Write a checkpoint and then, in one rename, make it the latest.

    state: tensors, numbers and strings only, so that it loads without unpickling code; with
    `shards`, the listing of its tensors' files, which are written before. Its weights must be
    finite (see `is_finite`): what is written here replaces the older checkpoints.
    """
    name = _name(step)
    content = {
        **state,
        "format": SHARDED if "shards" in state else FORMAT,
        "marey": __version__,
        "step": step,
        "position": {"below": position.below, "ahead": torch.tensor(sorted(position.ahead))},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    packed = buffer.getvalue()
    digests = {**_digests(run), name: hashlib.sha256(packed).hexdigest()}
    run.write(name, packed)
    # later ones were damaged, or the run would not have gone on from before them
    before = [old for old in _names(run) if old < name]
    kept = [*before[len(before) - (KEPT - 1) :], name]
    latest = {
        "checkpoint": name, "step": step, "sha256": digests[name],
        "digests": {old: digests[old] for old in kept if old in digests},
    }  # fmt: skip
    run.write(LATEST, json.dumps(latest).encode())
    for old in _names(run):
        if old > name or old in before[: len(before) - (KEPT - 1)]:
            run.remove(old)
    for shard in run.names("checkpoints", ".safetensors"):
        if f"checkpoints/{shard.partition('.')[0]}.pt" not in kept:
            run.remove(f"checkpoints/{shard}")


def load_state(run: Folder) -> dict[str, Any] | None:
    """The newest whole checkpoint on the CPU, or None before the first.

    One that is truncated, altered or holds NaN is passed over for the one before it; what was wrong
    with it is listed under the key `passed_over`. Where it has `shards`, `method`, `optimizer`
    and `average` are in files of their own (`state_shards`). Raises InputError when none is
    whole, or when a newer version of marey wrote them.
    """
    names = _names(run)
    latest = _latest(run)
    if not names and latest is None:
        return None
    passed: list[str] = []
    digests = _digests(run)
    for name in reversed(names):
        if latest is not None and name > latest["checkpoint"]:
            continue  # a kill came before it was made the latest
        content = run.read(name)
        wanted = digests.get(name)
        if wanted and hashlib.sha256(content).hexdigest() != wanted:
            passed.append(f"{name} is damaged: it is not the file that was written")
            continue
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            step, number = int(state["step"]), int(state.get("format", 1))
        except Exception as error:  # zip, pickle and torch raise errors of many unrelated kinds
            reason = str(error).split("\n")[0] or type(error).__name__
            passed.append(f"{name} is damaged: {reason}")
            continue
        if number > SHARDED:
            raise InputError(
                f"{run.join(name)} was written by marey {state.get('marey', '(newer)')} in format "
                f"{number}; this is marey {__version__}, which reads up to {SHARDED}: update marey"
            )
        if "shards" in state:
            if lost := _absent(run, state["shards"]["files"]):
                passed.append(f"{name} is damaged: {lost} is gone or cut short")
                continue
        elif not is_finite((weights(state["method"]), state["optimizer"])):
            passed.append(f"{name} (step {step}) holds NaN or infinity")
            continue
        return {**state, "passed_over": passed}
    gone = f"{latest['checkpoint']} is gone" if latest else ""
    raise InputError(
        f"{run.location} has no whole checkpoint left ({'; '.join(passed) or gone}); restore one "
        "from a backup, or start a new run with another -o"
    )


def _name(step: int) -> str:
    return f"checkpoints/step-{step:08d}.pt"


def shard_name(step: int, number: int) -> str:
    """The file of a process's shard of a checkpoint."""
    return f"checkpoints/step-{step:08d}.rank-{number:05d}.safetensors"


def _absent(run: Folder, files: Mapping[str, Any]) -> str:
    """The name of a shard that is gone or cut short; empty where all are there."""
    lost = (name for name, known in files.items() if run.size(name) != known["bytes"])
    return next(lost, "")


def _names(run: Folder) -> list[str]:
    """The checkpoints of a run, oldest first."""
    return [f"checkpoints/{name}" for name in run.names("checkpoints", ".pt")]


def _latest(run: Folder) -> dict[str, Any] | None:
    """What `latest.json` says; None where it is absent or damaged: the newest file counts then."""
    if not run.exists(LATEST):
        return None
    try:
        latest = json.loads(run.read(LATEST))
        return latest if isinstance(latest["checkpoint"], str) else None
    except (ValueError, KeyError, TypeError):
        return None


def _digests(run: Folder) -> dict[str, str]:
    """SHA-256 of the checkpoints that `latest.json` knows; earlier versions noted the latest."""
    latest = _latest(run) or {}
    known = latest.get("digests")
    own = {latest["checkpoint"]: latest["sha256"]} if latest.get("sha256") else {}
    return {**(known if isinstance(known, dict) else {}), **own}


def method_weights(run: Folder, state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The method's state dict of a checkpoint, whole, also where it was written in shards."""
    if "shards" not in state:
        return state["method"]
    from marey.pipeline.training.state_shards import read_part  # a second and a half to import

    return read_part(run, state["shards"], "method")


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a network's state dict what training must keep finite: weights and running statistics.

    Buffers of other names may hold infinities on purpose (places of a memory bank not yet seen).
    """
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {name: t for name, t in state.items() if name.rpartition(".")[2] in kinds}


def is_finite(state: Any) -> bool:
    """Whether all numbers of a tree of tensors are finite. The host waits for the device once."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in _floats(state):
        by_device.setdefault(tensor.device, []).append(torch.isfinite(tensor).all())
    return all(bool(torch.stack(flags).all()) for flags in by_device.values())


def _floats(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        if tree.is_floating_point():
            yield own_share(tree)
    elif isinstance(tree, Mapping):
        for branch in tree.values():
            yield from _floats(branch)
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _floats(branch)


def position_of(state: dict[str, Any] | None) -> Position:
    """The samples that a checkpoint has been trained on."""
    if state is None:
        return Position()
    return Position(int(state["position"]["below"]), state["position"]["ahead"].tolist())
