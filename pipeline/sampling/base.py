"""What a sample is made of and what a sampler promises.

A sampler looks at index rows only, never at pixels. It tells how many samples an event gives (the
same in every epoch) or why it gives none, and plans them from a generator keyed by
(seed, epoch, event), so that plans do not depend on workers, order or restarts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from configs.sampling import StackSettings
from pipeline.index import Event, Video

MAX_CLOCK_GAP = 0.5
"""Synchronised views count as simultaneous within this share of a frame period."""


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
    """A family of samples, configured."""

    num_frames: int
    """Frames in every sample."""

    def count(self, event: Event) -> tuple[int, str]:
        """Samples that the event gives in an epoch, and the reason code when there are none."""
        ...

    def plan(self, event: Event, rng: np.random.Generator) -> list[SampleRequest]:
        """Exactly `count(event)` requests."""
        ...


def event_rng(seed: int, epoch: int, event_id: str) -> np.random.Generator:
    """The generator of one event in one epoch: a pure function of its three keys."""
    key = int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, key])))


def frame_time(video: Video, number: np.ndarray | int) -> np.ndarray:
    """Seconds at the middle of frame `number`'s showing, at the nominal frame rate.

    The middle, so that rounding never moves a request to the frame before.
    """
    return (np.asarray(number, dtype=np.float64) + 0.5) / video.fps


def shots(video: Video) -> list[tuple[int, int]]:
    """Runs of frames without a cut: [first, stop) frame numbers, in order, none empty."""
    edges = [0, *sorted({round(cut * video.fps) for cut in video.cuts}), video.frames]
    inside = [min(max(edge, 0), video.frames) for edge in edges]
    return [(a, b) for a, b in pairwise(inside) if b > a]


def stacked(times_s: np.ndarray, config: StackSettings) -> np.ndarray:
    """Every time, [N], with those that its stack looks back to, [N stack]; each stack in order."""
    back = np.arange(config.stack - 1, -1, -1) * config.stack_s
    return (times_s[:, None] - back).ravel()


def stack_reach(video: Video, config: StackSettings) -> int:
    """Frames before frame n that the stack ending at n needs."""
    return max(0, int(np.ceil(config.look_back_s * video.fps - 0.5 - 1e-6)))


def stack_spaced(video: Video, config: StackSettings) -> bool:
    """Whether the frames of a stack differ: nearer than a frame period they would repeat."""
    return config.stack == 1 or config.stack_s * video.fps >= 0.999


def target_arrays(event: Event, views: np.ndarray, times_s: np.ndarray) -> dict[str, np.ndarray]:
    """The targets that every sample carries: `time_s` in the event's clock and `view`."""
    offsets = np.array([video.clock_offset_s for video in event.videos])
    rates = np.array([video.clock_rate for video in event.videos])
    reference = (times_s - offsets[views]) / rates[views]
    return {"time_s": reference.astype(np.float32), "view": views.astype(np.int64)}


def usable(event: Event) -> str:
    """Empty when some video of the event can be sampled, else the reason code."""
    if any(video.frames > 0 and video.fps > 0 for video in event.videos):
        return ""
    return event.videos[0].status if event.videos else "missing_view"
