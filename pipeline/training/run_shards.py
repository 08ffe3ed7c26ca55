"""A run whose method lies in shards: put together for the first process, saved, restored."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from marey.configs.errors import InputError
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method
from marey.models.objectives.distributed import rank
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import Position
from marey.pipeline.training.checkpoint import save_state, shard_name
from marey.pipeline.training.sharding import fitted, gathered, settle, shard
from marey.pipeline.training.state_shards import Listing, load_shards, save_shards
from marey.pipeline.training.weight_average import WeightAverage

PARTS = ("method", "average")
"""What of a checkpoint is a state dict of a network; `optimizer` is the rest."""


class RunShards:
    """The method and the average of a run in shards, and what rank 0 has of them whole."""

    def __init__(self, method: Method, average: WeightAverage | None, device: torch.device) -> None:
        """Shares both out, in place; they hold the same weights in every process."""
        self._device = device
        # in the host's memory, for what is probed, shown and exported
        self._copies = copy.deepcopy((method, average)) if rank() == 0 else None
        if self._copies is not None:
            _move(self._copies, torch.device("cpu"))
        shard(method, device)
        if average is not None:
            shard(average.encoder, device)
        self._method, self._average = method, average
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._writing: tuple[int, Future] | None = None

    @contextlib.contextmanager
    def whole(self) -> Iterator[tuple[Method, Encoder]]:
        """Method and exported encoder, whole on rank 0; every process calls it.

        In the others they are those in shards, which must not be called.
        """
        settle(self._method)
        states = [gathered(self._method.state_dict())]
        if self._average is not None:
            states.append(gathered(self._average.state_dict()))
        if self._copies is None:
            yield self._method, self._method.exported
            return
        method, average = self._copies
        method.load_state_dict(states[0])
        if average is not None:
            average.load_state_dict(states[1])
        _move(self._copies, self._device)
        try:
            yield method, method.exported if average is None else average.encoder
        finally:
            _move(self._copies, torch.device("cpu"))

    def save(
        self,
        run: Folder,
        step: int,
        content: Mapping[str, Any],
        refused: dict[str, int],
        position: Position,
    ) -> None:
        """Begin to write a checkpoint; the one before it is finished first.

        content: state dicts `method`, `optimizer` and, where there is one, `average`.
        """
        self.finish()
        tensors, groups = _flat(content)
        small = {"refused": refused, "optimizer_groups": groups}
        held = copy.deepcopy(position)  # training goes on

        def commit(listing: Listing) -> None:
            save_state(run, step, {**small, "shards": listing}, held)

        named = lambda number: shard_name(step, number)  # noqa: E731
        self._writing = (step, save_shards(run, named, tensors, commit, self._group))

    def finish(self) -> int:
        """Wait for the checkpoint that is being written; its step, 0 where there is none.

        Raises what went wrong in any process.
        """
        if self._writing is None:
            return 0
        step, writing = self._writing
        self._writing = None
        writing.result()
        return step


def load_sharded(
    run: Folder,
    state: Mapping[str, Any],
    method: Method,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> dict[str, Any]:
    """A checkpoint in shards read into a method and an average, whole ones or shards themselves.

    Returns the optimiser's state dict. Raises ValueError where the checkpoint is of another
    method, InputError where a file is damaged.
    """
    listing = state["shards"]
    names = set(listing["tensors"])
    content: dict[str, Any] = {"method": method.state_dict()}
    if average is not None and any(name.startswith("average.") for name in names):
        content["average"] = average.state_dict()
    tensors, _ = _flat(content)
    own = {name for name in tensors if name.startswith("method.")}
    if odd := own ^ {name for name in names if name.startswith("method.")}:
        raise ValueError(f"{len(odd)} tensors are in one of both alone, such as {min(odd)}")
    for name, tensor in tensors.items():
        if list(tensor.shape) != (size := listing["tensors"][name]["size"]):
            raise ValueError(f"{name} is {size} there and {list(tensor.shape)} here")
    kept: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name in sorted(name for name in names if name.startswith("optimizer.")):
        number, key = name.split(".")[1:]
        known = listing["tensors"][name]
        like = parameters[int(number)]
        dtype = getattr(torch, known["dtype"])
        if known["size"] == list(like.shape):
            tensor = torch.zeros_like(like, dtype=dtype, requires_grad=False)
        else:
            tensor = torch.zeros(known["size"], dtype=dtype)
        kept.setdefault(int(number), {})[key] = tensors[name] = tensor
    load_shards(run, listing, tensors)
    return {"state": kept, "param_groups": state["optimizer_groups"]}


def as_shards(
    state: Mapping[str, Any],
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> dict[str, Any]:
    """A whole checkpoint, the same in every process, in shards like those of a method's own."""
    found = dict(state)
    own: dict[str, Mapping[str, Tensor]] = {"method": method.state_dict()}
    if average is not None:
        own["average"] = average.state_dict()
    for part in PARTS:
        if part in state and part in own:
            found[part] = {
                name: fitted(tensor, own[part].get(name, tensor))
                for name, tensor in state[part].items()
            }
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = {
        number: {key: fitted(tensor, parameters[number]) for key, tensor in entries.items()}
        for number, entries in state["optimizer"]["state"].items()
    }
    found["optimizer"] = {**state["optimizer"], "state": kept}
    return found


def _flat(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[Any]]:
    """All tensors of a checkpoint by one name each, and the optimiser's groups without them."""
    tensors: dict[str, Tensor] = {}
    for part in PARTS:
        tensors |= {f"{part}.{name}": t for name, t in content.get(part, {}).items()}
    optimizer = content.get("optimizer", {"state": {}, "param_groups": []})
    for number, entries in optimizer["state"].items():
        for key, tensor in entries.items():
            if not isinstance(tensor, Tensor):
                raise InputError(f"the optimiser's {key} is {type(tensor)}, not a tensor")
            tensors[f"optimizer.{number}.{key}"] = tensor
    return tensors, optimizer["param_groups"]


def _move(copies: tuple[Method, WeightAverage | None], device: torch.device) -> None:
    method, average = copies
    method.to(device)
    if average is not None:
        average.encoder.to(device)
