"""decord and torchcodec behind the reader's interface.

Both hand over finished RGB pictures, so they bring their own colour conversion, and decode whole
groups whatever is wanted. What frame is shown when is decided here as for every backend, from the
packets; the library is only asked for its k-th frame, or for the one in the middle of its time.
Pictures that torchcodec decodes on a GPU become small there: only small ones leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from av.video.frame import VideoFrame

from marey.configs.errors import DependencyError, InputError, SettingError
from marey.pipeline.runtime.stores import is_past
from marey.pipeline.video.container import VideoSource, is_remote, local_path, open_video
from marey.pipeline.video.convert import Converter
from marey.pipeline.video.display import UPRIGHT
from marey.pipeline.video.fit import Fit, Geometry, Size, plan_geometry
from marey.pipeline.video.packet_plan import Box
from marey.pipeline.video.stats import DecodeStats
from marey.pipeline.video.timeline import Timeline, scan

CHUNK = 16
"""Frames asked of a library at once; bounds the memory that its full-size pictures take."""

Fetch = Callable[[list[int]], Any]
"""Places in shown order -> uint8 [N, H, W, 3] RGB, upright: an array, or a tensor on a device."""


class Shrinker(Protocol):
    """Makes a library's pictures small."""

    def into(self, picture: Any, geometry: Geometry, out: np.ndarray) -> None:
        """Write `picture`, uint8 [H, W, 3] RGB, into `out`, uint8 [out_height, out_width, 3]."""
        ...


class ArrayConverter:
    """libswscale for pictures that are arrays."""

    def __init__(self) -> None:
        self._converter = Converter()

    def into(self, picture: np.ndarray, geometry: Geometry, out: np.ndarray) -> None:
        """Write `picture` into `out` as the geometry has it."""
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._converter.into(frame, geometry, out)


class LibraryDecoder:
    """A video whose pictures a library delivers in RGB."""

    def __init__(
        self,
        uri: str,
        stream: int,
        deadline: float,
        stats: DecodeStats,
        connect: Callable[[VideoSource, Timeline], Fetch],
        shrinker: Shrinker | None = None,
    ) -> None:
        """shrinker: makes the pictures small; by default they are arrays, and libswscale does."""
        with open_video(uri, stream) as source:
            self.timeline, _ = scan(source, deadline=deadline)
            orientation = source.container_orientation()
            self._sar = 1 / source.sar if orientation.transpose else source.sar
            self._fetch = connect(source, self.timeline)
        self.timed_out = self.partial = False
        self.damaged: set[int] = set()
        self.stats = stats
        self._deadline = deadline
        self._shrinker = shrinker or ArrayConverter()

    def __enter__(self) -> LibraryDecoder:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._fetch

    def pictures(self, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield (place in shown order, RGB picture) for each wanted place that can be had."""
        for start in range(0, len(wanted), CHUNK):
            if is_past(self._deadline):
                self.timed_out = True
                return
            places = wanted[start : start + CHUNK].tolist()
            yield from self._some(places)

    def _some(self, places: list[int]) -> Iterator[tuple[int, Any]]:
        """One call for all; if the library refuses, one by one, so that the good ones are kept."""
        try:
            yield from zip(places, self._fetch(places), strict=True)
        except (RuntimeError, ValueError, IndexError):
            self.stats.damaged += 1
            if len(places) > 1:
                for place in places:
                    yield from self._some([place])

    def output_shape(self, picture: Any, size: Size, fit: Fit, crop: Box | None) -> tuple[int, int]:
        geometry = self._geometry(picture, size, fit, crop)
        return geometry.out_height, geometry.out_width

    def convert(
        self, picture: Any, size: Size, fit: Fit, crop: Box | None, out: np.ndarray
    ) -> None:
        self._shrinker.into(picture, self._geometry(picture, size, fit, crop), out)

    def _geometry(self, picture: Any, size: Size, fit: Fit, crop: Box | None) -> Geometry:
        height, width = picture.shape[:2]
        return plan_geometry(width, height, Fraction(self._sar), UPRIGHT, size, fit=fit, box=crop)


def import_decord() -> Any:
    """The module. Raises DependencyError where it is not installed."""
    try:
        import decord
    except ImportError as error:
        raise DependencyError(
            "backend='decord' needs the package decord: pip install decord"
        ) from error
    return decord


def import_torchcodec() -> Any:
    """Its `VideoDecoder`. Raises DependencyError where it, or FFmpeg, is not installed."""
    try:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError, OSError) as error:
        raise DependencyError(
            "backend='torchcodec' needs the package torchcodec and FFmpeg's shared libraries: "
            f"pip install torchcodec, apt install ffmpeg ({str(error).splitlines()[0]})"
        ) from error
    return VideoDecoder


def open_decord(
    uri: str, stream: int, threads: int, deadline: float, stats: DecodeStats
) -> LibraryDecoder:
    """A video read with decord. It knows one video stream a file: the one it holds for the best.

    Raises DependencyError without decord, SettingError if `stream` is not the stream it reads.
    """
    decord = import_decord()

    def connect(source: VideoSource, timeline: Timeline) -> Fetch:
        file: Any = source.file or local_path(uri)
        if source.file is not None:
            source.file.seek(0)
        try:
            reader = decord.VideoReader(file, num_threads=threads)
        except (decord.DECORDError, RuntimeError) as error:
            raise InputError(
                f"{uri}: decord cannot open it ({str(error).splitlines()[0]})"
            ) from error
        context = source.stream.codec_context
        shape = reader[0].shape[:2] if len(reader) else (0, 0)
        if set(shape) != {context.height, context.width}:
            raise SettingError(
                f"{uri}: stream={stream} is {context.width}x{context.height}, decord reads another "
                f"stream of the file ({shape[1]}x{shape[0]}); use backend='pyav'"
            )
        begins = np.arange(len(timeline.pts))
        if len(timeline.second):
            begins = begins[~timeline.second]
        everything = begins[np.argsort(timeline.pts[begins], kind="stable")]
        ordinal = np.zeros(len(timeline.pts), dtype=np.int64)
        ordinal[everything] = np.arange(len(everything))

        # After a seek decord shows broken pictures where a group refers to the one before.
        open_groups = timeline.has_open_groups
        next_one = 1  # its first frame was read above

        def walk(k: int) -> np.ndarray:
            nonlocal next_one
            if k < next_one:
                reader.seek(0)
                next_one = 0
            while next_one < k:
                reader.next()
                next_one += 1
            next_one += 1
            return reader.next().asnumpy()

        def fetch(places: list[int]) -> np.ndarray:
            wanted = places if timeline.by_order else ordinal[timeline.shown[places]].tolist()
            try:
                if open_groups:
                    return np.stack([walk(k) for k in wanted])
                return reader.get_batch(wanted).asnumpy()
            except decord.DECORDError as error:
                raise RuntimeError(str(error)) from error

        return fetch

    return LibraryDecoder(uri, stream, deadline, stats, connect)


def open_torchcodec(
    uri: str,
    stream: int,
    threads: int,
    deadline: float,
    stats: DecodeStats,
    device: str | None = None,
) -> LibraryDecoder:
    """A video read with torchcodec, on the CPU or, with `device="cuda"`, by the GPU's decoder.

    device: where pictures are decoded and made small; None decodes on the CPU, for libswscale.
    Raises DependencyError without torchcodec, FFmpeg's libraries, or the device.
    """
    VideoDecoder = import_torchcodec()
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise DependencyError("backend='torchcodec-cuda' needs a CUDA device, none was found")
    shrinker: Shrinker = ArrayConverter()
    if device is not None:
        from marey.pipeline.video.area import AreaConverter

        shrinker = AreaConverter()

    def connect(source: VideoSource, timeline: Timeline) -> Fetch:
        file: Any = local_path(uri) if not is_remote(uri) else _read_all(source)
        try:
            decoder = VideoDecoder(
                file,
                stream_index=source.stream.index,
                dimension_order="NHWC",
                num_ffmpeg_threads=threads,
                device=device or "cpu",
                seek_mode="exact",
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{uri}: torchcodec cannot open it ({str(error).splitlines()[0]})"
            ) from error
        # Frames that an edit list hides would shift the count: there the time is asked for.
        ends = np.append(timeline.times_s[1:], timeline.end_s)
        middle = timeline.start_s + (timeline.times_s + ends) / 2

        whole = len(timeline.shown) == len(timeline.pts)

        def fetch(places: list[int]) -> Any:
            if whole or timeline.by_order:
                got = decoder.get_frames_at(places).data
            else:
                got = decoder.get_frames_played_at(middle[places].tolist()).data
            return got if device else got.numpy()

        return fetch

    return LibraryDecoder(uri, stream, deadline, stats, connect, shrinker)


def _read_all(source: VideoSource) -> bytes:
    assert source.file is not None
    source.file.seek(0)
    return source.file.read()
