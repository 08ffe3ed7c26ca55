"""Which library decodes? One interface, so that all of them deliver the same frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol, get_args

import numpy as np

from marey.configs.errors import SettingError
from marey.pipeline.video.fit import Fit, Size
from marey.pipeline.video.packet_plan import Box
from marey.pipeline.video.stats import DecodeStats
from marey.pipeline.video.timeline import Timeline

BackendName = Literal["pyav", "decord", "torchcodec", "torchcodec-cuda"]
"""pyav is the default and the fastest on CPUs; the others are optional."""
ON_GPU = "torchcodec-cuda"
"""The backend that decodes on a GPU and makes frames small there."""


class VideoDecoder(Protocol):
    """One open video stream. A picture is whatever the library decodes into.

    damaged: places whose frames were held back because they may show damage.
    """

    timeline: Timeline
    partial: bool
    damaged: set[int]

    @property
    def timed_out(self) -> bool:
        """Whether decoding ended at its deadline."""
        ...

    def pictures(self, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield (place in shown order, picture) for each of the wanted places that can be had.

        wanted: int64, ascending, each once.
        """
        ...

    def output_shape(self, picture: Any, size: Size, fit: Fit, crop: Box | None) -> tuple[int, int]:
        """(height, width) in which `convert` delivers."""
        ...

    def convert(
        self, picture: Any, size: Size, fit: Fit, crop: Box | None, out: np.ndarray
    ) -> None:
        """Write `picture` into `out`, uint8 [height, width, 3] RGB, upright."""
        ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *exc: object) -> None: ...


def check_backend(backend: BackendName) -> None:
    """Raise DependencyError unless the library is installed; its GPU is not looked for."""
    if backend == "decord":
        from marey.pipeline.video.library_backends import import_decord

        import_decord()
    elif backend != "pyav":
        from marey.pipeline.video.library_backends import import_torchcodec

        import_torchcodec()


def open_decoder(
    uri: str,
    backend: BackendName,
    stream: int,
    threads: int,
    deadline: float,
    stats: DecodeStats,
    times_s: np.ndarray | None = None,
    sound: bool = False,
) -> VideoDecoder:
    """Open a video with the named backend.

    deadline: `time.monotonic()` value after which decoding stops.
    times_s: the only times that will be asked for. In a long file a backend may then look at their
        surroundings alone, and is `partial`: what it cannot deliver needs a decoder without them.
    sound: the whole file was scanned before, and nothing was wrong with it.
    Raises InputError for a file that cannot be read, SettingError for an unknown backend,
    DependencyError for one that is not installed.
    """
    if backend == "pyav":
        from marey.pipeline.video.pyav_backend import PyavDecoder

        return PyavDecoder(uri, stream, threads, deadline, stats, times_s, sound)
    if backend == "decord":
        from marey.pipeline.video.library_backends import open_decord

        return open_decord(uri, stream, threads, deadline, stats)
    if backend in ("torchcodec", "torchcodec-cuda"):
        from marey.pipeline.video.library_backends import open_torchcodec

        device = "cuda" if backend == ON_GPU else None
        return open_torchcodec(uri, stream, threads, deadline, stats, device)
    raise SettingError(f"backend={backend!r}: allowed are {', '.join(get_args(BackendName))}")
