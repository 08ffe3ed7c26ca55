"""Which library decodes? One interface, so that all of them deliver the same frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from marey.configs import plugins
from marey.configs.errors import SettingError
from marey.pipeline.runtime.address import frame_folder
from marey.pipeline.video.fit import Fit, Size
from marey.pipeline.video.packet_plan import Box
from marey.pipeline.video.stats import DecodeStats
from marey.pipeline.video.timeline import Timeline


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


@dataclass(frozen=True, slots=True)
class Opening:
    """The video that a decoder is opened for. `open_decoder` explains the fields."""

    uri: str
    stream: int
    threads: int
    deadline: float
    stats: DecodeStats
    times_s: np.ndarray | None = None
    sound: bool = False


Open = Callable[[Opening], VideoDecoder]
"""How a backend opens a video. Raises InputError for a file that cannot be read."""
O = TypeVar("O", bound=Open)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Backend:
    """A way of decoding, by name."""

    name: str
    open: Open
    check: Callable[[], object] = lambda: None
    """Raises DependencyError where the library is not installed; opens nothing."""
    on_gpu: bool = False
    """Whether it decodes on a GPU: its actors are then given shares of the GPUs."""


_backends: dict[str, Backend] = {}


def register_decoder(
    name: str, *, check: Callable[[], object] = lambda: None, on_gpu: bool = False
) -> Callable[[O], O]:
    """Decorator of a function that opens videos: `data.backend=name` decodes with it.

    It takes an `Opening` and returns a `VideoDecoder`; where a library delivers whole RGB pictures,
    a `LibraryDecoder` around the function that fetches them. check, on_gpu: see `Backend`.
    Raises TypeError if another decoder has this name.
    """

    def register(open_: O) -> O:
        known = _backends.setdefault(name, Backend(name, open_, check, on_gpu))
        if _where(known.open) != _where(open_):
            raise TypeError(f"two decoders are called {name!r}: {known.open} and {open_}")
        _backends[name] = Backend(name, open_, check, on_gpu)
        plugins.bring("decoder", name, _where(open_)[0])
        return open_

    return register


def _where(open_: Open) -> tuple[str, str]:
    return getattr(open_, "__module__", ""), getattr(open_, "__qualname__", "")


def find_backend(name: str) -> Backend:
    """The backend of that name, or at a dotted name. Raises SettingError when there is none."""
    return plugins.look_up(_backends, name, "decoder", made_of=_made_of)


def _made_of(name: str, opening: Any) -> Backend:
    for known in _backends.values():
        if known.open is opening:
            return known
    if not callable(opening):
        raise SettingError(
            f"decoder {name!r} is {opening!r}; a function that opens videos is needed"
        )
    return Backend(name, cast("Open", opening))


def decodes_on_gpu(name: str) -> bool:
    """Whether a backend needs GPUs."""
    return find_backend(name).on_gpu


def check_backend(backend: str) -> None:
    """Raise DependencyError unless the library is installed; its GPU is not looked for.

    Raises SettingError where there is no backend of that name.
    """
    find_backend(backend).check()


def open_decoder(
    uri: str,
    backend: str,
    stream: int,
    threads: int,
    deadline: float,
    stats: DecodeStats,
    times_s: np.ndarray | None = None,
    sound: bool = False,
) -> VideoDecoder:
    """Open a video with the named backend.

    deadline: `stores.clock()` value after which decoding stops.
    times_s: the only times that will be asked for. In a long file a backend may then look at their
        surroundings alone, and is `partial`: what it cannot deliver needs a decoder without them.
    sound: the whole file was scanned before, and nothing was wrong with it.
    Raises InputError for a file that cannot be read, SettingError for an unknown backend,
    DependencyError for one that is not installed.
    """
    decoder = find_backend(backend)
    if place := frame_folder(uri):  # images are decoded alike, whatever decodes videos
        from marey.pipeline.video.frame_images import FrameFolderDecoder

        return FrameFolderDecoder(place, deadline, stats)
    return decoder.open(Opening(uri, stream, threads, deadline, stats, times_s, sound))


# Libraries load on use: some take seconds, some are not installed.


@register_decoder("pyav")
def _pyav(video: Opening) -> VideoDecoder:
    from marey.pipeline.video.pyav_backend import PyavDecoder

    return PyavDecoder(
        video.uri, video.stream, video.threads, video.deadline, video.stats, video.times_s,
        video.sound,
    )  # fmt: skip


def _decord_is_there() -> None:
    from marey.pipeline.video.library_backends import import_decord

    import_decord()


@register_decoder("decord", check=_decord_is_there)
def _decord(video: Opening) -> VideoDecoder:
    from marey.pipeline.video.library_backends import open_decord

    return open_decord(video.uri, video.stream, video.threads, video.deadline, video.stats)


def _torchcodec_is_there() -> None:
    from marey.pipeline.video.library_backends import import_torchcodec

    import_torchcodec()


@register_decoder("torchcodec", check=_torchcodec_is_there)
def _torchcodec(video: Opening, device: str | None = None) -> VideoDecoder:
    from marey.pipeline.video.library_backends import open_torchcodec

    return open_torchcodec(
        video.uri, video.stream, video.threads, video.deadline, video.stats, device
    )


@register_decoder("torchcodec-cuda", check=_torchcodec_is_there, on_gpu=True)
def _torchcodec_cuda(video: Opening) -> VideoDecoder:
    """Decodes on a GPU, and makes frames small there."""
    return _torchcodec(video, "cuda")
