"""What a sample is made of and what a sampler promises.

A sampler looks at index rows only, never at pixels. It tells how many samples an event gives (the
same in every epoch) or why it gives none, and plans them from a generator keyed by
(seed, epoch, event), so that plans do not depend on workers, order or restarts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from marey.configs.errors import InputError
from marey.configs.sampling import Sampling, register_kind
from marey.pipeline.data.events import Event, Video

LACKS = ("single_frame", "too_short", "frame_rate_too_low", "no_motion")
"""Why a view gives no sample, in the order in which it is checked."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleRequest:
    """The frames of one sample, by view and time, and what the loss needs beside them.

    views: int64 [F], positions in `event.videos`.
    times_s: float64 [F], presentation times in each view's own clock.
    targets: arrays of a fixed shape, e.g. `time_s` float32 [F] in the event's clock.
    """

    views: np.ndarray
    times_s: np.ndarray
    targets: dict[str, np.ndarray]


class Sampler(Protocol):
    """A family of samples, configured: built from its settings alone."""

    @property
    def num_frames(self) -> int:
        """Frames in every sample."""
        ...

    def count(self, event: Event) -> tuple[int, str]:
        """Samples that the event gives in an epoch, and the reason code when there are none."""
        ...

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Exactly `count(event)` requests."""
        ...


_samplers: dict[str, Callable[[Any], Sampler]] = {}
C = TypeVar("C", bound=Callable[[Any], Sampler])


def register_sampler(settings: type[Sampling]) -> Callable[[C], C]:
    """Class decorator: make a sampler, and the settings that it takes, known by their `kind`.

    Raises TypeError for settings without a `kind`, or with that of others.
    """
    kind = register_kind(settings).model_fields["kind"].default

    def register(sampler: C) -> C:
        _samplers[kind] = sampler
        return sampler

    return register


def build_sampler(settings: Sampling) -> Sampler:
    """The sampler of a method's sampling settings.

    Raises InputError for a kind that no sampler finds in videos (`tracks`: it has to be mined).
    """
    if settings.kind not in _samplers:
        raise InputError(
            f"samples of kind {settings.kind!r} are not planned, they are mined: first run "
            f"`marey mine INDEX -o SHARDS --kind {settings.kind}` and give SHARDS as --data"
        )
    return _samplers[settings.kind](settings)


def event_rng(seed: int, epoch: int, event_id: str) -> np.random.Generator:
    """The generator of one event in one epoch: a pure function of its three keys."""
    key = int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, key])))


def target_arrays(event: Event, views: np.ndarray, times_s: np.ndarray) -> dict[str, np.ndarray]:
    """The targets that every sample carries: `time_s` in the event's clock and `view`."""
    offsets = np.array([video.clock_offset_s for video in event.videos])
    rates = np.array([video.clock_rate for video in event.videos])
    reference = (times_s - offsets[views]) / rates[views]
    return {"time_s": reference.astype(np.float32), "view": views.astype(np.int64)}


def one_view(event: Event, view: int, times_s: np.ndarray, **targets: np.ndarray) -> SampleRequest:
    """A sample whose frames are all of one view, with `targets` beside those of every sample.

    times_s: float64 [F], in the view's own clock.
    """
    views = np.full(len(times_s), view)
    return SampleRequest(views, times_s, target_arrays(event, views, times_s) | targets)


def usable(event: Event) -> str:
    """Empty when some video of the event can be sampled, else the reason code."""
    for video in event.videos:
        if video.has_frames:
            return ""
    return event.videos[0].status if event.videos else "missing_view"


def no_room(video: Video) -> str:
    """The reason code of a view in which nothing that takes time fits."""
    return "single_frame" if video.frames == 1 else "too_short"


def count_views(event: Event, per_video: int, lacks: list[str]) -> tuple[int, str]:
    """The count of an event whose views give `per_video` samples each, or none.

    lacks: for each view why it gives none, of `LACKS`, or empty. Where no view gives any, the
    event's reason is that of the view which came nearest to it.
    """
    reason = usable(event)
    if reason:
        return 0, reason
    giving = lacks.count("")
    return (giving * per_video, "") if giving else (0, max(lacks, key=LACKS.index))
