"""A folder of numbered images as a video: image number k is shown from k / fps.

Numbers that are missing are gaps: the image before one is shown until the next. As in every video,
times count from the first frame shown, whatever its number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from marey.configs.errors import InputError
from marey.pipeline.runtime.address import FrameFolder
from marey.pipeline.runtime.storage import Folder, is_companion, is_remote, local_path
from marey.pipeline.runtime.stores import is_past
from marey.pipeline.video.container import MAX_PIXELS
from marey.pipeline.video.convert import Converter
from marey.pipeline.video.display import UPRIGHT
from marey.pipeline.video.fit import Fit, Geometry, Size, chroma_grain, plan_geometry
from marey.pipeline.video.packet_plan import Box
from marey.pipeline.video.stats import DecodeStats
from marey.pipeline.video.timeline import Timeline

CODECS = {
    ".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png", ".webp": "webp", ".bmp": "bmp",
    ".tif": "tiff", ".tiff": "tiff",
}  # fmt: skip
"""File endings of frames, and the decoder of each."""
_NUMBERED = re.compile(r"(.*?)(\d+)(\.[A-Za-z]+)")


class FrameImages:
    """The images of a folder in the order of their numbers.

    numbers: int64 [F], ascending. names: of the files. left_out: images that have no number.
    """

    def __init__(self, place: FrameFolder) -> None:
        """Raises InputError for a folder that is absent, has no numbered image or two series."""
        self.place = place
        self.folder = Folder(place.location)
        found: dict[int, str] = {}
        heads: dict[str, str] = {}
        self.left_out: list[str] = []
        for name in self.folder.names():
            match = _NUMBERED.fullmatch(name)
            if is_companion(name) or not name.lower().endswith(tuple(CODECS)):
                continue
            if match is None:
                self.left_out.append(name)
                continue
            number = int(match[2])
            heads.setdefault(match[1], name)
            if number in found or len(heads) > 1:
                other = found.get(number, next(iter(heads.values())))
                raise InputError(
                    f"{place.uri}: holds more than one series of images ({other}, {name}); "
                    "give each a folder of its own"
                )
            found[number] = name
        if not found:
            raise InputError(f"{place.uri}: holds no numbered image")
        self.numbers = np.array(sorted(found), dtype=np.int64)
        self.names = [found[number] for number in self.numbers.tolist()]

    def sizes(self) -> np.ndarray:
        """int64 [F]: bytes of each file."""
        return np.array([self.folder.size(name) for name in self.names], dtype=np.int64)

    def timeline(self, sizes: np.ndarray | None = None) -> Timeline:
        """When each image is shown; every one can be decoded by itself. sizes: bytes of each."""
        count = len(self.numbers)
        tick = 1 / Fraction(self.place.fps).limit_denominator(10**6)
        times_s = (self.numbers - self.numbers[0]) * tick.numerator / tick.denominator
        end_s = float((self.numbers[-1] - self.numbers[0] + 1) * tick.numerator / tick.denominator)
        order = np.arange(count)
        return Timeline(
            tick, self.numbers, self.numbers, np.ones(count, dtype=bool),
            np.zeros(count, dtype=np.int64) if sizes is None else sizes, order, times_s,
            end_s, by_order=False,
            damaged=order[:0] if sizes is None else np.flatnonzero(sizes == 0),
        )  # fmt: skip

    def decode(self, number: int) -> VideoFrame | None:
        """The image at a place of the order; None where it cannot be decoded."""
        name = self.names[number]
        if self._leads_out(name):
            return None
        codec = CODECS[name[name.rindex(".") :].lower()]
        context: Any = av.CodecContext.create(codec, "r")
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_PIXELS)}
        try:
            packet = av.Packet(self.folder.read(name))
            pictures = [*context.decode(packet), *context.decode(None)]
        except (FFmpegError, InputError, ValueError, EOFError):
            return None
        return pictures[0] if pictures else None

    def _leads_out(self, name: str) -> bool:
        """Whether an image is a link out of its folder: roots are checked of the folder alone."""
        if is_remote(self.place.location):
            return False
        home = os.path.realpath(local_path(self.place.location))
        return not os.path.realpath(os.path.join(home, name)).startswith(f"{home}/")


class FrameFolderDecoder:
    """A `VideoDecoder` of a folder of frames."""

    partial = False

    def __init__(self, place: FrameFolder, deadline: float, stats: DecodeStats) -> None:
        """Raises InputError as `FrameImages` does."""
        self.images = FrameImages(place)
        self.timeline = self.images.timeline()
        self.damaged: set[int] = set()
        self.timed_out = False
        self.stats = stats
        self._deadline = deadline
        self._converter = Converter(place.uri)

    def __enter__(self) -> FrameFolderDecoder:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def pictures(self, wanted: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (place in shown order, picture) for each of the wanted places that can be had."""
        for place in wanted.tolist():
            if is_past(self._deadline):
                self.timed_out = True
                return
            self.stats.packets += 1
            picture = self.images.decode(place)
            if picture is None:
                self.damaged.add(place)
                self.stats.damaged += 1
                continue
            self.stats.decoded += 1
            yield place, picture

    @cached_property
    def _begins_with(self) -> tuple[int, int]:
        """Width and height of the first image that can be decoded: all frames come out as it."""
        first = next(filter(None, map(self.images.decode, range(len(self.images.names)))), None)
        return (first.width, first.height) if first else (0, 0)

    def _geometry(self, picture: VideoFrame, size: Size, fit: Fit, crop: Box | None) -> Geometry:
        if not isinstance(size, tuple) and (picture.width, picture.height) != self._begins_with:
            first = plan_geometry(*self._begins_with, Fraction(1), UPRIGHT, size, fit=fit, box=crop)
            size = first.out_height, first.out_width
        return plan_geometry(
            picture.width, picture.height, Fraction(1), UPRIGHT, size, fit=fit, box=crop,
            grain=chroma_grain(picture),
        )  # fmt: skip

    def output_shape(
        self, picture: VideoFrame, size: Size, fit: Fit, crop: Box | None
    ) -> tuple[int, int]:
        """(height, width) in which `convert` delivers."""
        geometry = self._geometry(picture, size, fit, crop)
        return geometry.out_height, geometry.out_width

    def convert(
        self, picture: VideoFrame, size: Size, fit: Fit, crop: Box | None, out: np.ndarray
    ) -> None:
        """Write `picture` into `out`, uint8 [height, width, 3] RGB."""
        geometry = self._geometry(picture, size, fit, crop)
        self._converter.into(picture, geometry, out)
