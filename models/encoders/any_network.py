"""Any network as a trunk: a function that returns an `nn.Module`, by its name or where it is.

The network maps images to a feature map, to maps of several resolutions, or to one vector; a
network for clips maps clips to either. How many channels that has is found by running one black
image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from marey.configs import plugins
from marey.configs.errors import MareyError, SettingError
from marey.models.encoders.modes import evaluating
from marey.models.encoders.trunk import Level, Trunk, kept_stages

Maker = Callable[..., nn.Module]
M = TypeVar("M", bound=Maker)


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network that somebody has registered, or named by where it is."""

    name: str
    make: Maker
    clips: bool = False


_backbones: dict[str, Backbone] = {}


def register_backbone(name: str, *, clips: bool = False) -> Callable[[M], M]:
    """Decorator of a function (or class) that makes a network: `encoder.backbone=name` takes it.

    It is called with those of `in_channels`, `image_size`, `pretrained`, `stages` and (of clips)
    `frames` that it has as parameters. The network maps float [N, C, S, S] to a map [N, D, h, w],
    to several, finest first, or to vectors [N, D]; with `clips`, float [N, 3, T, S, S] to a map
    [N, D, t, h, w] or to vectors. Raises TypeError if another network has this name.
    """

    def register(make: M) -> M:
        known = _backbones.setdefault(name, Backbone(name, make, clips))
        if _where(known.make) != _where(make):
            raise TypeError(f"two backbones are called {name!r}: {known.make} and {make}")
        _backbones[name] = Backbone(name, make, clips)
        plugins.bring("backbone", name, make.__module__)
        return make

    return register


def registered() -> list[str]:
    """Names of the backbones that have been registered."""
    return list(_backbones)


def find_backbone(name: str) -> Backbone | None:
    """The network of that name, or at a dotted name; None for timm's, and where there is none.

    Plugins are imported where nothing else has the name. Raises SettingError where what a dotted
    name stands for cannot be called; see `plugins.resolve`.
    """
    if name in _backbones:
        return _backbones[name]
    if not plugins.is_dotted(name):
        if not is_timm(name):
            plugins.load()
        return _backbones.get(name)
    make = plugins.resolve(name, "backbone")
    if not callable(make):
        raise SettingError(
            f"backbone {name!r} is {make!r}: a function that returns an nn.Module is needed"
        )
    return Backbone(name, cast("Maker", make))


def is_timm(name: str) -> bool:
    """Whether timm has a network of that name (perhaps with weights: `name.weights`)."""
    import timm

    return timm.is_model(name.split(".")[0])


def build_network(
    backbone: Backbone,
    *,
    stages: int | None,
    pretrained: bool,
    in_channels: int,
    image_size: int,
    frames: int | None = None,
) -> tuple[NetworkTrunk, int]:
    """The network as a trunk, and the channels of its last map.

    frames: of a clip, for a network of clips. Raises SettingError for a setting that the function
    does not take, and for a network that cannot be run, or gives something else.
    """
    given = {"in_channels": in_channels, "image_size": image_size, "pretrained": pretrained,
             "stages": stages, "frames": frames}  # fmt: skip
    takes = _parameters(backbone)
    for name, usual in (("in_channels", 3), ("pretrained", False)):
        if given[name] != usual and name not in takes:
            raise SettingError(
                f"backbone {backbone.name!r} is asked for {name}={given[name]}, and its function "
                f"has no parameter {name}"
            )
    network = backbone.make(**{name: value for name, value in given.items() if name in takes})
    if not isinstance(network, nn.Module):
        raise SettingError(f"backbone {backbone.name!r} made {type(network)}, not an nn.Module")
    side = (image_size, image_size)
    shape = (1, in_channels, *side) if frames is None else (1, in_channels, frames, *side)
    trunk = NetworkTrunk(network, backbone.name, torch.zeros(shape))
    if stages is not None and "stages" not in takes:
        trunk.keep(kept_stages(backbone.name, stages, len(trunk.levels)))
    return trunk, trunk.levels[-1].channels


class NetworkTrunk(Trunk):
    """A network of others as a trunk: `levels` are found by running `example`, all black.

    Vectors [N, D] count as maps of one place.
    """

    keeps_layout = True  # a network of others may use `view`, which needs plain tensors

    def __init__(self, network: nn.Module, name: str, example: Tensor) -> None:
        super().__init__()
        self.network = network
        self._name = name
        self._kept: int | None = None
        try:
            with torch.random.fork_rng(devices=[]), evaluating(self):
                maps = self.pyramid(example)
        except MareyError:
            raise
        except Exception as error:  # a network of others may raise anything
            raise SettingError(
                f"backbone {name!r} cannot be run on float {list(example.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        self.levels = tuple(_level(one, example) for one in maps)

    def keep(self, stages: int) -> None:
        """Give the first maps only."""
        self._kept = stages
        self.levels = self.levels[:stages]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        found: Any = self.network(images.contiguous())
        listed = list(found) if isinstance(found, list | tuple) else [found]
        maps = [self._map(one, images) for one in listed]
        if not maps:
            raise SettingError(f"backbone {self._name!r} gives no map")
        return maps[: self._kept]

    def _map(self, one: Any, images: Tensor) -> Tensor:
        """One of the network's results as a map."""
        if isinstance(one, Tensor) and len(one) == len(images) and one.is_floating_point():
            if one.ndim == images.ndim:
                return one
            if one.ndim == 2:
                return one.reshape(*one.shape, *[1] * (images.ndim - 2))
        wanted = "[N, D, h, w]" if images.ndim == 4 else "[N, D, t, h, w]"
        got = f"{one.dtype} {list(one.shape)}" if isinstance(one, Tensor) else str(type(one))
        raise SettingError(
            f"backbone {self._name!r} gives {got} for {list(images.shape)}: float maps {wanted}, "
            "a list of them, or vectors [N, D] are needed"
        )


def _level(one: Tensor, example: Tensor) -> Level:
    return Level(one.shape[1], max(1, example.shape[-1] // one.shape[-1]))


def _parameters(backbone: Backbone) -> set[str]:
    """The names that can be given to the function that makes a network."""
    try:
        return {
            name
            for name, one in inspect.signature(backbone.make).parameters.items()
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        }
    except (TypeError, ValueError):  # built in: no signature is known
        return set()


def _where(make: Maker) -> tuple[str, str]:
    return make.__module__, getattr(make, "__qualname__", type(make).__qualname__)
