"""What a method is, and which there are.

A method is one file with one class. It declares the samples it needs and the keys of its batch,
owns its objective, and knows nothing of files, Ray or the loop. The trainer calls, in this order:
`prepare` once, `before_epoch`, then for every step `augment`, `forward`, (backward, optimiser) and
`after_step`.

All randomness lies in `augment`; `forward` is a function of its batch, the weights and the buffers
(dropout apart). What outlives a step (queues, banks, momentum encoders) is a buffer or a frozen
parameter, so that a checkpoint holds it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from marey.configs import plugins
from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import Sampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run stands, for schedules inside a method."""

    step: int
    total_steps: int
    epoch: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.step / max(1, self.total_steps)


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is known of the data before the first step."""

    places: int
    """Samples of an epoch: `place` is below this."""
    classes: int = 0
    """Number of classes of `class_id`; 0 for data without labels."""


class Method(nn.Module):
    """A pretext task: encoder, heads and objective.

    Subclasses set `name`, `paper` and `Config`, take `(encoder, config)` and implement
    `augment` and `forward`. `self.encoder` is what is exported.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    """Authors, title, venue, arXiv number: one line."""
    Config: ClassVar[type[MethodConfig]]
    sees_clips: ClassVar[bool] = False
    """Whether the method can train an encoder of clips (`encoder.clip_frames` above 1)."""
    constant_lr: ClassVar[tuple[str, ...]] = ()
    """Submodules whose learning rate stays at its peak (SimSiam's predictor)."""
    local_batch_norm: ClassVar[bool] = False
    """Whether batch statistics must be each process's own (MoCo's shuffled keys), so that
    `trainer.sync_batch_norm` does not count."""

    def __init__(self, encoder: Encoder, config: MethodConfig) -> None:
        super().__init__()
        if encoder.config.clip_frames > 1 and not self.sees_clips:
            raise SettingError(
                f"{self.name} trains an encoder of single images: encoder.clip_frames must be 1, "
                f"got {encoder.config.clip_frames}"
            )
        self.encoder = encoder
        self.config = config

    @classmethod
    def samples(cls, config: MethodConfig) -> Sampling:
        """Which sampler the method needs, configured (it is asked before any weight exists)."""
        sampling = getattr(config, "sampling", None)
        if sampling is None:
            raise SettingError(f"{cls.name} declares no sampling")
        return sampling

    @property
    def chance(self) -> Mapping[str, float]:
        """Metric name -> its value without any learning; drawn as a line under its curve."""
        return {}

    @property
    def exported(self) -> Encoder:
        """The encoder that a run writes: the trained one, or a teacher's."""
        return self.encoder

    def prepare(self, corpus: Corpus) -> None:
        """Called once, before weights are restored or moved (banks, classifiers)."""

    def doubts(self, corpus: Corpus) -> tuple[str, ...]:
        """Why the task may not exist on these data, a sentence each; a run begins with them."""
        return ()

    def augment(self, batch: Batch) -> Batch:
        """Turn uint8 frames into the network's input, on the batch's device.

        Randomness comes from torch's default generators, which the trainer seeds for each step.
        """
        raise TypeError(f"{type(self).__name__} must implement augment(batch)")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The objective. Returns `loss` (scalar, with gradient) and metrics (scalars, detached)."""
        raise TypeError(f"{type(self).__name__} must implement forward(batch)")

    def before_epoch(self, progress: Progress) -> None:
        """Called before the first step of every epoch (clusterings, schedules)."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimiser step (momentum encoders, queues, banks)."""

    @property
    def has_pictures(self) -> bool:
        """Whether the method shows anything of its samples, i.e. defines `pictures`."""
        return type(self).pictures is not Method.pictures

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """What a person would like to see of these samples: name -> uint8 [B, H, W, 3].

        batch: as it arrives, before `augment`. Called now and then in evaluation mode without
        gradients, on the first samples of the run; shown in its report.
        """
        return {}

    def images(
        self,
        frames: Tensor,
        recipe: AugmentConfig,
        *,
        size: int | None = None,
        shared: int = 1,
    ) -> Tensor:
        """The encoder's input of uint8 frames, augmented: see `Encoder.augmented`."""
        return self.encoder.augmented(frames, recipe, size=size, shared=shared)

    def clips(self, frames: Tensor, recipe: AugmentConfig, *, size: int | None = None) -> Tensor:
        """The encoder's input of uint8 clips, augmented: see `Encoder.augmented_clips`."""
        return self.encoder.augmented_clips(frames, recipe, size=size)


_FAMILIES = ("temporal", "context", "contrastive")
_registry: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type[Method])


def register(method: M) -> M:
    """Class decorator: make a method known by its `name`.

    Raises TypeError for a class that is no method, says no name, paper or settings, or has the name
    of another.
    """
    _check(method)
    known = _registry.get(method.name)
    if known is not None and known.__module__ != method.__module__:
        raise TypeError(f"two methods are called {method.name!r}: {known} and {method}")
    _registry[method.name] = method
    plugins.bring("method", method.name, method.__module__)
    return method


register_method = register
"""The same by a name that says what is registered, for `marey.extend`."""


def _check(method: Any) -> None:
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise TypeError(f"{method!r} is no method: it must be a class that extends marey.Method")
    absent = [name for name in ("name", "paper", "Config") if not hasattr(method, name)]
    if absent:
        raise TypeError(f"the method {method.__name__} must set {', '.join(absent)}")
    config = method.Config
    if not (isinstance(config, type) and issubclass(config, MethodConfig)):
        raise TypeError(f"{method.__name__}.Config must extend MethodConfig, not be {config!r}")


def methods() -> dict[str, type[Method]]:
    """All methods by name: one file each in the three family folders, and those of plugins."""
    _import_families()
    plugins.load()
    return dict(sorted(_registry.items()))


@functools.cache
def _import_families() -> None:
    for family in _FAMILIES:
        package = importlib.import_module(f"marey.models.{family}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"marey.models.{family}.{module.name}")


def find_method(name: str) -> type[Method]:
    """The method of that name, or at a dotted name (`package.module:Class`).

    Raises SettingError with the nearest names when there is none.
    """
    _import_families()
    return plugins.look_up(_registry, name, "method", made_of=_made_of)


def _made_of(dotted: str, method: Any) -> type[Method]:
    try:
        _check(method)
    except TypeError as error:
        raise SettingError(f"method {dotted!r}: {error}") from error
    return method
