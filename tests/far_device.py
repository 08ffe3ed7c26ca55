"""A stand-in for a GPU: tensors that say they are on one, and mix with no others.

Every machine has a CPU, few have a GPU, and what breaks on one first is a tensor made in the wrong
place. `far_device` lets code run as on a GPU: what is moved to `cuda` or made there is `Far`, with
its numbers on the CPU; an operation on tensors of both sides raises what torch raises; and every
wait of the host for the device is counted. Kernels, precision and speed stay those of the CPU.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parents[1]

_PLAIN = torch._C.DisableTorchFunctionSubclass
_MOVES = {Tensor.to, Tensor.cuda, Tensor.cpu}
_LEAVES = {Tensor.cpu, Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__,
           Tensor.__float__, Tensor.__index__, torch.equal, Tensor.equal}  # fmt: skip
"""What gives the host a value, and so waits for the device."""
_COUNTS = {torch.nonzero, Tensor.nonzero, torch.unique, Tensor.unique, torch.masked_select,
           Tensor.masked_select, torch.bincount, Tensor.bincount}  # fmt: skip
"""What gives a tensor whose size the device alone knows, and so waits for it."""
_MIXES = {
    torch._has_compatible_shallow_copy_type,  # pyright: ignore[reportPrivateImportUsage]
    Tensor.copy_,
    Tensor.data.__set__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.as_subclass,
    Tensor.__getitem__,
    Tensor.__setitem__,
    Tensor.__format__,
    Tensor.__repr__,
}
"""What torch allows on tensors of both sides; indices among them."""


class Far(Tensor):
    """A tensor that says it is on a GPU."""

    device = property(lambda self: CUDA)  # pyright: ignore
    is_cuda = property(lambda self: True)  # pyright: ignore
    is_cpu = property(lambda self: False)  # pyright: ignore

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _PLAIN():
            return func(*args, **(kwargs or {}))


def near(value: Any) -> Any:
    """The same tensors, on the CPU."""
    return tree_map(lambda t: t.as_subclass(Tensor) if isinstance(t, Far) else t, value)


def far(value: Any) -> Any:
    """The same tensors, on the device."""
    return tree_map(lambda t: t.as_subclass(Far) if type(t) is Tensor else t, value)


def _numpy(tensor: Tensor) -> Any:
    raise TypeError("can't convert cuda:0 device type tensor to numpy")


def _deep_copy(tensor: Tensor, known: dict[int, Any]) -> Tensor:
    copied = tensor.detach().clone().as_subclass(Far).requires_grad_(tensor.requires_grad)
    if isinstance(tensor, torch.nn.Parameter):
        copied._is_param = True  # what torch knows a parameter of another class by
    known[id(tensor)] = copied
    return copied


def _loaded(parameter: Tensor, saved: Tensor, assign: bool = False) -> Tensor:
    """What `load_state_dict` puts in the parameter's place: on its device."""
    return saved.detach().clone().as_subclass(Far if isinstance(parameter, Far) else Tensor)


_OWN_WAYS = {
    Tensor.numpy: _numpy,
    Tensor.module_load: _loaded,
    Tensor.__deepcopy__: _deep_copy,
    Tensor.__reduce_ex__: lambda tensor, version: near(tensor).__reduce_ex__(version),
}
"""What is done otherwise with tensors of the device; what was saved is on the CPU when read."""


class _Device(TorchFunctionMode):
    """Follows where each tensor is."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        away = any(isinstance(t, Far) for t in tensors)
        if func in _MOVES:
            return self._moved(func, args, kwargs)
        if func in _OWN_WAYS and away:
            return _OWN_WAYS[func](*args)
        kwargs.pop("pin_memory", None)
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = "cpu"
            away = torch.device(wanted).type == "cuda"
        if wanted is None or away:
            self._check(func, tensors)
        if away and self._waits_for(func, args, kwargs):
            self.waits[_caller()] += 1
        result = func(*args, **kwargs)
        return far(result) if away and not isinstance(result, torch.Size) else result

    def _check(self, func: Any, tensors: list[Tensor]) -> None:
        sides = {isinstance(t, Far) for t in tensors if t.ndim}
        if func not in _MIXES and len(sides) == 2:
            shapes = [f"{'cuda' if isinstance(t, Far) else 'cpu'} {list(t.shape)}" for t in tensors]
            name = getattr(func, "__name__", func)
            raise RuntimeError(f"{name}: tensors on cuda:0 and cpu: {', '.join(shapes)}")

    def _waits_for(self, func: Any, args: Any, kwargs: Any) -> bool:
        if func in _LEAVES or func in _COUNTS:
            return True
        if func is torch.where:
            return len(args) == 1
        if func in (torch.repeat_interleave, Tensor.repeat_interleave):
            return isinstance(args[1], Tensor) and "output_size" not in kwargs
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            return any(isinstance(p, Tensor) and p.dtype == torch.bool for p in parts)
        return False

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor, *rest = args
        kind, target = kwargs.pop("dtype", None), kwargs.pop("device", None)
        for part in rest:
            if isinstance(part, torch.dtype):
                kind = part
            elif isinstance(part, Tensor):
                kind, target = part.dtype, part.device
            elif isinstance(part, str | torch.device):
                target = part
        if func is not Tensor.to:
            target = "cpu" if func is Tensor.cpu else "cuda"
        away = isinstance(tensor, Far) if target is None else torch.device(target).type == "cuda"
        if isinstance(tensor, Far) and not away:
            self.waits[_caller()] += 1
        kwargs.pop("non_blocking", None)
        if isinstance(tensor, Far) != away:
            kwargs["copy"] = True
        with _PLAIN():
            moved = Tensor.to(tensor, dtype=kind or tensor.dtype, **kwargs)
            return moved.as_subclass(Far if away else Tensor)


def _caller() -> str:
    """The line of marey that asked, as `folder/file.py:line`."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename).resolve()  # not by way of the links in marey/
        if (
            path.is_relative_to(ROOT)
            and path != Path(__file__).resolve()
            and ".venv" not in path.parts
        ):
            return f"{path.relative_to(ROOT)}:{frame.lineno} {frame.line}"
    return "torch"


class _Autocast(torch.autocast):
    """Of the device: that of the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(device_type.replace("cuda", "cpu"), *args, **kwargs)


class _Event:
    """A moment of the device's time, which stands still."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.timed = enable_timing

    def record(self) -> None:
        """Nothing is under way."""

    def synchronize(self) -> None:
        """Nor is anything waited for."""

    def elapsed_time(self, other: _Event) -> float:
        return 0.0


@contextlib.contextmanager
def far_device() -> Iterator[Counter[str]]:
    """Inside, torch has a GPU; gives how often each line of marey waited for it."""
    health: dict[str, Any] = {
        name: lambda self: None
        for name in vars(torch.optim.Optimizer)
        if name.endswith("_health_check")
    }
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (
            torch.backends.cudnn.flags(enabled=False),
            mock.patch.multiple(
                torch.cuda,
                is_available=lambda: True,
                current_device=lambda: 0,
                Event=_Event,
                # the one generator there is
                get_rng_state=lambda device: torch.get_rng_state(),
                set_rng_state=lambda state, device: torch.set_rng_state(state),
            ),
            mock.patch.multiple(torch.optim.Optimizer, **health),
            mock.patch.object(torch, "autocast", _Autocast),
            _Device() as device,
        ):
            yield device.waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)
