"""What one training step costs, without allocating it: operations and peak memory of tensors.

The networks are built with parameters that have shapes and no numbers, and a step is run on fake
tensors (torch's `FakeTensorMode`): the same operations in the same order as a real one, each of
which is counted. `TensorMemory` counts real tensors too, so that the two can be compared.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from marey.configs.errors import MareyError
from marey.configs.schema import RunConfig
from marey.models.batch import Batch
from marey.models.encoders.recompute import recompute_blocks
from marey.models.method import Corpus, Method
from marey.pipeline.training.job import build_method

DRAWN = 6
"""Samples that are augmented to see what a step gets."""
OPTIMIZER_TENSORS = {"adamw": 2, "sgd": 1, "lars": 1}
"""Tensors of a parameter's shape that an optimiser remembers."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Of one forward and backward pass of a process."""

    samples: int
    flops: int
    """Multiplications and additions, of matrix products, convolutions and attention."""
    peak_bytes: int
    """Of tensors: weights, buffers, gradients, the optimiser's state and activations."""


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, while they live; `peak` is the most."""

    def __init__(self, begin: int = 0) -> None:
        """begin: bytes that are there already."""
        super().__init__()
        self.now = self.peak = begin
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage(), before)
        return result

    def _count(self, storage: Any, before: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in before:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def skeleton(config: RunConfig, corpus: Corpus) -> Method:
    """The method with parameters that have no numbers (on `meta`), and what it remembers likewise.

    What it augments with is real.
    """
    try:
        with _parameters_on_meta():
            method = build_method(config, fetch=False)
    except (RuntimeError, NotImplementedError) as error:  # it tries its networks as it is built
        raise _unknown(config.name) from error
    if config.trainer.recompute:
        recompute_blocks(method.encoder)
    with torch.device("meta"):
        method.prepare(corpus)
    return method.train()


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            empty = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            module._parameters[name] = empty

    buffer = nn.Module.register_buffer

    def statistics_on_meta(
        module: nn.Module, name: str, tensor: Tensor | None, persistent: bool = True
    ) -> None:
        # batch statistics stay beside the weights: some networks are tried as they are built
        own = isinstance(module, nn.modules.batchnorm._NormBase)
        buffer(
            module, name, tensor.to("meta") if own and tensor is not None else tensor, persistent
        )

    with (
        mock.patch.object(nn.Module, "register_parameter", on_meta),
        mock.patch.object(nn.Module, "register_buffer", statistics_on_meta),
    ):
        yield


def augmented(method: Method, sample: Batch) -> Batch:
    """What the method's `augment` makes of some such samples; sample: a batch of one.

    Of several, since methods that hide different amounts fill up to the largest. Raises MareyError
    for a method that augments with its networks.
    """
    several = {name: torch.cat([t] * DRAWN) for name, t in sample.items()}
    for name in ("instance", "place"):
        several[name] = torch.arange(DRAWN)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            return method.augment(several)
        except (RuntimeError, NotImplementedError) as error:
            if "meta" not in str(error):
                raise
            raise _unknown(method.name) from error


def _unknown(name: str) -> MareyError:
    return MareyError(
        f"a step of {name} depends on what its networks have learned, and cannot be told before"
    )


def step_cost(method: Method, example: Batch, samples: int, config: RunConfig) -> StepCost:
    """Count one step of a process that has this many samples.

    method: a `skeleton`; example: of `augmented`. `trainer.precision` counts as on a GPU where
    `trainer.device` is not cpu.
    """
    trainer = config.trainer
    half = trainer.precision == "bf16" or (trainer.precision == "auto" and trainer.device != "cpu")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        tensors = _fake_copies(method, mode)
        batch = {
            name: torch.empty((samples, *t.shape[1:]), dtype=t.dtype) for name, t in example.items()
        }
    own = _bytes([*tensors.values()])
    state = OPTIMIZER_TENSORS[trainer.optimizer.name] * sum(
        tensors[name].untyped_storage().nbytes()
        for name, p in method.named_parameters()
        if p.requires_grad
    )
    memory = TensorMemory(own + state + _bytes([*batch.values()]))
    flops = FlopCounterMode(display=False, custom_mapping=attention_of_cpus())
    with mode, memory, flops, torch.autocast("cpu", torch.bfloat16, enabled=half):
        try:
            values = torch.func.functional_call(method, tensors, (batch,))
        except DataDependentOutputException as error:
            raise _unknown(config.name) from error
        values["loss"].backward()
    return StepCost(samples, flops.get_total_flops(), memory.peak)


def _fake_copies(method: Method, mode: FakeTensorMode) -> dict[str, Tensor]:
    """A fake tensor on the CPU for each parameter and buffer."""
    found: dict[str, Tensor] = {}
    for name, parameter in method.named_parameters():
        fake = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype)
        found[name] = fake.requires_grad_(parameter.requires_grad)
    for name, buffer in method.named_buffers():
        found[name] = torch.empty_strided(buffer.shape, buffer.stride(), dtype=buffer.dtype)
    return found


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def attention_of_cpus() -> dict[Any, Any]:
    """How torch's fused attention on CPUs counts, which its counter leaves out."""
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten
    forward = getattr(aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    backward = getattr(aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
    mapping: dict[Any, Any] = {}
    if forward is not None and forward not in flop_registry:
        mapping[forward] = lambda query, key, value, *_, **__: _attention(query, key, value)
        # two products again for the scores and values, and two of each for their gradients
        mapping[backward] = lambda _, query, key, value, *__, **___: (
            5 * _attention(query, key, value) // 2
        )
    return mapping


def _attention(query: Any, key: Any, value: Any) -> int:
    """query, key, value: shapes [B, heads, L, width]."""
    count, heads, length, width = query
    return 2 * count * heads * length * key[2] * (width + value[3])
