"""A run's tensors in shards: every process writes its own, and any number of processes reads them.

Who writes and reads what is planned by `torch.distributed.checkpoint`; the files are safetensors
under the run's location, a local folder or an object store, and the list of them is plain data:
nothing is unpickled. Each process writes one file; what all hold alike is in that of rank 0.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future as Done
from typing import Any, cast

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from marey.configs.errors import InputError
from marey.models.objectives.distributed import world_size
from marey.pipeline.runtime.storage import Folder

Listing = dict[str, Any]
"""What there is: `files`, of each its `sha256` and `bytes`; `tensors`, of each its `size`, `dtype`
and `chunks`, which are lists of offsets, sizes, and the file's name."""


def save_shards(
    run: Folder,
    named: Callable[[int], str],
    tensors: Mapping[str, Tensor],
    commit: Callable[[Listing], None],
    group: dist.ProcessGroup | None,
) -> Done:
    """Write the shards of `tensors` while training goes on; every process calls it.

    They are copied to the CPU first, so that what comes after may change them. named: the file of
    each process's shard, by its rank. commit: called on
    rank 0 when all are written; until then nothing refers to them. group: of gloo, for this alone.
    The result raises what went wrong in any process.
    """
    writer = _Writer(run, named, commit)
    # what all hold alike comes from rank 0, as DDP would have it
    planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    done = async_save(dict(tensors), storage_writer=writer, planner=planner, process_group=group)
    return cast(Done, done)


def load_shards(
    run: Folder, listing: Listing, tensors: Mapping[str, Tensor], *, alone: bool = False
) -> None:
    """Fill `tensors`, whole ones or shards, in place; every process calls it, or one `alone`.

    Raises InputError where a file is gone, altered or does not hold what is wanted.
    """
    single = alone or world_size() == 1
    try:
        with warnings.catch_warnings():
            if single:  # which is meant
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(
                dict(tensors),
                storage_reader=_Reader(run, listing),
                planner=DefaultLoadPlanner(),
                no_dist=single,
            )
    except CheckpointException as error:
        reasons = [fault for fault, _ in error.failures.values()]
        first = next((r for r in reasons if isinstance(r, InputError)), reasons[0])
        raise InputError(" ".join(str(first).split())[:300]) from error


def read_part(run: Folder, listing: Listing, part: str) -> dict[str, Tensor]:
    """The whole tensors of one part of a state (`method`, `average`), in this process alone."""
    known = {n: t for n, t in listing["tensors"].items() if n.startswith(f"{part}.")}
    empty = {
        name: torch.empty(tensor["size"], dtype=getattr(torch, tensor["dtype"]))
        for name, tensor in known.items()
    }
    load_shards(run, listing, empty, alone=True)
    return {name.removeprefix(f"{part}."): tensor for name, tensor in empty.items()}


class _Writer(StorageWriter):
    def __init__(
        self, run: Folder, named: Callable[[int], str], commit: Callable[[Listing], None]
    ) -> None:
        self._folder, self._named, self._commit = run, named, commit

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [
            dataclasses.replace(plan, storage_data=self._named(number))
            for number, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        tensors, known = {}, []
        for item in plan.items:
            tensor = planner.resolve_data(item)
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{item.index.fqn} is {type(tensor)}, not a tensor")
            tensors[_key(item.index.fqn, item.index.offset)] = tensor.detach().contiguous()
            known.append((item.index, tensor.numel() * tensor.element_size()))
        file = {}
        if tensors:
            packed = safetensors.torch.save(tensors)
            self._folder.write(plan.storage_data, packed)
            digest = hashlib.sha256(packed).hexdigest()
            file = {"name": plan.storage_data, "sha256": digest, "bytes": len(packed)}
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(index, size, file) for index, size in known])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files: dict[str, dict[str, Any]] = {}
        of: dict[str, str] = {}
        for result in (result for part in results for result in part):
            file = result.storage_data
            files[file["name"]] = {"sha256": file["sha256"], "bytes": file["bytes"]}
            of[_key(result.index.fqn, result.index.offset)] = file["name"]
        tensors = {}
        for name, entry in metadata.state_dict_metadata.items():
            if not isinstance(entry, TensorStorageMetadata):
                raise TypeError(f"{name} is not a tensor")
            chunks = [
                [list(c.offsets), list(c.sizes), of[_key(name, c.offsets)]] for c in entry.chunks
            ]
            kind = str(entry.properties.dtype).removeprefix("torch.")
            tensors[name] = {"size": list(entry.size), "dtype": kind, "chunks": chunks}
        self._commit({"files": files, "tensors": tensors})

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class _Reader(StorageReader):
    def __init__(self, run: Folder, listing: Listing) -> None:
        self._folder, self._listing = run, listing
        self._of: dict[str, str] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        entries = {}
        for name, known in self._listing["tensors"].items():
            dtype = getattr(torch, known["dtype"])
            chunks = []
            for offsets, sizes, file in known["chunks"]:
                chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
                self._of[_key(name, torch.Size(offsets))] = file
            entries[name] = TensorStorageMetadata(
                TensorProperties(dtype=dtype), torch.Size(known["size"]), chunks
            )
        return Metadata(entries)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        wanted = defaultdict(list)
        for item in plan.items:
            key = _key(item.storage_index.fqn, item.storage_index.offset)
            wanted[self._of[key]].append((key, item))
        for file, items in wanted.items():
            tensors = self._read(file)  # one file at a time: together they may be gigabytes
            for key, item in items:
                part = tensors[key]
                for axis, (start, length) in enumerate(
                    zip(item.storage_offsets, item.lengths, strict=True)
                ):
                    part = part.narrow(axis, start, length)
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, name: str) -> dict[str, Tensor]:
        content = self._folder.read(name)
        if hashlib.sha256(content).hexdigest() != self._listing["files"][name]["sha256"]:
            raise InputError(
                f"{self._folder.join(name)} is damaged: it is not the file that was written"
            )
        return safetensors.torch.load(content)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def _key(name: str, offset: torch.Size | None) -> str:
    """A chunk's name in its file: of a tensor that is whole, the tensor's."""
    return name if not offset or not any(offset) else f"{name}@{','.join(map(str, offset))}"
